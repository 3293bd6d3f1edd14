"""Metrics against arithmetic that fits on a napkin."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from llm_mde.evaluation import METRIC_NAMES, DepthMetrics, depth_metrics, get_protocol


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


def test_metrics_agree_with_other_formulas_on_maps_with_holes():
    """Each number from a different expression than the implementation's, in NumPy, pixel lists instead of masks."""
    generator = np.random.default_rng(0)
    labels = generator.uniform(0.1, 12, (3, 20, 30))
    labels[generator.random(labels.shape) < 0.3] = 0
    labels[0, 0, :4] = (math.nan, math.inf, -1, 10)
    predicted = generator.uniform(0.1, 12, labels.shape)
    values = depth_metrics(torch.from_numpy(predicted), torch.from_numpy(labels))
    for index in range(3):
        keep = [(p, d) for p, d in zip(predicted[index].flat, labels[index].flat, strict=True) if 1e-3 < d < 10]
        p, d = np.array(keep).T
        log_error = np.log(p / d)
        expected = {
            "abs_rel": np.average(np.abs(p / d - 1)),
            "sq_rel": np.average(d * (p / d - 1) ** 2),
            "rmse": np.linalg.norm(p - d) / np.sqrt(len(d)),
            "rmse_log": np.hypot(np.std(log_error), np.mean(log_error)),
            "log10": np.average(np.abs(np.log10(p) - np.log10(d))),
            "silog": 100 * np.std(log_error),
            **{f"delta{k}": np.average(np.abs(log_error) < k * np.log(1.25)) for k in (1, 2, 3)},
        }
        assert {name: value[index].item() for name, value in values.items()} == pytest.approx(expected, rel=1e-9)


def test_limits_alone_a_name_or_both_choose_the_protocol():
    assert DepthMetrics().protocol == get_protocol("plain")
    assert DepthMetrics(1e-3, 10.0).protocol == get_protocol("plain")
    assert DepthMetrics(max_depth=80.0).protocol == get_protocol("plain", max_depth=80.0)
    assert DepthMetrics(protocol="nyu-eigen").protocol == get_protocol("nyu-eigen")
    assert DepthMetrics(max_depth=5.0, protocol="kitti-garg").protocol.crop == "garg"
    assert DepthMetrics(protocol=get_protocol("affine")).protocol.alignment == "scale-shift-depth"


def test_a_protocol_leaves_out_what_lies_outside_its_crop():
    labels = torch.full((480, 640), 2.0)
    predicted = torch.full((480, 640), 9.0)
    predicted[45:471, 41:601] = 3.0
    metrics = DepthMetrics(protocol="nyu-eigen")
    metrics.update(predicted, labels)
    assert metrics.compute()["abs_rel"] == pytest.approx(0.5)


def test_an_update_returns_what_it_added():
    labels = torch.tensor([[[2.0, 2.0]], [[0.0, 0.0]]])
    metrics = DepthMetrics()
    added = metrics.update(torch.tensor([[[3.0, 2.0]], [[1.0, 1.0]]]), labels)
    assert added.keys() == {*METRIC_NAMES, "num_pixels"}
    assert added["abs_rel"][0].item() == 0.25
    assert added["abs_rel"][1].isnan()
    assert added["num_pixels"].tolist() == [2, 0]
    single = metrics.update(torch.tensor([[3.0, 2.0]]), labels[0])
    assert single["abs_rel"].tolist() == [0.25]
    assert metrics.compute()["num_images"] == 2


def test_a_smaller_prediction_is_enlarged_to_the_labels():
    labels = torch.tensor([[[1.0, 1.0, 2.0, 2.0]]])
    metrics = DepthMetrics(protocol=get_protocol("plain", interpolation="nearest"))
    metrics.update(torch.tensor([[[1.0, 2.0]]]), labels)
    assert metrics.compute()["rmse"] == 0.0


TWO_PROCESSES = """
import json, sys
import torch
from llm_mde.evaluation import DepthMetrics

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
maps = torch.load(f"{folder}/maps.pt")
metrics = DepthMetrics(with_boundaries=True)
mine = slice(0, 3) if rank == 0 else slice(3, None)
metrics.update(maps["predicted"][mine], maps["labels"][mine])
results = [metrics.compute(), metrics.compute(gather=False)]
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(results, file)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs the gloo backend of torch.distributed")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = 1 + 8 * torch.rand(4, 6, 8, generator=generator)
    labels[1] = 0  # one image to skip
    predicted = 1 + 8 * torch.rand(4, 6, 8, generator=generator)
    torch.save({"predicted": predicted, "labels": labels}, tmp_path / "maps.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]

    alone = DepthMetrics(with_boundaries=True)
    alone.update(predicted, labels)
    (first, first_own), (second, second_own) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert first == second == pytest.approx(alone.compute(), rel=1e-12)
    assert (first["num_images"], first["num_skipped_images"]) == (3, 1)
    assert (first_own["num_images"], second_own["num_images"]) == (2, 1)
