"""Alignments give back exactly what was put on."""

import math

import numpy as np
import pytest
import torch

from llm_mde.evaluation import DepthMetrics, align_depth, get_protocol, match_depth


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 8 * torch.rand(2, 6, 7, generator=generator, dtype=torch.float64)
    depth[:, 2, 3:5] = 0  # holes
    return depth


def everywhere(labels):
    return labels > 0


def test_median_alignment_recovers_a_scale(labels):
    predicted = torch.where(labels > 0, 3.7 * labels, 100.0)
    aligned = align_depth(predicted, labels, everywhere(labels), "median")
    torch.testing.assert_close(aligned[labels > 0], labels[labels > 0], rtol=1e-12, atol=0)


def test_the_median_of_an_even_number_is_between_the_middle_two():
    labels = torch.tensor([[[1.0, 2.0, 4.0, 9.0]]], dtype=torch.float64)
    predicted = torch.tensor([[[1.0, 1.0, 2.0, 2.0]]], dtype=torch.float64)
    aligned = align_depth(predicted, labels, labels > 0, "median")
    assert aligned.flatten().tolist() == [2, 2, 4, 4]  # by 3 / 1.5


def test_least_squares_recover_scale_and_shift_in_depth(labels):
    predicted = (labels - 0.7) / 2.5
    aligned = align_depth(predicted, labels, everywhere(labels), "scale-shift-depth")
    torch.testing.assert_close(aligned[labels > 0], labels[labels > 0], rtol=1e-12, atol=0)


def test_least_squares_recover_scale_and_shift_in_disparity(labels):
    disparity = (1 / labels.clamp_min(1e-3) + 0.4) / 1.7
    aligned = align_depth(1 / disparity, labels, everywhere(labels), "scale-shift-disparity")
    torch.testing.assert_close(aligned[labels > 0], labels[labels > 0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("in_disparity", [False, True])
def test_least_squares_agree_with_numpy(labels, in_disparity):
    noise = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    predicted = 0.5 * labels + 1 + noise
    alignment = "scale-shift-disparity" if in_disparity else "scale-shift-depth"
    aligned = align_depth(predicted, labels, everywhere(labels), alignment)
    for index in range(len(labels)):
        valid = (labels[index] > 0).numpy()
        p, d = predicted[index].numpy()[valid], labels[index].numpy()[valid]
        p, d = (1 / p, 1 / d) if in_disparity else (p, d)
        (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], axis=1), d, rcond=None)
        expected = 1 / (scale * p + shift) if in_disparity else scale * p + shift
        np.testing.assert_allclose(aligned[index].numpy()[valid], expected, rtol=1e-10)


@pytest.mark.parametrize("alignment", ["scale-shift-depth", "scale-shift-disparity"])
@pytest.mark.parametrize("constant", [0.1, 3.0, 1 / 3])
def test_a_constant_prediction_meets_the_mean(alignment, constant, labels):
    aligned = align_depth(torch.full_like(labels, constant), labels, everywhere(labels), alignment)
    for index in range(len(labels)):
        measured = labels[index][labels[index] > 0]
        expected = measured.mean() if alignment == "scale-shift-depth" else 1 / (1 / measured).mean()
        torch.testing.assert_close(aligned[index], expected.expand(aligned[index].shape), rtol=1e-12, atol=0)


