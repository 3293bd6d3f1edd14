"""Alignments of a prediction to the measured depth of its image, in closed form and float64."""

import torch
from torch import Tensor

MIN_MAX_FLOOR = 1e-3  # of the stretched maps, in the authors' code


def align_depth(
    predicted_depth: Tensor, labels: Tensor, valid_mask: Tensor, alignment: str, max_depth: float = float("inf")
) -> Tensor:
    r"""The prediction with what its protocol forgives taken away, image by image on valid pixels.

    With prediction $p$ and measured depth $d$ on valid pixels:

    - `"none"`: $p$.
    - `"median"`: $p \cdot \mathrm{median}(d) / \mathrm{median}(p)$; of an even number of pixels the mean of the middle
      two.
    - `"scale-shift-depth"`: $s p + t$ with the least squares of $\sum (s p + t - d)^2$. $s$ may be negative and the
      result too: the protocol clamps it to its range, so that depth at or below zero becomes `min_depth`.
    - `"scale-shift-disparity"`: the same with $1/p$ and $1/d$, then inverted. Disparity below `1 / max_depth`, zero
      and negative included, becomes `max_depth`. For the output $q$ of a disparity model pass $1/q$ as prediction.

    Where scale cannot be told from shift (a constant prediction, one valid pixel) the scale is 1 and the shift meets
    the mean. An image without a valid pixel stays as it is.

    Args:
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)`): float64.
        labels (`torch.Tensor` of the same shape): Metres, float64.
        valid_mask (`torch.Tensor` of the same shape): Bool; the pixels that count.
        alignment (`str`): One of the above.
        max_depth (`float`, *optional*): Metres, for disparity.

    Returns:
        `torch.Tensor` of the same shape.

    Raises:
        ValueError: If a prediction at a valid pixel is not finite or, where it is divided by, not positive.
    """
    if alignment == "none":
        return predicted_depth
    _check_usable(predicted_depth, valid_mask, alignment)
    if alignment == "median":
        return predicted_depth * _median_ratio(predicted_depth, labels, valid_mask)[:, None, None]
    if alignment == "scale-shift-depth":
        scale, shift = fit_scale_and_shift(predicted_depth, labels, valid_mask)
        return scale * predicted_depth + shift
    if alignment == "scale-shift-disparity":
        disparity = 1 / predicted_depth
        scale, shift = fit_scale_and_shift(disparity, 1 / labels, valid_mask)
        return 1 / (scale * disparity + shift).clamp_min(1 / max_depth)
    raise ValueError(f"`alignment` is {alignment!r}, which does not align a prediction alone.")


def fit_scale_and_shift(source: Tensor, target: Tensor, valid_mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""$s$ and $t$ of shape `(batch_size, 1, 1)` that minimise $\sum (s \cdot source + t - target)^2$ where valid.

    The normal equations of the centred values: $s = \mathrm{cov} / \mathrm{var}$, $t$ from the means.
    """
    count = valid_mask.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    x, y = torch.where(valid_mask, source, 0.0), torch.where(valid_mask, target, 0.0)
    mean_x, mean_y = x.sum((-2, -1), keepdim=True) / count, y.sum((-2, -1), keepdim=True) / count
    centred_x = torch.where(valid_mask, source - mean_x, 0.0)
    centred_y = torch.where(valid_mask, target - mean_y, 0.0)
    variance = centred_x.square().sum((-2, -1), keepdim=True) / count
    covariance = (centred_x * centred_y).sum((-2, -1), keepdim=True) / count
    # Rounding leaves a constant map a variance of some 1e-32 of its square; a scale from that would be noise.
    is_constant = variance <= 1e-20 * mean_x.square()
    scale = torch.where(is_constant, 1.0, covariance / torch.where(is_constant, 1.0, variance))
    return scale, mean_y - scale * mean_x


def min_max_normalise(depth: Tensor, valid_mask: Tensor) -> Tensor:
    """Each map stretched to 0 ... 1 between its extremes on valid pixels, then with a floor of 0.001.

    A constant map becomes the floor everywhere.

    Raises:
        ValueError: If a value at a valid pixel is not finite.
    """
    _check_usable(depth, valid_mask, "min-max")
    lowest = torch.where(valid_mask, depth, float("inf")).amin(dim=(-2, -1), keepdim=True)
    highest = torch.where(valid_mask, depth, -float("inf")).amax(dim=(-2, -1), keepdim=True)
    spread = (highest - lowest).clamp_min(torch.finfo(depth.dtype).tiny)
    stretched = torch.where(valid_mask, (depth - lowest) / spread, 0.0)
    return stretched.clamp_min(MIN_MAX_FLOOR)


def _median_ratio(predicted_depth: Tensor, labels: Tensor, valid_mask: Tensor) -> Tensor:
    ratios = torch.ones(len(labels), dtype=labels.dtype, device=labels.device)
    for index, valid in enumerate(valid_mask):
        if valid.any():
            ratios[index] = _median(labels[index][valid]) / _median(predicted_depth[index][valid])
    return ratios


def _median(values: Tensor) -> Tensor:
    ordered = values.sort().values  # torch.median gives the lower of two middle values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _check_usable(depth: Tensor, valid_mask: Tensor, alignment: str) -> None:
    usable = depth.isfinite()
    if alignment in ("median", "scale-shift-disparity"):
        usable &= depth > 0
    unusable = valid_mask & ~usable
    if unusable.any():
        raise ValueError(
            f"`predicted_depth` is not finite, or not positive, at {int(unusable.sum())} of {int(valid_mask.sum())} "
            f"valid pixels, which the alignment {alignment!r} cannot use; look for NaN in the model's output."
        )


__all__ = ["align_depth", "fit_scale_and_shift", "min_max_normalise"]
