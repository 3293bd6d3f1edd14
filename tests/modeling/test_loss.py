import math

import pytest
import torch

from llm_mde import relative_loss, silog_loss
from tests.conftest import make_model

LOSSES = [silog_loss, relative_loss]


def test_a_constant_factor_is_pure_scale_error():
    labels = torch.tensor([[[1.0, 2.0, 0.0]]])
    loss = silog_loss(2 * labels + (labels == 0), labels, variance_focus=0.85)
    torch.testing.assert_close(loss, torch.tensor(math.log(2) * math.sqrt(0.15)))


def test_at_full_variance_focus_a_constant_factor_costs_nothing():
    labels = torch.rand(2, 4, 4) + 1
    assert silog_loss(3 * labels, labels, variance_focus=1.0) < 1e-3


def test_loss_equals_the_formula_redone_by_hand():
    predicted_depth = torch.tensor([[[1.0, 4.0]], [[2.0, 3.0]]])
    labels = torch.tensor([[[2.0, 2.0]], [[0.0, 3.0]]])
    d = [math.log(1 / 2), math.log(4 / 2), 0.0]  # the pixels of all images together, the missing one left out
    pooled = math.sqrt(sum(x * x for x in d) / 3 - 0.5 * (sum(d) / 3) ** 2)
    first = math.sqrt((d[0] ** 2 + d[1] ** 2) / 2 - 0.5 * ((d[0] + d[1]) / 2) ** 2)  # the second is perfect
    for reduction, expected in (("batch", pooled), ("image", first / 2)):
        loss = silog_loss(predicted_depth, labels, variance_focus=0.5, reduction=reduction)
        torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_relative_loss_equals_the_formula_redone_by_hand():
    predicted_depth = torch.tensor([[[1.0, 4.0]], [[2.0, 6.0]]])
    labels = torch.tensor([[[2.0, 2.0]], [[0.0, 3.0]]])
    torch.testing.assert_close(relative_loss(predicted_depth, labels), torch.tensor((0.75 + 1) / 2))
    torch.testing.assert_close(
        relative_loss(predicted_depth, labels, reduction="batch"), torch.tensor((0.5 + 1 + 1) / 3)
    )


def test_the_relative_loss_is_added_with_its_weight(pixel_values):
    labels = torch.rand(len(pixel_values), 32, 32) * 5 + 1
    plain, weighted = (make_model(relative_weight=weight)(pixel_values, labels=labels) for weight in (0.0, 0.5))
    expected = plain.loss + 0.5 * relative_loss(plain.predicted_depth, labels, max_depth=10.0)
    torch.testing.assert_close(weighted.loss, expected)


def test_a_model_of_relative_depth_has_no_relative_loss():
    with pytest.raises(ValueError, match=r"`relative_weight` is 0\.5"):
        make_model(relative_weight=0.5, depth_estimation_type="relative")


@pytest.mark.parametrize("loss_function", LOSSES)
def test_the_loss_of_a_batch_is_the_mean_over_its_images(loss_function):
    """Else gradient accumulation and data parallelism would train on another loss than one large batch."""
    predicted_depth, labels = torch.rand(4, 3, 5) + 1, torch.rand(4, 3, 5) + 1
    labels[0, 0] = 0
    labels[3] = 0  # nothing measured
    parts = [loss_function(predicted_depth[i : i + 1], labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(loss_function(predicted_depth, labels), torch.stack(parts).mean())


def test_a_factor_for_each_image_costs_nothing_at_full_variance_focus():
    labels = torch.rand(2, 4, 4) + 1
    predicted_depth = labels * torch.tensor([0.5, 3.0])[:, None, None]
    assert silog_loss(predicted_depth, labels, variance_focus=1.0) < 1e-3
    assert silog_loss(predicted_depth, labels, variance_focus=1.0, reduction="batch") > 0.5


@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("missing", [0.0, -1.0, math.nan, math.inf, -math.inf, 10.5])
def test_loss_ignores_pixels_without_label(missing, loss_function):
    predicted_depth = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
    labels = torch.tensor([[[2.0, 3.0, missing]]])
    loss = loss_function(predicted_depth, labels, max_depth=10.0)
    torch.testing.assert_close(loss, loss_function(predicted_depth[..., :2], labels[..., :2]))
    loss.backward()
    assert predicted_depth.grad[0, 0, 2] == 0
    assert predicted_depth.grad.isfinite().all()


def test_a_label_at_the_maximum_counts():
    labels = torch.tensor([[[10.0]]])
    assert silog_loss(labels / 2, labels, max_depth=10.0) > 0.1


@pytest.mark.parametrize("loss_function", LOSSES)
def test_no_label_at_all_costs_nothing_and_keeps_the_graph(loss_function):
    predicted_depth = torch.ones(1, 2, 2, requires_grad=True)
    loss = loss_function(predicted_depth, torch.zeros(1, 2, 2))
    loss.backward()
    assert loss == 0
    assert torch.equal(predicted_depth.grad, torch.zeros(1, 2, 2))


def test_a_perfect_prediction_has_a_finite_gradient():
    """The slope of the square root at 0 is infinite."""
    predicted_depth = torch.full((1, 2, 2), 3.0, requires_grad=True)
    loss = silog_loss(predicted_depth, torch.full((1, 2, 2), 3.0))
    loss.backward()
    assert loss < 1e-5
    assert predicted_depth.grad.isfinite().all()


@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, loss_function):
    predicted_depth = torch.rand(2, 8, 8).to(dtype) + 1
    labels = torch.rand(2, 8, 8) + 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_function(predicted_depth, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_function(predicted_depth.float(), labels))


@pytest.mark.parametrize("loss_function", LOSSES)
def test_the_gradient_is_right(loss_function):
    predicted_depth = torch.rand(1, 3, 3, dtype=torch.float64) + 1
    labels = torch.rand(1, 3, 3, dtype=torch.float64) + 1
    labels[0, 0, 0] = math.nan
    predicted_depth.requires_grad_()
    assert torch.autograd.gradcheck(lambda depth: loss_function(depth, labels), predicted_depth)


@pytest.mark.parametrize("loss_function", LOSSES)
def test_an_unknown_reduction_is_refused(loss_function):
    with pytest.raises(ValueError, match="`reduction` is 'sum'"):
        loss_function(torch.ones(1, 2, 2), torch.ones(1, 2, 2), reduction="sum")


@pytest.mark.parametrize("loss_function", LOSSES)
def test_different_shapes_are_refused(loss_function):
    with pytest.raises(ValueError, match=r"`labels` is \(1, 2, 3\) but `predicted_depth` is \(1, 2, 2\)"):
        loss_function(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