@pytest.mark.parametrize("alignment", ["median", "scale-shift-depth", "scale-shift-disparity"])
def test_one_valid_pixel_is_met_and_none_changes_nothing(alignment):
    labels = torch.tensor([[[4.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    predicted = torch.tensor([[[2.0, 3.0]], [[2.0, 3.0]]], dtype=torch.float64)
    aligned = align_depth(predicted, labels, labels > 0, alignment)
    assert aligned[0, 0, 0].item() == pytest.approx(4.0, rel=1e-12)
    if alignment != "scale-shift-disparity":  # 1 / (1 / x) may differ in the last bit
        assert aligned[1].tolist() == predicted[1].tolist()
    torch.testing.assert_close(aligned[1], predicted[1])


def test_aligned_depth_below_zero_becomes_the_nearest_allowed():
    # The line through (1, 9), (2, 8), (3, 7) reaches -1 at the fourth pixel, which is not measured.
    labels = torch.tensor([[[9.0, 8.0, 7.0, 0.0]]])
    predicted = torch.tensor([[[1.0, 2.0, 3.0, 11.0]]])
    matched = match_depth(predicted, labels, get_protocol("affine"))
    assert matched.predicted.flatten().tolist() == pytest.approx([9, 8, 7, 1e-3])


def test_aligned_disparity_below_zero_becomes_the_farthest_allowed():
    # In disparity 2 x - 1: the third pixel gets 2 * 0.25 - 1 = -0.5.
    labels = 1 / torch.tensor([[[1.0, 0.5, math.inf]]], dtype=torch.float64)
    predicted = 1 / torch.tensor([[[1.0, 0.75, 0.25]]], dtype=torch.float64)
    protocol = get_protocol("plain", alignment="scale-shift-disparity", clamp=True)
    matched = match_depth(predicted, labels, protocol)
    assert matched.predicted.flatten().tolist() == pytest.approx([1, 2, 10])


def test_each_image_is_aligned_for_itself(labels):
    predicted = labels * torch.tensor([2.0, 5.0], dtype=torch.float64)[:, None, None] + (labels == 0)
    together = align_depth(predicted, labels, everywhere(labels), "scale-shift-depth")
    for index in range(2):
        one = slice(index, index + 1)
        alone = align_depth(predicted[one], labels[one], everywhere(labels)[one], "scale-shift-depth")
        torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("alignment", "value"),
    [("median", 0.0), ("median", math.nan), ("scale-shift-depth", math.inf), ("scale-shift-disparity", -1.0)],
)
def test_a_prediction_that_an_alignment_cannot_use_is_refused(alignment, value):
    labels = torch.ones(1, 1, 2, dtype=torch.float64)
    predicted = torch.tensor([[[1.0, value]]], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"1 of 2 valid pixels.*{alignment}"):
        align_depth(predicted, labels, labels > 0, alignment)


def delta1(predicted, labels, protocol):
    metrics = DepthMetrics(protocol=protocol)
    return metrics.update(predicted, labels)["delta1"].item()


def test_the_authors_metric_forgives_scale_and_shift_and_punishes_noise():
    generator = torch.Generator().manual_seed(0)
    labels = 1 + 8 * torch.rand(1, 120, 160, generator=generator, dtype=torch.float64)
    for predicted in (1.3 * labels, 2 * labels + 3):
        assert delta1(predicted, labels, "authors-minmax") == 1.0
        assert delta1(predicted, labels, "plain") == 0.0
    noise = torch.randn(labels.shape, generator=generator, dtype=torch.float64)
    noisy = labels * (1 + 0.05 * noise)
    assert delta1(noisy, labels, "plain") > 0.99
    assert delta1(noisy, labels, "authors-minmax") < 0.9


def test_the_authors_metric_stretches_both_maps_and_has_a_floor():
    labels = torch.tensor([[[2.0, 4.0, 0.0, 6.0]]])  # 0, 0.5, missing, 1
    predicted = torch.tensor([[[10.0, 11.0, -5.0, 14.0]]])  # 0, 0.25, missing, 1
    metrics = DepthMetrics(protocol="authors-minmax", with_boundaries=True)
    values = metrics.update(predicted, labels)
    # Ratios 0.001 / 0.001, 0.5 / 0.25 and 1 / 1.
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {"delta1": 2 / 3, "delta2": 2 / 3, "delta3": 2 / 3, "num_pixels": 3}
    )
    assert set(metrics.compute()) == {"delta1", "delta2", "delta3", "num_images", "num_skipped_images"}


def test_a_constant_map_is_all_floor_to_the_authors_metric():
    labels = torch.tensor([[[1.0, 3.0]]])  # 0.001 and 1 after stretching
    assert delta1(torch.full_like(labels, 2.0), labels, "authors-minmax") == 0.5
