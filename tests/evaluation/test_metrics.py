"""Metrics against arithmetic that fits on a napkin."""

import math

import pytest
import torch

from llm_mde.evaluation import METRIC_NAMES, DepthMetrics, depth_metrics


def test_metrics_of_two_pixels_equal_the_sums_done_by_hand():
    # Pixel 1: d = 2, p = 3. Pixel 2: d = 4, p = 2. Pixel 3 is not measured.
    metrics = depth_metrics(torch.tensor([[3.0, 2.0, 9.0]]), torch.tensor([[2.0, 4.0, 0.0]]))
    e1, e2 = math.log(3 / 2), math.log(2 / 4)
    assert metrics["abs_rel"].item() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics["sq_rel"].item() == pytest.approx((1 / 2 + 4 / 4) / 2)
    assert metrics["rmse"].item() == pytest.approx(math.sqrt((1 + 4) / 2))
    assert metrics["rmse_log"].item() == pytest.approx(math.sqrt((e1**2 + e2**2) / 2))
    assert metrics["log10"].item() == pytest.approx((math.log10(1.5) + math.log10(2)) / 2)
    assert metrics["silog"].item() == pytest.approx(100 * math.sqrt((e1**2 + e2**2) / 2 - ((e1 + e2) / 2) ** 2))
    # Ratios 1.5 and 2 against 1.25, 1.5625 and 1.953125.
    assert [metrics[f"delta{k}"].item() for k in (1, 2, 3)] == [0.0, 0.5, 0.5]


def test_a_perfect_prediction_has_no_error():
    labels = torch.tensor([[[1.0, 2.5, 7.0]]])
    metrics = depth_metrics(labels.clone(), labels)
    assert set(metrics) == set(METRIC_NAMES)
    for name, value in metrics.items():
        assert value.tolist() == [1.0 if name.startswith("delta") else 0.0], name


def test_a_constant_factor_costs_everything_but_silog():
    labels = torch.tensor([[1.0, 2.0, 4.0]])
    metrics = depth_metrics(1.3 * labels, labels)
    assert metrics["silog"].item() == pytest.approx(0.0, abs=1e-5)
    assert metrics["abs_rel"].item() == pytest.approx(0.3)
    assert metrics["rmse_log"].item() == pytest.approx(math.log(1.3))
    assert (metrics["delta1"].item(), metrics["delta2"].item()) == (0.0, 1.0)


def test_a_ratio_of_exactly_the_threshold_is_outside_it():
    labels = torch.tensor([[2.0, 2.5]])
    metrics = depth_metrics(torch.tensor([[2.5, 2.0]]), labels)  # both ratios are 1.25 in binary, too
    assert metrics["delta1"].item() == 0.0
    assert metrics["delta2"].item() == 1.0


def test_labels_at_or_beyond_the_limits_missing_or_not_finite_do_not_count():
    labels = torch.tensor([[2.0, 0.0, 0.5, 10.0, 12.0, math.nan, math.inf, -1.0]])
    predicted = torch.tensor([[4.0, 1.0, 1.0, 1.0, 1.0, math.nan, 1.0, 0.0]])
    metrics = depth_metrics(predicted, labels, min_depth=0.5, max_depth=10.0)
    assert metrics["abs_rel"].item() == pytest.approx(1.0)
    assert metrics["rmse"].item() == pytest.approx(2.0)


def test_each_image_of_a_batch_gets_its_own_numbers():
    labels = torch.tensor([[[2.0, 2.0]], [[2.0, 0.0]], [[0.0, 0.0]]])
    predicted = torch.tensor([[[3.0, 2.0]], [[4.0, 1.0]], [[1.0, 1.0]]])
    abs_rel = depth_metrics(predicted, labels)["abs_rel"]
    assert abs_rel.dtype == torch.float64
    assert abs_rel[:2].tolist() == [0.25, 1.0]
    assert abs_rel[2].isnan()


def test_half_precision_is_judged_by_the_numbers_it_holds():
    labels = torch.tensor([[2.0, 4.0]], dtype=torch.bfloat16)
    metrics = depth_metrics(torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16), labels)
    assert metrics["rmse"].item() == pytest.approx(math.sqrt(0.5))


def test_the_mean_is_over_images_not_over_pixels():
    metrics = DepthMetrics()
    metrics.update(torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[1.0, 1.0]]]))  # abs_rel 1, two pixels, rmse 1
    metrics.update(torch.tensor([[[4.0, 9.0]]]), torch.tensor([[[1.0, 0.0]]]))  # abs_rel 3, one pixel, rmse 3
    result = metrics.compute()
    assert result["abs_rel"] == pytest.approx(2.0)
    assert result["rmse"] == pytest.approx(2.0)  # the root of the pooled squares would be sqrt(11 / 3)
    assert result["num_images"] == 2


def test_unequal_batches_give_the_same_means_as_one():
    generator = torch.Generator().manual_seed(0)
    labels = 1 + 8 * torch.rand(5, 4, 6, generator=generator)
    predicted = labels * (0.8 + 0.5 * torch.rand(5, 4, 6, generator=generator))
    once, twice = DepthMetrics(), DepthMetrics()
    once.update(predicted, labels)
    twice.update(predicted[:4], labels[:4])
    twice.update(predicted[4], labels[4])
    assert once.compute() == pytest.approx(twice.compute(), rel=1e-12)


def test_images_without_a_valid_pixel_are_skipped_and_counted():
    metrics = DepthMetrics()
    metrics.update(torch.ones(2, 1, 2), torch.tensor([[[2.0, 2.0]], [[0.0, 99.0]]]))
    result = metrics.compute()
    assert (result["num_images"], result["num_skipped_images"]) == (1, 1)
    assert result["abs_rel"] == pytest.approx(0.5)


def test_reset_forgets_every_image():
    metrics = DepthMetrics()
    metrics.update(torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0))
    metrics.reset()
    metrics.update(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    assert metrics.compute()["abs_rel"] == 0.0


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError, match="no image with a valid pixel"):
        DepthMetrics().compute()


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="labels"):
        depth_metrics(torch.ones(1, 2, 3), torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match="batch_size, height, width"):
        depth_metrics(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_prediction_without_a_logarithm_is_refused_and_leaves_the_sums_alone(value):
    metrics = DepthMetrics()
    metrics.update(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="predicted_depth"):
        metrics.update(torch.full((1, 1, 1), value), torch.ones(1, 1, 1))
    assert metrics.compute()["num_images"] == 1


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="max_depth"):
        DepthMetrics(min_depth=10, max_depth=10)
    with pytest.raises(ValueError, match="min_depth"):
        depth_metrics(torch.ones(1, 1), torch.ones(1, 1), min_depth=-1)
