"""Image processor of LLM-MDE on torchvision: the default one, which also works on tensors of an accelerator."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import PILImageResampling, SizeDict

from .depth_image_processing_llm_mde import DepthImageProcessingMixin, LLMMDEImageProcessorKwargs


class LLMMDEImageProcessor(DepthImageProcessingMixin, TorchvisionBackend):
    r"""Prepares photographs, and for training their depth maps, for LLM-MDE.

    Images are read as 8-bit RGB, resized to 224 x 224 bilinearly with antialiasing, rescaled to [0, 1] and normalised
    to [-1, 1]. Depth maps become `labels` in metres. Arguments are those of `LLMMDEImageProcessorKwargs` and
    `ImagesKwargs`; each can be set here and overridden in the call.

    Example:

    ```python
    >>> from llm_mde.processing import LLMMDEImageProcessor

    >>> image_processor = LLMMDEImageProcessor()
    >>> inputs = image_processor("kitchen.jpg", "kitchen_depth.png", depth_scale=0.001, return_tensors="pt")
    >>> inputs["labels"].shape  # metres
    torch.Size([1, 224, 224])
    ```
    """

    def _from_tensor(self, tensor: Tensor, device: str | torch.device | None) -> Tensor:
        return tensor if device is None else tensor.to(device)

    def _resize_images(
        self,
        images: list[Tensor],
        target_size: Callable[[tuple[int, int]], tuple[int, int]],
        resample: PILImageResampling | int,
        disable_grouping: bool | None,
    ) -> list[Tensor]:
        def resize(batch: Tensor) -> Tensor:
            height, width = target_size(batch.shape[-2:])
            return self.resize(batch, SizeDict(height=height, width=width), resample)

        return _map_groups(resize, images, disable_grouping)

    def _scale_images(
        self,
        images: list[Tensor],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        disable_grouping: bool | None,
        **kwargs: Any,
    ) -> list[Tensor]:
        def scale(batch: Tensor) -> Tensor:
            batch = self.rescale_and_normalize(batch, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            return batch.to(torch.float32)

        return _map_groups(scale, images, disable_grouping)


def _map_groups(
    operation: Callable[[Tensor], Tensor], images: list[Tensor], disable_grouping: bool | None
) -> list[Tensor]:
    """Applies `operation` to batches of images of one shape; on the CPU, unless asked otherwise, one by one."""
    groups, index = group_images_by_shape(images, disable_grouping=disable_grouping)
    return reorder_images({key: operation(batch) for key, batch in groups.items()}, index)


__all__ = ["LLMMDEImageProcessor", "LLMMDEImageProcessorKwargs"]
