"""Image processor of LLM-MDE on Pillow and NumPy, for machines without torchvision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling, SizeDict

from .depth_image_processing_llm_mde import DepthImageProcessingMixin, LLMMDEImageProcessorKwargs


class LLMMDEImageProcessorPil(DepthImageProcessingMixin, PilBackend):
    """The image processor of LLM-MDE with Pillow's resampling, which differs from torchvision's by one 8-bit level.

    Arguments and results are those of `LLMMDEImageProcessor`. It is saved under that name, so `backend="pil"` in
    `AutoImageProcessor.from_pretrained` gets it back.
    """

    def _from_tensor(self, tensor: Tensor, device: str | torch.device | None) -> np.ndarray:
        return tensor.cpu().numpy()

    def _resize_images(
        self,
        images: list[np.ndarray],
        target_size: Callable[[tuple[int, int]], tuple[int, int]],
        resample: PILImageResampling | int,
        disable_grouping: bool | None,
    ) -> list[np.ndarray]:
        resized = []
        for image in images:
            height, width = target_size(image.shape[-2:])
            resized.append(self.resize(image, SizeDict(height=height, width=width), resample))
        return resized

    def _scale_images(
        self,
        images: list[np.ndarray],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        **kwargs: Any,
    ) -> list[np.ndarray]:
        images = [image.astype(np.float32) for image in images]
        if do_rescale:
            images = [self.rescale(image, rescale_factor) for image in images]
        if do_normalize:
            images = [self.normalize(image, image_mean, image_std) for image in images]
        return images


__all__ = ["LLMMDEImageProcessorKwargs", "LLMMDEImageProcessorPil"]
