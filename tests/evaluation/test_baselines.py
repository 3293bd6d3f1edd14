"""Predictors that have not looked at the photograph."""

import numpy as np
import pytest
import torch

from llm_mde.evaluation import (
    MeanDepthMapBaseline,
    MedianDepthBaseline,
    evaluate_depth,
    fit_baselines,
    get_protocol,
)
from llm_mde.processing import RGBDFolder, write_depth_png
from tests.evaluation.conftest import make_sample, make_samples


def test_the_median_of_the_training_set_is_predicted_everywhere():
    baseline = MedianDepthBaseline.fit([make_sample([[1.0, 2.0, 0.0]]), make_sample([[3.0, 9.0, 9.0]])])
    assert baseline.depth == pytest.approx(3.0)
    assert baseline.predict(2, 3).tolist() == [[3.0] * 3] * 2
    assert "3.00 m" in baseline.name


def test_the_map_is_the_mean_of_what_was_measured_at_each_pixel():
    train = [make_sample([[1.0, 2.0], [0.0, 2.0]]), make_sample([[4.0, 0.0], [0.0, 8.0]])]
    baseline = MeanDepthMapBaseline.fit(train, size=(2, 2))
    # Geometric means. The third pixel is measured nowhere: the mean of 2, 2 and 4.
    assert baseline.depth_map.flatten().tolist() == pytest.approx([2.0, 2.0, 16 ** (1 / 3), 4.0])


def test_the_arithmetic_mean_is_a_row_of_its_own():
    train = [make_sample([[1.0, 2.0], [0.0, 2.0]]), make_sample([[4.0, 0.0], [0.0, 8.0]])]
    baseline = MeanDepthMapBaseline.fit(train, size=(2, 2), mean="arithmetic")
    assert baseline.depth_map.flatten().tolist() == pytest.approx([2.5, 2.0, (2.5 + 2 + 5) / 3, 5.0])
    assert baseline.name == "per-pixel mean depth (arithmetic, 2 x 2 grid)"
    assert MeanDepthMapBaseline.fit(train).name == "per-pixel mean depth (geometric, 60 x 80 grid)"


def test_at_the_size_of_the_maps_the_arithmetic_mean_is_that_of_numpy():
    samples = make_samples(5)
    depth = np.stack([sample.depth for sample in samples])
    expected = np.ma.masked_equal(depth, 0).mean(axis=0)
    assert not expected.mask.any()
    baseline = MeanDepthMapBaseline.fit(samples, size=depth.shape[1:], mean="arithmetic")
    np.testing.assert_allclose(baseline.depth_map, expected, rtol=1e-6)


def test_what_will_not_count_is_not_fitted():
    """Symptom: on a street the median of everything lay beyond the cap of 10 m, and delta1 was 0."""
    street = [make_sample([[2.0, 4.0, 8.0, 30.0, 40.0, 50.0, 60.0]])]
    assert MedianDepthBaseline.fit(street).depth == pytest.approx(30.0)
    assert MedianDepthBaseline.fit(street, protocol="plain").depth == pytest.approx(4.0)
    near = get_protocol("plain", min_depth=3.0)
    assert MedianDepthBaseline.fit(street, protocol=near).depth == pytest.approx(6.0)
    assert MeanDepthMapBaseline.fit(street, size=(1, 1), protocol=near).depth_map.item() == pytest.approx(32**0.5)
    arithmetic = MeanDepthMapBaseline.fit(street, size=(1, 1), mean="arithmetic", protocol=near)
    assert arithmetic.depth_map.item() == pytest.approx(6.0)


def test_only_pixels_inside_the_crop_are_fitted():
    depth = np.full((480, 640), 9.0)
    depth[45:471, 41:601] = 2.0
    train = [make_sample(depth)]
    assert MedianDepthBaseline.fit([make_sample(np.where(depth == 2, 0, depth))]).depth == pytest.approx(9.0)
    for mean in ("geometric", "arithmetic"):
        baseline = MeanDepthMapBaseline.fit(train, mean=mean, protocol="nyu-eigen")
        assert baseline.depth_map.min().item() == pytest.approx(2.0)
        assert baseline.depth_map.max().item() == pytest.approx(2.0)  # of what lies outside nothing is known
        result = evaluate_depth(None, None, train, "nyu-eigen", predict=baseline, progress=False)
        assert result.metrics["rmse"] == pytest.approx(0, abs=1e-6)
    assert MedianDepthBaseline.fit([make_sample(np.full((4, 6), 3.0))], "nyu-eigen").depth == pytest.approx(3.0)


