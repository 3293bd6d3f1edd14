"""Predictors that have not looked at the photograph: what a model has to beat."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from llm_mde.processing import DepthSample, median_depth

from .matching import counted_pixels
from .protocols import EvaluationProtocol, get_protocol

MEANS = ("geometric", "arithmetic")
_GRID = (60, 80)  # height and width of mean maps


class MedianDepthBaseline:
    """One depth for every pixel of every photograph: the median of the training set.

    ```python
    >>> from llm_mde.evaluation import MedianDepthBaseline, evaluate_depth
    >>> from llm_mde.processing import RGBDFolder

    >>> baseline = MedianDepthBaseline.fit(RGBDFolder("my_frames", split="train"), protocol="plain")
    >>> evaluate_depth(None, None, RGBDFolder("my_frames", split="val"), "plain", predict=baseline).metrics
    ```

    Args:
        depth (`float`): Metres.
    """

    def __init__(self, depth: float):
        self.depth = depth
        self.name = f"median depth, {depth:.2f} m"

    @classmethod
    def fit(
        cls, train_dataset: Iterable[DepthSample], protocol: str | EvaluationProtocol | None = None
    ) -> "MedianDepthBaseline":
        """Take the median over the measured pixels.

        Args:
            train_dataset (iterable of [`DepthSample`]): The training set.
            protocol (`str` or [`EvaluationProtocol`], *optional*): Of the evaluation. Only pixels inside its range and
                crop are then taken, since no other pixel will count: the median of a street up to 80 m lies beyond
                a cap of 10 m, where nothing is right. A crop is left out on maps of a size it is not made for.

        Raises:
            ValueError: If no pixel is measured, or the protocol counts none.
        """
        return cls(median_depth(_CountedDepth.of(train_dataset, protocol)))

    def predict(self, height: int, width: int) -> Tensor:
        """The prediction for a photograph of this size, float32 `(height, width)` in metres."""
        return torch.full((height, width), self.depth)

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Predict photographs, of which nothing but the size is read: the `predict` of `evaluate_depth`."""
        return [self.predict(image.height, image.width) for image in images]


