"""A predicted and a measured map made comparable: sizes, pixels, alignment and range, as a protocol says."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .alignment import align_depth, min_max_normalise
from .protocols import EvaluationProtocol, crop_window


@dataclass(frozen=True)
class MatchedDepth:
    """Maps of one size that may be subtracted, each `(batch_size, height, width)`.

    Attributes:
        predicted (`torch.Tensor`): float64; metres, unless the protocol stretched both maps to 0 ... 1.
        measured (`torch.Tensor`): float64, alike.
        valid (`torch.Tensor`): Bool; the pixels that count.
    """

    predicted: Tensor
    measured: Tensor
    valid: Tensor


def match_depth(predicted_depth: Tensor, labels: Tensor, protocol: EvaluationProtocol) -> MatchedDepth:
    """Resize the prediction to the labels, choose pixels, align, clamp: everything before the arithmetic of metrics.

    Args:
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)` or `(height, width)`): Depth, at any
            resolution of the same field of view.
        labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)` or `(label_height, label_width)`):
            Metres; 0, negative and non-finite values mark a missing measurement.
        protocol ([`EvaluationProtocol`]): What to do.

    Raises:
        ValueError: If the two are not as many maps, if the crop is made for another size, or if the alignment finds a
            prediction it cannot use.
    """
    if predicted_depth.ndim != labels.ndim or labels.ndim not in (2, 3):
        raise ValueError(
            f"`predicted_depth` is {tuple(predicted_depth.shape)} and `labels` is {tuple(labels.shape)}; pass "
            "(batch_size, height, width) for both, or one map (height, width) for both."
        )
    if labels.ndim == 2:
        predicted_depth, labels = predicted_depth[None], labels[None]
    if len(predicted_depth) != len(labels):
        raise ValueError(f"`predicted_depth` has {len(predicted_depth)} maps and `labels` {len(labels)}; pass pairs.")

    # Half precision would round a delta at its threshold; Apple's GPUs have no float64.
    device = torch.device("cpu") if labels.device.type == "mps" else labels.device
    measured = labels.detach().to(device=device, dtype=torch.float64)
    predicted = predicted_depth.detach().to(device=device, dtype=torch.float64)
    predicted = _resize(predicted, tuple(labels.shape[-2:]), protocol)

    valid = counted_pixels(measured, protocol)
    if protocol.alignment == "min-max":
        return MatchedDepth(min_max_normalise(predicted, valid), min_max_normalise(measured, valid), valid)
    predicted = align_depth(predicted, measured, valid, protocol.alignment, protocol.max_depth)
    if protocol.clamp:
        lowest, highest = protocol.min_depth, protocol.max_depth
        predicted = predicted.nan_to_num(nan=lowest, posinf=highest, neginf=lowest).clamp(lowest, highest)
    return MatchedDepth(predicted, measured, valid)


def counted_pixels(measured: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """Where `measured`, `(..., height, width)` in metres, lies in the protocol's range and crop; bool of its shape.

    Raises:
        ValueError: If the crop is made for another size.
    """
    inside = torch.zeros_like(measured, dtype=torch.bool)
    rows, columns = crop_window(protocol.crop, *measured.shape[-2:])
    inside[..., rows, columns] = True
    return inside & measured.isfinite() & (measured > protocol.min_depth) & (measured < protocol.max_depth)


def _resize(depth: Tensor, size: tuple[int, int], protocol: EvaluationProtocol) -> Tensor:
    if tuple(depth.shape[-2:]) == size:
        return depth
    if protocol.interpolation == "nearest":
        return F.interpolate(depth[:, None], size=size, mode="nearest-exact")[:, 0]
    return F.interpolate(depth[:, None], size=size, mode=protocol.interpolation, align_corners=protocol.align_corners)[
        :, 0
    ]


__all__ = ["MatchedDepth", "counted_pixels", "match_depth"]
