"""Predictors that have not looked at the photograph: what a model has to beat."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from llm_mde.processing import DepthSample, median_depth


class MedianDepthBaseline:
    """One depth for every pixel of every photograph: the median of the training set.

    ```python
    >>> from llm_mde.evaluation import MedianDepthBaseline, evaluate_depth
    >>> from llm_mde.processing import RGBDFolder

    >>> baseline = MedianDepthBaseline.fit(RGBDFolder("my_frames", split="train"))
    >>> evaluate_depth(None, None, RGBDFolder("my_frames", split="val"), predict=baseline).metrics
    ```

    Args:
        depth (`float`): Metres.
    """

    def __init__(self, depth: float):
        self.depth = depth
        self.name = f"median depth, {depth:.2f} m"

    @classmethod
    def fit(cls, train_dataset: Iterable[DepthSample]) -> "MedianDepthBaseline":
        """Take the median over all measured pixels.

        Raises:
            ValueError: If no pixel is measured.
        """
        return cls(median_depth(train_dataset))

    def predict(self, height: int, width: int) -> Tensor:
        """The prediction for a photograph of this size, float32 `(height, width)` in metres."""
        return torch.full((height, width), self.depth)

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Predict photographs, of which nothing but the size is read: the `predict` of `evaluate_depth`."""
        return [self.predict(image.height, image.width) for image in images]


class MeanDepthMapBaseline:
    """One map for every photograph: at each place of the frame the mean depth measured there in the training set.

    Depths are averaged as logarithms (the geometric mean), as SILog and the relative errors count: on the frames of
    NYU Depth v2 this map is a harder one to beat than that of the arithmetic mean in every metric but `delta1`.

    Args:
        depth_map (`torch.Tensor` of shape `(height, width)`): Metres, positive.
    """

    name = "geometric mean depth of each pixel"

    def __init__(self, depth_map: Tensor):
        self.depth_map = depth_map

    @classmethod
    def fit(cls, train_dataset: Iterable[DepthSample], size: tuple[int, int] = (60, 80)) -> "MeanDepthMapBaseline":
        """Average the logarithm of measured depth map by map, at one size for all; memory does not grow with the set.

        An image enters a cell of the map with the mean logarithm of what is measured in it, weighted by how much of
        the cell is measured. At the size of the depth maps this is the mean of each pixel. A cell that is measured in
        no image takes the mean of the others.

        Args:
            train_dataset (iterable of [`DepthSample`]): The training set.
            size (`tuple[int, int]`, *optional*, defaults to `(60, 80)`): Height and width of the map.

        Raises:
            ValueError: If a side of `size` is not positive, or no pixel is measured.
        """
        if min(size) < 1:
            raise ValueError(f"`size` is {size}; pass a positive height and width.")
        total = torch.zeros(size, dtype=torch.float64)
        share = torch.zeros(size, dtype=torch.float64)
        for depth in _depth_maps(train_dataset):
            depth = torch.tensor(depth, dtype=torch.float64)
            measured = depth.isfinite() & (depth > 0)
            both = torch.stack([torch.where(measured, depth, 1.0).log(), measured.to(torch.float64)])
            cells = F.adaptive_avg_pool2d(both, size)
            total += cells[0]
            share += cells[1]
        is_measured = share > 0
        if not is_measured.any():
            raise ValueError("`train_dataset` has no measured pixel; check the depth scale and the invalid values.")
        mean = total / share.clamp_min(torch.finfo(torch.float64).tiny)
        return cls(torch.where(is_measured, mean, mean[is_measured].mean()).exp().float())

    def predict(self, height: int, width: int) -> Tensor:
        """The map at this size, float32 `(height, width)` in metres, bilinear."""
        if tuple(self.depth_map.shape) == (height, width):
            return self.depth_map
        return F.interpolate(self.depth_map[None, None], size=(height, width), mode="bilinear")[0, 0]

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Predict photographs, of which nothing but the size is read: the `predict` of `evaluate_depth`."""
        return [self.predict(image.height, image.width) for image in images]


def _depth_maps(dataset: Iterable[DepthSample]) -> Iterator[np.ndarray]:
    """Measured maps, float32 in metres, without opening photographs where the dataset offers that."""
    return dataset.depth_maps() if hasattr(dataset, "depth_maps") else (sample.depth for sample in dataset)


__all__ = ["MeanDepthMapBaseline", "MedianDepthBaseline"]
