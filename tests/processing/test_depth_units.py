"""Median, range and coverage of measured depth, and the refusal of what cannot be metres."""

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import DepthReport, DepthSample, check_units, depth_report


def sample_of(depth):
    depth = np.asarray(depth, dtype=np.float32)
    return DepthSample(Image.new("RGB", depth.shape[::-1]), depth, None, "sample")


def report_of(median):
    return DepthReport(median=median, nearest=median / 2, farthest=2 * median, valid_share=0.5, num_samples=4)


def test_a_report_counts_measured_pixels_alone():
    report = depth_report([sample_of([[1.0, 0.0, 4.0, np.nan]]), sample_of([[2.0, 3.0, 8.0, np.inf]])])
    assert report == DepthReport(median=3.0, nearest=1.0, farthest=8.0, valid_share=5 / 8, num_samples=2)
    assert str(report) == "median 3.00 m, 1.00 m to 8.00 m, 62.5% of the pixels measured (2 samples read)"


def test_a_report_reads_no_more_samples_than_asked_for():
    samples = [sample_of([[metres]]) for metres in (1.0, 2.0, 30.0)]
    assert depth_report(samples, num_samples=2).farthest == 2
    assert depth_report(iter(samples), num_samples=2).num_samples == 2


def test_the_median_of_a_large_map_is_that_of_evenly_spaced_pixels():
    depth = np.arange(1, 30_001, dtype=np.float32).reshape(150, 200) / 1000
    # Every third of 30,000 ascending values: 0.001, 0.004, ..., 29.998; the middle two are 14.998 and 15.001.
    report = depth_report([sample_of(depth)])
    assert report.median == pytest.approx(14.9995, abs=1e-4)
    assert (report.nearest, report.farthest) == pytest.approx((0.001, 30.0))


def test_nothing_measured_is_reported_and_refused():
    report = depth_report([sample_of([[0.0, np.nan]])])
    assert np.isnan(report.median)
    assert report.valid_share == 0
    with pytest.raises(ValueError, match=r"no pixel of 1 samples is measured.*check_units=False"):
        check_units(report)


def test_a_report_needs_a_sample():
    with pytest.raises(ValueError, match="no sample"):
        depth_report([])
    with pytest.raises(ValueError, match="`num_samples` is 0"):
        depth_report([sample_of([[1.0]])], num_samples=0)


@pytest.mark.parametrize("median", [0.2, 0.4, 2.5, 15.0, 80.0])
def test_table_tops_rooms_and_streets_are_plausible(median):
    check_units(report_of(median), depth_scale=1)


@pytest.mark.parametrize(
    ("raw_median", "declared", "message"),
    [
        (2500, 1, r"`depth_scale=1` .* 2500 m.* millimetres: pass `depth_scale=0.001`, which makes the median 2.5 m"),
        (2.5, 0.001, r"`depth_scale=0.001` .* 0.0025 m.* like metres: pass `depth_scale=1`, which makes .* 2.5 m"),
        (2500, 0.00001, "millimetres: pass `depth_scale=0.001`"),
        (100_000, 0.001, "KITTI's 1/256 m: pass `depth_scale=0.00390625`|TUM's 1/5000 m: pass `depth_scale=0.0002`"),
        (9e9, 1, "fits no usual unit"),
    ],
)
def test_the_refusal_names_the_median_the_scale_and_the_likely_one(raw_median, declared, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check_units(report_of(raw_median * declared), depth_scale=declared)
    assert "--allow_implausible_depth" in str(refusal.value)


def test_rows_with_scales_of_their_own_are_refused_without_a_guess():
    with pytest.raises(ValueError, match="the values of `depth_scale_to_metres` the median"):
        check_units(report_of(2500), depth_scale=None, setting="depth_scale_to_metres")