def test_cells_without_a_measurement_take_the_mean_of_their_neighbours():
    baseline = MeanDepthMapBaseline.fit([make_sample([[0.0, 0.0, 2.0, 0.0, 6.0]])], size=(1, 5), mean="arithmetic")
    assert baseline.depth_map[0].tolist() == pytest.approx([2.0, 2.0, 2.0, 4.0, 6.0])


def test_a_cell_of_the_map_averages_measured_pixels_only():
    baseline = MeanDepthMapBaseline.fit([make_sample([[1.0, 0.0, 3.0, 9.0], [0.0, 4.0, 9.0, 3.0]])], size=(1, 2))
    assert baseline.depth_map[0].tolist() == pytest.approx([2.0, 27**0.5])
    between = torch.tensor([2.0, 27**0.5]).lerp(torch.tensor([27**0.5, 2.0]), 0.25).tolist()
    assert baseline.predict(1, 4)[0].tolist() == pytest.approx([2.0, *between, 27**0.5])


def test_a_map_that_repeats_is_predicted_perfectly_and_the_median_is_not():
    samples = [make_sample(np.linspace(1, 9, 48).reshape(6, 8), name=str(index), seed=index) for index in range(3)]
    learned = MeanDepthMapBaseline.fit(samples, size=(6, 8))
    result = evaluate_depth(None, None, samples, predict=learned, progress=False)
    assert result.metrics["abs_rel"] == pytest.approx(0, abs=1e-6)
    median = evaluate_depth(None, None, samples, predict=MedianDepthBaseline.fit(samples), progress=False)
    assert median.metrics["abs_rel"] > 0.3
    assert median.protocol == result.protocol


def test_photographs_of_a_folder_stay_closed_while_fitting(tmp_path):
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    for index in range(5):
        (tmp_path / "rgb" / f"{index}.png").write_bytes(b"no photograph")
        write_depth_png(tmp_path / "depth" / f"{index}.png", np.full((4, 6), 2.0, dtype=np.float32))
    frames = RGBDFolder(tmp_path, split=None)
    assert MeanDepthMapBaseline.fit(frames, size=(2, 3)).depth_map.tolist() == [[2.0] * 3] * 2


def test_the_prediction_does_not_depend_on_what_the_photograph_shows():
    baseline = MeanDepthMapBaseline(torch.tensor([[1.0, 2.0]]))
    dark, bright = (make_sample(np.ones((3, 4)), seed=seed).image for seed in (0, 1))
    first, second = baseline([dark, bright])
    assert first.shape == (3, 4)
    assert first.tolist() == second.tolist()


def test_all_of_them_are_fitted_in_one_pass():
    class ReadOnce:
        def __init__(self, samples):
            self.maps = iter([sample.depth for sample in samples])

        def depth_maps(self):
            yield from self.maps

    samples = [make_sample(np.random.default_rng(seed).uniform(0.5, 12, (40, 50))) for seed in range(3)]
    median, *means = fit_baselines(ReadOnce(samples), "plain")
    assert median.depth == MedianDepthBaseline.fit(samples, "plain").depth
    for each, mean in zip(means, ("geometric", "arithmetic"), strict=True):
        alone = MeanDepthMapBaseline.fit(samples, mean=mean, protocol="plain")
        assert each.name == alone.name
        assert torch.equal(each.depth_map, alone.depth_map)
    with pytest.raises(ValueError, match="no measured pixel between"):
        fit_baselines([make_sample(np.full((2, 2), 30.0))], "plain")


def test_nothing_measured_and_empty_sizes_are_refused():
    nothing = [make_sample(np.zeros((2, 2)))]
    with pytest.raises(ValueError, match="no measured pixel"):
        MeanDepthMapBaseline.fit(nothing)
    with pytest.raises(ValueError, match="no measured pixel"):
        MedianDepthBaseline.fit(nothing)
    with pytest.raises(ValueError, match="`size` is"):
        MeanDepthMapBaseline.fit(nothing, size=(0, 3))
    for baseline in (MedianDepthBaseline, MeanDepthMapBaseline):
        with pytest.raises(ValueError, match=r"no measured pixel between 0.001 and 10 m inside the crop None"):
            baseline.fit([make_sample(np.full((2, 2), 30.0))], protocol="plain")
    with pytest.raises(ValueError, match="`mean` is 'median'; choose one of geometric, arithmetic"):
        MeanDepthMapBaseline.fit(nothing, mean="median")
    with pytest.raises(ValueError, match="`mean` is 'median'"):
        MeanDepthMapBaseline(torch.ones(2, 2), mean="median")
