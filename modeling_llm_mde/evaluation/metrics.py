"""The nine numbers by which metric depth is compared: per image, then averaged over images."""

import math

import torch
from torch import Tensor

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")


def depth_metrics(
    predicted_depth: Tensor, labels: Tensor, min_depth: float = 1e-3, max_depth: float = 10.0
) -> dict[str, Tensor]:
    r"""Metrics of each image over its valid pixels: finite, `min_depth < labels < max_depth`, both strict.

    With prediction $p$, measured depth $d$ and $e = \ln p - \ln d$: `abs_rel` mean of $|p-d|/d$; `sq_rel` mean of
    $(p-d)^2/d$; `rmse` $\sqrt{\mathrm{mean}\,(p-d)^2}$; `rmse_log` $\sqrt{\mathrm{mean}\,e^2}$ (natural logarithm);
    `log10` mean of $|\log_{10} p - \log_{10} d|$; `silog` $100\sqrt{\mathrm{mean}\,e^2 - (\mathrm{mean}\,e)^2}$, which
    is not the training loss; `delta1..3` share of pixels with $\max(p/d, d/p) < 1.25^k$, strict.

    Nothing is resized, aligned, cropped or clamped here.

    Args:
        predicted_depth (`torch.Tensor` of shape `(batch_size, height, width)` or `(height, width)`): Metres, positive.
        labels (`torch.Tensor` of the same shape): Metres; 0 and non-finite values mark a missing measurement.
        min_depth (`float`, *optional*, defaults to 1e-3): Metres; nearer labels are left out.
        max_depth (`float`, *optional*, defaults to 10.0): Metres; farther labels are left out (NYU 10, KITTI 80).

    Returns:
        `dict[str, torch.Tensor]`: For each name in `METRIC_NAMES` a float64 tensor of shape `(batch_size,)`, or a
        scalar for a single map; NaN for an image without a valid pixel.

    Raises:
        ValueError: If the shapes differ or are not maps, the range is empty, or a prediction at a valid pixel is not
            a positive finite number.
    """
    if predicted_depth.shape != labels.shape or labels.ndim not in (2, 3):
        raise ValueError(
            f"`predicted_depth` is {tuple(predicted_depth.shape)} and `labels` is {tuple(labels.shape)}; pass two "
            "(batch_size, height, width), for example with `post_process_depth_estimation` and its `target_sizes`."
        )
    if not 0 <= min_depth < max_depth:
        raise ValueError(
            f"`min_depth` is {min_depth} and `max_depth` is {max_depth}; pass 0 <= min_depth < max_depth."
        )

    # Half precision would round a delta at its threshold; Apple's GPUs have no float64.
    device = torch.device("cpu") if labels.device.type == "mps" else labels.device
    measured = labels.detach().to(device=device, dtype=torch.float64)
    predicted = predicted_depth.detach().to(device=device, dtype=torch.float64)
    valid = measured.isfinite() & (measured > min_depth) & (measured < max_depth)
    unusable = valid & ~(predicted.isfinite() & (predicted > 0))
    if unusable.any():
        raise ValueError(
            f"`predicted_depth` is not positive and finite at {int(unusable.sum())} of {int(valid.sum())} valid "
            "pixels; clamp it to the range of your protocol first, and say so beside the numbers."
        )

    one = torch.ones((), dtype=torch.float64, device=device)
    d, p = torch.where(valid, measured, one), torch.where(valid, predicted, one)  # invalid pixels: no error, weight 0
    weight = valid.to(torch.float64)
    count = weight.sum(dim=(-2, -1))

    def mean(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=(-2, -1)) / count  # 0/0 = NaN: no valid pixel

    e = p.log() - d.log()
    ratio = torch.maximum(p / d, d / p)
    centred = e - mean(e)[..., None, None].nan_to_num()  # mean e^2 - (mean e)^2 without its cancellation
    return {
        "abs_rel": mean((p - d).abs() / d),
        "sq_rel": mean((p - d).square() / d),
        "rmse": mean((p - d).square()).sqrt(),
        "rmse_log": mean(e.square()).sqrt(),
        "log10": mean(e.abs()) / math.log(10),
        "silog": 100 * mean(centred.square()).sqrt(),
        "delta1": mean((ratio < 1.25).to(torch.float64)),
        "delta2": mean((ratio < 1.25**2).to(torch.float64)),
        "delta3": mean((ratio < 1.25**3).to(torch.float64)),
    }


class DepthMetrics:
    """Mean over images of [`depth_metrics`], batch after batch; only running sums are kept.

    Images without a valid pixel are skipped and counted. Unequal batches change nothing: every image weighs the same.

    Args:
        min_depth (`float`, *optional*, defaults to 1e-3): Metres; nearer labels are left out.
        max_depth (`float`, *optional*, defaults to 10.0): Metres; farther labels are left out.
    """

    def __init__(self, min_depth: float = 1e-3, max_depth: float = 10.0):
        _check_range(min_depth, max_depth)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.reset()

    def reset(self) -> None:
        """Forget every image seen."""
        self._sums = dict.fromkeys(METRIC_NAMES, 0.0)  # Python floats are float64
        self._num_images = 0
        self._num_skipped = 0

    def update(self, predicted_depth: Tensor, labels: Tensor) -> None:
        """Add images, `(batch_size, height, width)` or `(height, width)`, in metres.

        Raises:
            ValueError: As [`depth_metrics`]; the sums then stay as they were.
        """
        per_image = depth_metrics(predicted_depth, labels, self.min_depth, self.max_depth)
        values = torch.stack([per_image[name].reshape(-1) for name in METRIC_NAMES]).cpu()  # (9, batch_size)
        has_valid = ~values[0].isnan()
        for name, total in zip(METRIC_NAMES, values[:, has_valid].sum(dim=1).tolist(), strict=True):
            self._sums[name] += total
        self._num_images += int(has_valid.sum())
        self._num_skipped += int((~has_valid).sum())

    def compute(self) -> dict[str, float]:
        """Return each metric's mean over images, and the counts `num_images` and `num_skipped_images`.

        Raises:
            ValueError: If no image with a valid pixel has been seen.
        """
        if self._num_images == 0:
            raise ValueError(
                f"no image with a valid pixel was seen ({self._num_skipped} skipped); check that the labels are "
                f"metres between `min_depth` {self.min_depth} and `max_depth` {self.max_depth}."
            )
        means = {name: total / self._num_images for name, total in self._sums.items()}
        return means | {"num_images": self._num_images, "num_skipped_images": self._num_skipped}


def _check_range(min_depth: float, max_depth: float) -> None:
    if not 0 <= min_depth < max_depth:
        raise ValueError(f"`min_depth` is {min_depth} and `max_depth` {max_depth}; pass 0 <= min_depth < max_depth.")
