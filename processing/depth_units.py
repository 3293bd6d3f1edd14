"""Median, range and coverage of measured depth, and whether they can be metres."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .depth_files import MILLIMETRE
from .depth_samples import DepthSample

if TYPE_CHECKING:
    from .depth_datasets import DepthDataset, StreamingDepthDataset

# Photographs of table tops have a median of some 0.4 m, of streets some 15 m. A unit mistaken for another is a factor
# of 4 (1/256 for 1/1000) to 5000: most mistakes leave this range, and no scene between a hand and a square does.
NEAREST_PLAUSIBLE_MEDIAN = 0.2
FARTHEST_PLAUSIBLE_MEDIAN = 80.0

# Metres per stored unit, the usual ones first.
_USUAL_SCALES = {
    "metres": (1.0, "1"),
    "millimetres": (MILLIMETRE, "0.001"),
    "KITTI's 1/256 m": (1 / 256, "0.00390625"),
    "TUM's 1/5000 m": (1 / 5000, "0.0002"),
    "centimetres": (0.01, "0.01"),
}
_PIXELS_OF_A_SAMPLE = 10_000


@dataclass(frozen=True)
class DepthReport:
    """What the measured depth of a few samples looks like.

    Attributes:
        median (`float`): Median of the measured pixels in metres, NaN where there is none; of a sample with more than
            10,000 of them, as many evenly spaced ones count.
        nearest (`float`), farthest (`float`): Range over all measured pixels, in metres.
        valid_share (`float`): Share of the pixels that are measured, 0 to 1.
        num_samples (`int`): How many samples were read.
    """

    median: float
    nearest: float
    farthest: float
    valid_share: float
    num_samples: int

    def __str__(self) -> str:
        if self.valid_share == 0:
            return f"no pixel of {self.num_samples} samples is measured"
        return (
            f"median {self.median:.2f} m, {self.nearest:.2f} m to {self.farthest:.2f} m, "
            f"{self.valid_share:.1%} of the pixels measured ({self.num_samples} samples read)"
        )


def depth_report(
    dataset: "DepthDataset | StreamingDepthDataset | Iterable[DepthSample]", num_samples: int = 32
) -> DepthReport:
    """Read the depth of a few samples: evenly spaced ones, or the first ones of a stream or another iterable.

    Args:
        dataset ([`DepthDataset`], [`StreamingDepthDataset`] or iterable of [`DepthSample`]): The data. Photographs of
            the first two stay closed.
        num_samples (`int`, *optional*, defaults to 32): How many to read at most.

    Raises:
        ValueError: If `num_samples` is below 1 or there is no sample.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` is {num_samples}; read at least 1.")
    measured_values, num_read, num_pixels, num_measured = [], 0, 0, 0
    nearest, farthest = np.inf, -np.inf
    for depth in _some_depth_maps(dataset, num_samples):
        measured = depth[np.isfinite(depth) & (depth > 0)]
        num_read, num_pixels, num_measured = num_read + 1, num_pixels + depth.size, num_measured + measured.size
        if measured.size:
            nearest, farthest = min(nearest, float(measured.min())), max(farthest, float(measured.max()))
            measured_values.append(measured[:: -(-measured.size // _PIXELS_OF_A_SAMPLE)])
    if num_read == 0:
        raise ValueError("`dataset` has no sample; there is no depth to report.")
    if num_measured == 0:
        return DepthReport(float("nan"), float("nan"), float("nan"), 0.0, num_read)
    median = float(np.median(np.concatenate(measured_values)))
    return DepthReport(median, nearest, farthest, num_measured / num_pixels, num_read)


def check_units(report: DepthReport, depth_scale: float | None = None, setting: str = "depth_scale") -> None:
    """Refuse data whose median depth no photograph of the world has: a wrong unit is the most frequent error in data.

    Args:
        report ([`DepthReport`]): What was measured.
        depth_scale (`float`, *optional*): The scale that was applied, in metres per stored unit; `None` where each row
            states its own.
        setting (`str`, *optional*, defaults to `"depth_scale"`): What states the scale, for the message.

    Raises:
        ValueError: If no pixel is measured or the median is not within 0.2 m to 80 m.
    """
    override = "pass `check_units=False` (`--allow_implausible_depth`)"
    if report.valid_share == 0:
        raise ValueError(f"{report}; check how missing pixels are marked, or {override} if that is what you have.")
    if NEAREST_PLAUSIBLE_MEDIAN <= report.median <= FARTHEST_PLAUSIBLE_MEDIAN:
        return
    if depth_scale is None:
        declared, advice = f"the values of `{setting}`", "find out which of them are not metres per stored unit"
    else:
        declared, advice = f"`{setting}={depth_scale:g}`", _likely_scale(report.median / depth_scale, setting)
    raise ValueError(
        f"with {declared} the median depth of {report.num_samples} samples is {report.median:.4g} m, which is not "
        f"within {NEAREST_PLAUSIBLE_MEDIAN:g} m to {FARTHEST_PLAUSIBLE_MEDIAN:g} m; {advice}. If your depth really is "
        f"so, {override}."
    )


def median_depth(dataset: "DepthDataset | StreamingDepthDataset | Iterable[DepthSample]") -> float:
    """Median over all measured pixels of a set, in metres, exact to 1 mm: the trivial predictor.

    Pixels are counted in bins of a millimetre, so memory does not grow with the set.

    Raises:
        ValueError: If no pixel is measured, or half of them are a kilometre away or farther (the scale is wrong).
    """
    last = 1_000_000  # one kilometre in millimetres
    counts = np.zeros(last + 1, dtype=np.int64)
    for depth in _depth_maps(dataset):
        measured = depth[np.isfinite(depth) & (depth > 0)].astype(np.float64)
        millimetres = np.minimum(np.rint(measured / MILLIMETRE), last).astype(np.int64)
        seen = np.bincount(millimetres)
        counts[: len(seen)] += seen
    total = int(counts.sum())
    if total == 0:
        raise ValueError("`dataset` has no measured pixel; check the depth scale and the invalid values.")
    cumulative = np.cumsum(counts)
    lower = np.searchsorted(cumulative, (total - 1) // 2, side="right")
    upper = np.searchsorted(cumulative, total // 2, side="right")
    if upper == last:
        raise ValueError("`dataset` has a median depth of 1 km or more; is its depth scale in metres per stored unit?")
    return float((lower + upper) / 2 * MILLIMETRE)


def _likely_scale(raw_median: float, setting: str) -> str:
    fitting = [
        f"{unit}: pass `{setting}={text}`, which makes the median {raw_median * scale:.3g} m"
        for unit, (scale, text) in _USUAL_SCALES.items()
        if NEAREST_PLAUSIBLE_MEDIAN <= raw_median * scale <= FARTHEST_PLAUSIBLE_MEDIAN
    ]
    if not fitting:
        return f"the stored median is {raw_median:.4g}, which fits no usual unit; find out the metres per stored unit"
    return f"the stored values look like {', or like '.join(fitting)}"


def _depth_maps(dataset) -> Iterator[np.ndarray]:
    """All depth maps, with the photographs left closed where the data set can do so."""
    if hasattr(dataset, "depth_maps"):
        return dataset.depth_maps()
    return (sample.depth for sample in dataset)


def _some_depth_maps(dataset, num_samples: int) -> Iterator[np.ndarray]:
    if hasattr(dataset, "depth") and hasattr(dataset, "__len__"):
        positions = np.linspace(0, len(dataset) - 1, min(num_samples, len(dataset)))
        return (dataset.depth(int(position)) for position in np.rint(positions))
    return islice(_depth_maps(dataset), num_samples)
