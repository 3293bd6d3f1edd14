"""The training loss of LLM-MDE."""

import torch
from torch import Tensor

_SMALLEST_VARIANCE = 1e-12  # below it the loss is flat: the slope of a square root at 0 is infinite

LOSS_REDUCTIONS = ("image", "batch")


def silog_loss(
    predicted_depth: Tensor,
    labels: Tensor,
    variance_focus: float = 0.15,
    max_depth: float | None = None,
    reduction: str = "image",
) -> Tensor:
    r"""Scale-invariant logarithmic loss over measured pixels (Eigen et al., 2014, Eq. 4, square-rooted).

    With $d = \log \hat y - \log y$ over measured pixels, $\sqrt{\mathrm{mean}(d^2) - \lambda\,\mathrm{mean}(d)^2}$ for
    each image (as Eigen et al.), averaged over the images of the batch. So gradient accumulation and several processes
    compute what one large batch does, and one unknown factor for each image costs nothing at $\lambda = 1$.
    `reduction="batch"` takes all pixels of the batch as one image, as most published code does: images that are too
    far and images that are too near then cancel in $\mathrm{mean}(d)$, so that $\lambda$ forgives scale only as far as
    the batch shares it. With n images and independent scale errors, its $\lambda$ acts like $\lambda / n$ here.

    Computed in float32 or better, whatever the autocast context. The metric `silog` is another formula
    ($\lambda = 1$, times 100).

    Args:
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)`): Depth in metres, positive.
        labels (`torch.Tensor` of the same shape): Depth in metres. A pixel that is not finite, not positive, or above
            `max_depth` counts as missing.
        variance_focus (`float`, *optional*, defaults to 0.15): $\lambda$; at 1 a global scale error costs nothing.
        max_depth (`float`, *optional*): Largest label that counts, in metres. Defaults to no limit.
        reduction (`str`, *optional*, defaults to `"image"`): `"image"` or `"batch"`. An image without a measured
            pixel counts as a perfect one.

    Returns:
        `torch.Tensor`: Scalar, finite also when no pixel is measured (then 0, still attached to the graph) and when
        the prediction is perfect.

    Raises:
        ValueError: If the two shapes differ, or `reduction` is neither of the two.
    """
    with torch.autocast(predicted_depth.device.type, enabled=False):
        depth, labels, valid_mask = _measured(predicted_depth, labels, max_depth)
        pixels = _pixels_of(reduction)
        difference = depth.log() - labels.log()
        count = valid_mask.sum(pixels).clamp_min(1)
        mean_of_square = difference.square().sum(pixels) / count
        square_of_mean = (difference.sum(pixels) / count).square()
        variance = mean_of_square - variance_focus * square_of_mean
        loss = variance.clamp_min(_SMALLEST_VARIANCE).sqrt()
        return torch.where(valid_mask.any(pixels), loss, 0.0 * depth.sum(pixels)).mean()


def relative_loss(
    predicted_depth: Tensor, labels: Tensor, max_depth: float | None = None, reduction: str = "image"
) -> Tensor:
    r"""Mean absolute relative error $|\hat y - y| / y$ over measured pixels: the metric `abs_rel` as a loss.

    SILog is smallest at the geometric mean of what depth may be. Too far by a factor costs more in `abs_rel` than too
    near by the same factor, so that a model in doubt does better to say less; this term tells it to.

    Arguments, result and errors as for [`silog_loss`].
    """
    with torch.autocast(predicted_depth.device.type, enabled=False):
        depth, labels, valid_mask = _measured(predicted_depth, labels, max_depth)
        pixels = _pixels_of(reduction)
        error = (depth - labels).abs() / labels
        return (error.sum(pixels) / valid_mask.sum(pixels).clamp_min(1)).mean()


def _measured(predicted_depth: Tensor, labels: Tensor, max_depth: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both in float32 or better with 1 in missing pixels, and which ones are measured."""
    if predicted_depth.shape != labels.shape:
        raise ValueError(
            f"`labels` is {tuple(labels.shape)} but `predicted_depth` is {tuple(predicted_depth.shape)}; pass both as "
            "(batch_size, height, width) at one size. The model's `forward` resizes its prediction to the labels."
        )
    dtype = torch.promote_types(predicted_depth.dtype, torch.float32)
    predicted_depth, labels = predicted_depth.to(dtype), labels.to(dtype)
    valid_mask = labels.isfinite() & (labels > 0)
    if max_depth is not None:
        valid_mask = valid_mask & (labels <= max_depth)
    # Missing pixels take part without error instead of being selected out: static shapes, and no NaN in backward.
    return torch.where(valid_mask, predicted_depth, 1.0), torch.where(valid_mask, labels, 1.0), valid_mask


def _pixels_of(reduction: str) -> tuple[int, ...]:
    """The dimensions that are averaged before anything else."""
    if reduction not in LOSS_REDUCTIONS:
        raise ValueError(f"`reduction` is {reduction!r}; it must be 'image' or 'batch'.")
    return (1, 2) if reduction == "image" else (0, 1, 2)


__all__ = ["LOSS_REDUCTIONS", "relative_loss", "silog_loss"]
