"""The nine numbers by which metric depth is compared: per image, then averaged over images."""

import math

import torch
from torch import Tensor

from .boundaries import boundary_f1
from .matching import MatchedDepth, match_depth
from .processes import gather_in_order
from .protocols import EvaluationProtocol, get_protocol

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
BOUNDARY_METRIC = "boundary_f1"


def depth_metrics(
    predicted_depth: Tensor, labels: Tensor, min_depth: float = 1e-3, max_depth: float = 10.0
) -> dict[str, Tensor]:
    r"""Metrics of each image over its valid pixels: finite, `min_depth < labels < max_depth`, both strict.

    With prediction $p$, measured depth $d$ and $e = \ln p - \ln d$: `abs_rel` mean of $|p-d|/d$; `sq_rel` mean of
    $(p-d)^2/d$; `rmse` $\sqrt{\mathrm{mean}\,(p-d)^2}$; `rmse_log` $\sqrt{\mathrm{mean}\,e^2}$ (natural logarithm);
    `log10` mean of $|\log_{10} p - \log_{10} d|$; `silog` $100\sqrt{\mathrm{mean}\,e^2 - (\mathrm{mean}\,e)^2}$, which
    is not the training loss; `delta1..3` share of pixels with $\max(p/d, d/p) < 1.25^k$, strict.

    Nothing is resized, aligned, cropped or clamped here; [`DepthMetrics`] does that with a protocol.

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
    protocol = get_protocol("plain", min_depth=min_depth, max_depth=max_depth)
    values = _measure(match_depth(predicted_depth, labels, protocol))
    return values if labels.ndim == 3 else {name: value[0] for name, value in values.items()}


def measure_depth(
    matched: MatchedDepth, protocol: EvaluationProtocol, with_boundaries: bool = False
) -> dict[str, Tensor]:
    """The metrics that a protocol knows, of each image of maps from [`match_depth`]: see [`metric_names`].

    Raises:
        ValueError: If a prediction at a valid pixel is not a positive finite number.
    """
    values = _measure(matched)
    if with_boundaries:
        values[BOUNDARY_METRIC] = boundary_f1(matched.predicted, matched.measured, matched.valid)
    return {name: values[name] for name in metric_names(protocol, with_boundaries)}


def metric_names(protocol: EvaluationProtocol, with_boundaries: bool = False) -> tuple[str, ...]:
    """The nine, and the boundary F1 where asked for; of maps stretched to 0 ... 1 only the deltas, as in their source.

    In stretched maps metres are gone and ratios of neighbours say nothing.
    """
    if protocol.alignment == "min-max":
        return tuple(name for name in METRIC_NAMES if name.startswith("delta"))
    return METRIC_NAMES + ((BOUNDARY_METRIC,) if with_boundaries else ())


class DepthMetrics:
    """Mean over images of what a protocol measures, batch after batch; only running sums are kept.

    Images without a valid pixel are skipped and counted. Unequal batches change nothing: every image weighs the same.

    ```python
    >>> import torch
    >>> from llm_mde.evaluation import DepthMetrics

    >>> metrics = DepthMetrics(protocol="nyu-eigen")  # or DepthMetrics(), or DepthMetrics(max_depth=80.0)
    >>> labels = torch.full((2, 480, 640), 2.0)
    >>> values = metrics.update(1.5 * labels, labels)
    >>> metrics.compute()["abs_rel"]
    0.5
    ```

    Args:
        min_depth (`float`, *optional*): Metres; nearer labels are left out. Replaces the protocol's (1e-3 for plain).
        max_depth (`float`, *optional*): Metres; farther labels are left out. Replaces the protocol's (10 for plain).
        protocol (`str` or [`EvaluationProtocol`], *optional*, defaults to `"plain"`): Crop, alignment and the rest.
        with_boundaries (`bool`, *optional*, defaults to `False`): Whether to add `boundary_f1`, which costs more
            than all others together. Images whose measured depth has no boundary do not enter its mean.
    """

    def __init__(
        self,
        min_depth: float | None = None,
        max_depth: float | None = None,
        protocol: str | EvaluationProtocol = "plain",
        with_boundaries: bool = False,
    ):
        limits = {"min_depth": min_depth, "max_depth": max_depth}
        self.protocol = get_protocol(protocol, **{name: value for name, value in limits.items() if value is not None})
        self.metric_names = metric_names(self.protocol, with_boundaries)
        self.with_boundaries = BOUNDARY_METRIC in self.metric_names
        self.reset()

    def reset(self) -> None:
        """Forget every image seen."""
        self._sums = dict.fromkeys(self.metric_names, 0.0)  # Python floats are float64
        self._num_images = 0
        self._num_skipped = 0
        self._num_with_boundaries = 0

    def update(self, predicted_depth: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Add images, `(batch_size, height, width)` or one `(height, width)`, in metres.

        Predictions of another size than the labels are resized to them as the protocol says.

        Returns:
            `dict[str, torch.Tensor]`: What was added: for each metric float64 of shape `(batch_size,)`, NaN for a
            skipped image, and `num_pixels`, how many pixels of each image counted.

        Raises:
            ValueError: As [`match_depth`] and [`measure_depth`]; the sums then stay as they were.
        """
        matched = match_depth(predicted_depth, labels, self.protocol)
        per_image = measure_depth(matched, self.protocol, self.with_boundaries)
        num_pixels = matched.valid.sum(dim=(-2, -1))
        has_valid = num_pixels > 0
        # An image without pixels has NaN everywhere, one without a boundary there alone.
        totals = torch.stack([per_image[name] for name in self.metric_names]).nansum(dim=1).tolist()
        for name, total in zip(self.metric_names, totals, strict=True):
            self._sums[name] += total
        self._num_images += int(has_valid.sum())
        self._num_skipped += int((~has_valid).sum())
        if self.with_boundaries:
            self._num_with_boundaries += int((~per_image[BOUNDARY_METRIC].isnan()).sum())
        return per_image | {"num_pixels": num_pixels}

    def compute(self, gather: bool = True) -> dict[str, float]:
        """Return each metric's mean over images, and the counts `num_images` and `num_skipped_images`.

        Where `torch.distributed` runs, the sums of all processes are added in the order of their ranks, and each
        process gets the same result; all of them have to call. Each image must have been seen by one process. A
        data loader that Accelerate prepared repeats samples so that the last batch reaches everybody. To count them
        once, either pass what `accelerator.gather_for_metrics` returns to `update`, which has dropped the repeated
        ones and gives every process everything, and call `compute(gather=False)` (the Trainer's `batch_eval_metrics`
        gathers so by itself); or let each process have its own images, as [`evaluate_depth`] does, and call
        `compute()`.

        Args:
            gather (`bool`, *optional*, defaults to `True`): Whether to add the sums of the other processes.

        Returns:
            `dict[str, float]`: With boundaries also `num_images_with_boundaries`; their mean is NaN if that is 0.

        Raises:
            ValueError: If no image with a valid pixel has been seen.
        """
        own = [*self._sums.values(), self._num_images, self._num_skipped, self._num_with_boundaries]
        rows = gather_in_order(own) if gather else [own]
        *sums, num_images, num_skipped, num_with_boundaries = (sum(column) for column in zip(*rows, strict=True))
        if num_images == 0:
            raise ValueError(no_valid_pixel(num_skipped, self.protocol))
        means = {name: total / num_images for name, total in zip(self.metric_names, sums, strict=True)}
        counts = {"num_images": num_images, "num_skipped_images": num_skipped}
        if self.with_boundaries:
            means[BOUNDARY_METRIC] = sums[-1] / num_with_boundaries if num_with_boundaries else math.nan
            counts["num_images_with_boundaries"] = num_with_boundaries
        return means | counts


def no_valid_pixel(num_skipped: int, protocol: EvaluationProtocol) -> str:
    """What to say where nothing could be measured."""
    return (
        f"no image with a valid pixel was seen ({num_skipped} skipped); check that the labels are metres between "
        f"`min_depth` {protocol.min_depth:g} and `max_depth` {protocol.max_depth:g} inside the crop {protocol.crop}."
    )


def _measure(matched: MatchedDepth) -> dict[str, Tensor]:
    """The nine metrics of each image, NaN for one without a valid pixel."""
    valid = matched.valid
    unusable = valid & ~(matched.predicted.isfinite() & (matched.predicted > 0))
    if unusable.any():
        raise ValueError(
            f"`predicted_depth` is not positive and finite at {int(unusable.sum())} of {int(valid.sum())} valid "
            "pixels; clamp it, or choose a protocol that does (`clamp=True`), which then stands beside the numbers."
        )
    # Invalid pixels: no error, and weight 0.
    d, p = torch.where(valid, matched.measured, 1.0), torch.where(valid, matched.predicted, 1.0)
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


__all__ = [
    "BOUNDARY_METRIC",
    "METRIC_NAMES",
    "DepthMetrics",
    "depth_metrics",
    "measure_depth",
    "metric_names",
]
