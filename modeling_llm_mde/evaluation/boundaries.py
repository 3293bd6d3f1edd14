"""Sharpness: are the edges of the measured depth where the prediction has them?"""

import torch
from torch import Tensor

FIRST_THRESHOLD, LAST_THRESHOLD, NUM_THRESHOLDS = 1.05, 1.25, 10


def boundary_f1(predicted_depth: Tensor, labels: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    r"""Scale-invariant boundary F1 of Depth Pro (Bochkovskii et al., 2024), with missing pixels left out.

    Two neighbours $i, j$ form a boundary at threshold $t$ where $d_j / d_i > t$. For each $t$, precision and recall of
    the predicted boundaries are averaged over the four directions (left, right, up, down) and joined to an F1; the F1
    of ten thresholds from 1.05 to 1.25 are averaged with weights proportional to $t$. A constant factor changes
    nothing.

    Two rules are ours. A pair counts only where both of its pixels are measured. A direction or a threshold at which
    neither map has a boundary is left out; Depth Pro counts it as 0, so that a perfect prediction can stay below 1.

    Args:
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)`): Depth, positive on valid pixels.
        labels (`torch.Tensor` of the same shape): Measured depth.
        valid_mask (`torch.Tensor` of the same shape, *optional*): Bool; by default where `labels` is positive and
            finite.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float64: From 0 to 1; NaN where the measured depth has no boundary,
        whatever the prediction.

    Raises:
        ValueError: If the shapes differ or are not three-dimensional.
    """
    if predicted_depth.shape != labels.shape or labels.ndim != 3:
        raise ValueError(
            f"`predicted_depth` is {tuple(predicted_depth.shape)} and `labels` is {tuple(labels.shape)}; pass two "
            "(batch_size, height, width)."
        )
    if valid_mask is None:
        valid_mask = labels.isfinite() & (labels > 0)
    predicted = torch.where(valid_mask, predicted_depth.to(torch.float64), 1.0)
    measured = torch.where(valid_mask, labels.to(torch.float64), 1.0)
    thresholds = torch.linspace(
        FIRST_THRESHOLD, LAST_THRESHOLD, NUM_THRESHOLDS, dtype=torch.float64, device=labels.device
    )

    # Each of shape (4, batch_size, thresholds): how many pairs of a direction are a boundary in both maps, in the
    # measured one, and in the predicted one.
    found, measured_pairs, predicted_pairs = torch.cat(
        [_count_boundaries(predicted, measured, valid_mask, axis, thresholds) for axis in (-1, -2)], dim=1
    )
    speaks = (measured_pairs + predicted_pairs > 0).to(torch.float64)
    num_directions = speaks.sum(dim=0)
    recall = (found / measured_pairs.clamp_min(1)).sum(dim=0) / num_directions.clamp_min(1)
    precision = (found / predicted_pairs.clamp_min(1)).sum(dim=0) / num_directions.clamp_min(1)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(torch.finfo(torch.float64).tiny)
    weights = thresholds * (num_directions > 0)
    has_boundary = measured_pairs[..., 0].sum(dim=0) > 0
    return torch.where(has_boundary, (f1 * weights).sum(dim=-1) / weights.sum(dim=-1), torch.nan)


def _count_boundaries(
    predicted: Tensor, measured: Tensor, valid_mask: Tensor, axis: int, thresholds: Tensor
) -> Tensor:
    """Pairs of neighbours above each threshold in both maps, the measured and the predicted one, for depth that falls
    and for depth that rises along the axis: (3, 2, batch_size, thresholds)."""
    both_valid = _first(valid_mask, axis) & _second(valid_mask, axis)
    levels, directions = [], []
    for depth in (measured, predicted):
        first, second = _first(depth, axis), _second(depth, axis)
        ratio = torch.maximum(first, second) / torch.minimum(first, second)
        # The level of a pair is the number of thresholds that it exceeds.
        levels.append(torch.where(both_valid, torch.bucketize(ratio, thresholds), 0))
        directions.append((second > first).long())
    agreed = torch.where(directions[0] == directions[1], torch.minimum(*levels), 0)

    batch_size, num_levels = len(measured), len(thresholds) + 1
    row = 2 * torch.arange(batch_size, device=measured.device)[:, None, None]
    counts = []
    for level, direction in ((agreed, directions[0]), *zip(levels, directions, strict=True)):
        histogram = torch.bincount(
            ((row + direction) * num_levels + level).flatten(), minlength=2 * batch_size * num_levels
        )
        histogram = histogram.view(batch_size, 2, num_levels)[..., 1:].transpose(0, 1)
        counts.append(histogram.flip(-1).cumsum(-1).flip(-1))
    return torch.stack(counts).to(torch.float64)  # integers would divide in single precision


def _first(values: Tensor, axis: int) -> Tensor:
    return values.narrow(axis, 0, values.shape[axis] - 1)


def _second(values: Tensor, axis: int) -> Tensor:
    return values.narrow(axis, 1, values.shape[axis] - 1)


__all__ = ["boundary_f1"]
