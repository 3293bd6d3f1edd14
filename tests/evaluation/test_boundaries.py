"""The boundary F1 on images of a few pixels, and against loops."""

import math

import numpy as np
import pytest
import torch

from llm_mde.evaluation import DepthMetrics, boundary_f1

THRESHOLDS = [1.05 + 0.2 * step / 9 for step in range(10)]


def score(predicted, labels, valid_mask=None):
    return boundary_f1(
        torch.tensor([predicted]), torch.tensor([labels]), None if valid_mask is None else torch.tensor([valid_mask])
    ).item()


def test_a_step_in_the_right_place_with_a_smaller_height_is_found_at_low_thresholds():
    # Truth: 1 | 2, a ratio above every threshold. Prediction: ratio 1.1, above 1.05, 1.0722 and 1.0944 only. Below
    # 1.1 the F1 is 1, above it is 0; the weights are the thresholds, which sum to 11.5.
    assert score([[1.0, 1.1]], [[1.0, 2.0]]) == pytest.approx(sum(THRESHOLDS[:3]) / 11.5)


def test_precision_and_recall_are_counted_per_pair():
    # Three equal rows: the truth steps between columns 1 and 2; the prediction steps there and between 0 and 1 in the
    # same direction. Recall 1, precision 1/2, F1 2/3, at every threshold.
    truth, predicted = [[2.0, 2.0, 4.0]] * 3, [[1.0, 2.0, 4.0]] * 3
    assert score(predicted, truth) == pytest.approx(2 / 3)


def test_a_step_in_the_wrong_direction_is_not_found():
    assert score([[2.0, 1.0]], [[1.0, 2.0]]) == 0.0


def test_a_perfect_prediction_scores_one_at_any_scale():
    depth = (1 + torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))).double()
    assert boundary_f1(depth, depth).tolist() == [1.0, 1.0]
    assert boundary_f1(4 * depth, depth).tolist() == [1.0, 1.0]
    assert score([[3.0, 3.0], [5.0, 5.0]], [[3.0, 3.0], [5.0, 5.0]]) == 1.0  # only downwards does depth rise


def test_a_pair_with_a_missing_pixel_does_not_count():
    # The one measured edge, between columns 2 and 3, is found. What the prediction does around the hole is not judged.
    truth = [[2.0, 0.0, 2.0, 4.0]]
    assert score([[2.0, 9.0, 2.0, 4.0]], truth) == 1.0
    # A hole is no edge: nothing is left without the measured one.
    assert math.isnan(score([[2.0, 9.0, 2.0]], [[2.0, 0.0, 2.0]]))


def test_a_mask_leaves_out_pixels_that_are_measured():
    truth, predicted = [[2.0, 4.0, 4.0, 8.0]], [[2.0, 4.0, 4.0, 4.0]]
    assert score(predicted, truth) == pytest.approx(2 / 3)  # recall 1/2
    assert score(predicted, truth, [[True, True, True, False]]) == 1.0


@pytest.mark.parametrize("predicted", [[[3.0, 3.0]], [[1.0, 9.0]]])
def test_a_truth_without_boundary_has_no_score_whatever_the_prediction(predicted):
    assert math.isnan(score(predicted, [[3.0, 3.0]]))
    assert math.isnan(score(predicted, [[3.0, 3.14]]))  # the first threshold is at 3.15


def test_the_score_agrees_with_loops():
    generator = np.random.default_rng(0)
    labels = generator.uniform(1, 1.6, (3, 6, 7))
    predicted = labels * generator.uniform(0.9, 1.1, labels.shape)
    labels[generator.random(labels.shape) < 0.2] = 0
    scores = boundary_f1(torch.from_numpy(predicted), torch.from_numpy(labels))
    for index in range(3):
        assert scores[index].item() == pytest.approx(score_with_loops(predicted[index], labels[index]), rel=1e-12)


def score_with_loops(predicted, measured):
    """Depth Pro's definition pair by pair; every direction and threshold has a boundary in these maps."""
    height, width = measured.shape
    f1_scores = []
    for threshold in np.linspace(1.05, 1.25, 10):
        precisions, recalls = [], []
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            found = in_truth = in_prediction = 0
            for y in range(height):
                for x in range(width):
                    v, u = y + down, x + right
                    if not (0 <= v < height and 0 <= u < width) or 0 in (measured[y, x], measured[v, u]):
                        continue
                    of_truth = measured[v, u] / measured[y, x] > threshold
                    of_prediction = predicted[v, u] / predicted[y, x] > threshold
                    found += of_truth and of_prediction
                    in_truth += of_truth
                    in_prediction += of_prediction
            assert in_truth and in_prediction
            recalls.append(found / in_truth)
            precisions.append(found / in_prediction)
        precision, recall = np.mean(precisions), np.mean(recalls)
        f1_scores.append(2 * precision * recall / (precision + recall))
    return np.average(f1_scores, weights=np.linspace(1.05, 1.25, 10))


def test_images_without_boundary_do_not_enter_the_mean_of_the_score_but_that_of_the_others():
    labels = torch.tensor([[[1.0, 2.0]], [[3.0, 3.0]], [[0.0, 0.0]]])
    metrics = DepthMetrics(with_boundaries=True)
    values = metrics.update(torch.tensor([[[1.0, 2.0]], [[1.5, 1.5]], [[1.0, 1.0]]]), labels)
    assert values["boundary_f1"][0].item() == 1.0
    assert values["boundary_f1"][1:].isnan().all()
    result = metrics.compute()
    assert result["boundary_f1"] == 1.0
    assert result["abs_rel"] == pytest.approx(0.25)
    counts = result["num_images"], result["num_images_with_boundaries"], result["num_skipped_images"]
    assert counts == (2, 1, 1)


def test_no_boundary_anywhere_leaves_the_mean_open():
    metrics = DepthMetrics(with_boundaries=True)
    metrics.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    assert math.isnan(metrics.compute()["boundary_f1"])


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="batch_size, height, width"):
        boundary_f1(torch.ones(2, 3), torch.ones(2, 3))