class MeanDepthMapBaseline:
    """One map for every photograph: at each place of the frame the mean depth measured there in the training set.

    The arithmetic mean is what is usually meant by the mean depth of each pixel. The geometric one averages
    logarithms, as SILog and the relative errors count: on the frames of NYU Depth v2 it is the harder one to beat in
    every metric but `delta1`.

    Args:
        depth_map (`torch.Tensor` of shape `(height, width)`): Metres, positive.
        mean (`str`, *optional*, defaults to `"geometric"`): Which mean the map holds, or `"arithmetic"`.

    Raises:
        ValueError: If `mean` is neither.
    """

    def __init__(self, depth_map: Tensor, mean: str = "geometric"):
        self.depth_map = depth_map
        self.mean = _known_mean(mean)
        self.name = f"per-pixel mean depth ({mean}, {depth_map.shape[0]} x {depth_map.shape[1]} grid)"

    @classmethod
    def fit(
        cls,
        train_dataset: Iterable[DepthSample],
        size: tuple[int, int] = _GRID,
        mean: str = "geometric",
        protocol: str | EvaluationProtocol | None = None,
    ) -> "MeanDepthMapBaseline":
        """Average measured depth map by map, at one size for all; memory does not grow with the set.

        An image enters a cell of the map with the mean of what is measured in it, weighted by how much of the cell is
        measured. At the size of the depth maps this is the mean of each pixel. A cell that is measured in no image,
        such as one outside the crop, takes the mean of its neighbours, and so on outwards.

        Args:
            train_dataset (iterable of [`DepthSample`]): The training set.
            size (`tuple[int, int]`, *optional*, defaults to `(60, 80)`): Height and width of the map.
            mean (`str`, *optional*, defaults to `"geometric"`): Or `"arithmetic"`.
            protocol (`str` or [`EvaluationProtocol`], *optional*): As in [`MedianDepthBaseline.fit`].

        Raises:
            ValueError: If a side of `size` is not positive, `mean` is unknown, no pixel is measured, or the protocol
                counts none.
        """
        sums = _SumsOfMaps(size, mean)
        for depth in _CountedDepth.of(train_dataset, protocol).depth_maps():
            sums.add(depth)
        return cls(sums.mean_map(), mean)

    def predict(self, height: int, width: int) -> Tensor:
        """The map at this size, float32 `(height, width)` in metres, bilinear."""
        if tuple(self.depth_map.shape) == (height, width):
            return self.depth_map
        return F.interpolate(self.depth_map[None, None], size=(height, width), mode="bilinear")[0, 0]

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Predict photographs, of which nothing but the size is read: the `predict` of `evaluate_depth`."""
        return [self.predict(image.height, image.width) for image in images]


def fit_baselines(
    train_dataset: Iterable[DepthSample], protocol: str | EvaluationProtocol | None = None
) -> list[MedianDepthBaseline | MeanDepthMapBaseline]:
    """The median and both mean maps of a training set, each depth map read once.

    Args:
        train_dataset (iterable of [`DepthSample`]): The training set.
        protocol (`str` or [`EvaluationProtocol`], *optional*): As in [`MedianDepthBaseline.fit`].

    Raises:
        ValueError: If no pixel is measured, or the protocol counts none.
    """
    sums = [_SumsOfMaps(_GRID, mean) for mean in MEANS]
    median = median_depth(_CountedDepth.of(train_dataset, protocol, sums))
    return [MedianDepthBaseline(median), *(MeanDepthMapBaseline(each.mean_map(), each.mean) for each in sums)]


class _SumsOfMaps:
    """What a mean map is made of, taken up map by map."""

    def __init__(self, size: tuple[int, int], mean: str):
        if min(size) < 1:
            raise ValueError(f"`size` is {size}; pass a positive height and width.")
        self.mean = _known_mean(mean)
        self._total = torch.zeros(size, dtype=torch.float64)
        self._share = torch.zeros(size, dtype=torch.float64)

    def add(self, depth: np.ndarray) -> None:
        depth = torch.tensor(depth, dtype=torch.float64)
        measured = depth > 0
        values = torch.where(measured, depth, 1.0).log() if self.mean == "geometric" else depth
        cells = F.adaptive_avg_pool2d(torch.stack([values, measured.to(torch.float64)]), self._total.shape)
        self._total += cells[0]
        self._share += cells[1]

    def mean_map(self) -> Tensor:
        """Float32 `(height, width)` in metres."""
        depth_map = _mean_with_neighbours(self._total, self._share)
        return (depth_map.exp() if self.mean == "geometric" else depth_map).float()


@dataclass(frozen=True)
class _CountedDepth:
    """The measured maps of a training set, in which every pixel that a protocol would not count is missing. Each map
    also goes to `sums`."""

    dataset: Iterable[DepthSample]
    protocol: EvaluationProtocol
    sums: Sequence[_SumsOfMaps] = ()

    @classmethod
    def of(
        cls,
        dataset: Iterable[DepthSample],
        protocol: str | EvaluationProtocol | None,
        sums: Sequence[_SumsOfMaps] = (),
    ) -> "_CountedDepth":
        anything = EvaluationProtocol("every measured pixel", min_depth=0.0, max_depth=math.inf)
        return cls(dataset, anything if protocol is None else get_protocol(protocol), sums)

    def depth_maps(self) -> Iterator[np.ndarray]:
        """Each map, float32 in metres, 0 where nothing counts; photographs stay closed where the set allows it.

        Raises:
            ValueError: After the last map, if no pixel counted in any.
        """
        any_counted = False
        maps = self.dataset.depth_maps() if hasattr(self.dataset, "depth_maps") else (s.depth for s in self.dataset)
        for depth in maps:
            counted = self._counted(torch.tensor(depth)).numpy()
            any_counted |= bool(counted.any())
            depth = np.where(counted, depth, np.float32(0))
            for each in self.sums:
                each.add(depth)
            yield depth
        if not any_counted:
            protocol = self.protocol
            raise ValueError(
                f"`train_dataset` has no measured pixel between {protocol.min_depth:g} and {protocol.max_depth:g} m "
                f"inside the crop {protocol.crop}; check the depth scale, the invalid values and the protocol."
            )

    def _counted(self, depth: Tensor) -> Tensor:
        try:
            return counted_pixels(depth, self.protocol)
        except ValueError:  # the crop is made for the size of another set
            return counted_pixels(depth, get_protocol(self.protocol, crop=None))


def _mean_with_neighbours(total: Tensor, share: Tensor) -> Tensor:
    """`total / share`; where the share is 0, the mean of the neighbours that have a value, ring after ring."""
    is_known = share > 0
    values = torch.where(is_known, total / share, 0.0)
    while not is_known.all():
        near = F.avg_pool2d(torch.stack([values, is_known.to(values.dtype)]), kernel_size=3, stride=1, padding=1)
        values = torch.where(is_known, values, torch.where(near[1] > 0, near[0] / near[1], 0.0))
        is_known = near[1] > 0
    return values


def _known_mean(mean: str) -> str:
    if mean not in MEANS:
        raise ValueError(f"`mean` is {mean!r}; choose one of {', '.join(MEANS)}.")
    return mean


__all__ = ["MeanDepthMapBaseline", "MedianDepthBaseline", "fit_baselines"]
