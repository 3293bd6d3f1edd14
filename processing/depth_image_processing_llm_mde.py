"""What the two backends of the image processor share: arguments, depth maps, statistics and post-processing."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from .image_inputs_llm_mde import align_depth_map, flatten_inputs, open_image, read_depth_map, read_photograph
from .prompting_llm_mde import histogram_statistics, image_histogram

_LARGEST_SIDE = 16384  # pixels: no model reads more, and more than that would take all memory of a machine


class LLMMDEImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    keep_aspect_ratio (`bool`, *optional*, defaults to `False`):
        Whether to scale both sides alike, by the factor for `size` that changes the image least (as DPT does).
    ensure_multiple_of (`int`, *optional*, defaults to 1):
        Resized sides are rounded to a multiple of this, at least to one.
    depth_scale (`float`, *optional*):
        Metres per stored unit of the depth maps, such as 0.001 for millimetres. Integer maps cannot do without it,
        floating point maps are in metres if it is unset.
    return_statistics (`bool`, *optional*, defaults to `False`):
        Whether to add `image_statistics`, the integers from which a prompt is written.
    return_original_sizes (`bool`, *optional*, defaults to `False`):
        Whether to add `original_sizes`, the sizes of the upright photographs: `target_sizes` of the post-processing.
    """

    keep_aspect_ratio: bool
    ensure_multiple_of: int
    depth_scale: int | float | None
    return_statistics: bool
    return_original_sizes: bool


class DepthImageProcessingMixin:
    """Reads photographs and depth maps, and resizes, rescales and normalises them through the backend's operations.

    A backend adds how a tensor becomes its kind of array (`_from_tensor`), how images of 8-bit levels are resized
    (`_resize_images`), and how they are rescaled and normalised (`_scale_images`).
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = LLMMDEImageProcessorKwargs

    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    keep_aspect_ratio = False
    ensure_multiple_of = 1
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN  # 0.5 for each channel, as google/vit-base-patch16-224 was trained with
    image_std = IMAGENET_STANDARD_STD
    depth_scale = None
    return_statistics = False
    return_original_sizes = False

    def fetch_images(self, image_url_or_urls: Any, timeout: float | None = None) -> Any:
        """Opens what is a path, a URL or base64, alone or in lists, by the rules of [`open_image`]; the rest stays."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(each, timeout) for each in image_url_or_urls]
        is_source = isinstance(image_url_or_urls, (str, os.PathLike))
        return open_image(image_url_or_urls, "images", timeout) if is_source else image_url_or_urls

    def preprocess(
        self, images: ImageInput, depth_maps: ImageInput | None = None, **kwargs: Unpack[LLMMDEImageProcessorKwargs]
    ) -> BatchFeature:
        """Turns photographs, and depth maps where given, into tensors for the model.

        Args:
            images: One or several paths, PIL images, NumPy arrays or PyTorch tensors of any size and common mode: see
                `read_photograph`.
            depth_maps (*optional*): As many depth maps, of shape (height, width), with the measured depth of each
                image: see `read_depth_map`. Values that are not positive and finite are missing measurements.
            kwargs: See `LLMMDEImageProcessorKwargs` and `ImagesKwargs`; `do_center_crop` and `do_pad` are refused.

        Returns:
            `BatchFeature` with

            - **pixel_values**: float32 of shape `(batch_size, num_channels, height, width)`.
            - **labels**, with depth maps: float32 of shape `(batch_size, height, width)` in metres, 0 for missing.
              Each pixel takes its nearest measurement; measurements are never blended, nor holes into them.
            - **image_statistics**, on request: int64 of shape `(batch_size, 4)`: minimum, maximum, median and depth
              class of the resized image in levels from 0 to 255: see `histogram_statistics`.
            - **original_sizes**, on request: int64 of shape `(batch_size, 2)`: height and width of each photograph
              after its EXIF orientation.

        Raises:
            ValueError: If an input cannot be read, if depth maps do not belong to the images, or if images of
                different sizes would have to be stacked.
        """
        return super().preprocess(images, depth_maps, **kwargs)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        for name in ("do_center_crop", "do_pad"):
            if kwargs[name]:
                raise ValueError(
                    f"`{name}` is {kwargs[name]!r}, which would part images from their depth; leave it off."
                )
        size, multiple, depth_scale = kwargs["size"], kwargs["ensure_multiple_of"], kwargs["depth_scale"]
        if kwargs["do_resize"] and not (size.height and size.width):
            raise ValueError(f"`size` is {dict(size)}; give it a `height` and a `width`.")
        if multiple < 1:
            raise ValueError(f"`ensure_multiple_of` is {multiple}; pass 1 or more.")
        if depth_scale is not None and not 0 < depth_scale < float("inf"):
            raise ValueError(f"`depth_scale` is {depth_scale}; pass the metres per stored unit, a positive number.")

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        depth_maps: ImageInput | None,
        do_convert_rgb: bool,
        input_data_format: str | ChannelDimension | None,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | int,
        keep_aspect_ratio: bool,
        ensure_multiple_of: int,
        do_rescale: bool,
        rescale_factor: float,
        depth_scale: float | None,
        return_statistics: bool,
        return_original_sizes: bool,
        return_tensors: str | TensorType | None,
        device: str | torch.device | None,
        disable_grouping: bool | None,
        **kwargs: Any,
    ) -> BatchFeature:
        photographs = [
            read_photograph(image, do_convert_rgb, input_data_format) for image in flatten_inputs(images, "images", 3)
        ]
        resized = [self._from_tensor(photograph.levels, device) for photograph in photographs]
        if do_resize:
            target_size = partial(
                resized_size,
                size=(size.height, size.width),
                keep_aspect_ratio=keep_aspect_ratio,
                multiple=ensure_multiple_of,
            )
            resized = self._resize_images(resized, target_size, resample, disable_grouping)
        shapes = {tuple(image.shape) for image in resized}
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(
                f"`images` have the shapes {sorted(shapes)} with `keep_aspect_ratio={keep_aspect_ratio}` and "
                f"`do_resize={do_resize}`, which do not stack into one tensor; set `keep_aspect_ratio=False` and "
                "`do_resize=True`, pass images of one size, or pass `return_tensors=None` for a list."
            )

        data = {}
        scale = partial(self._scale_images, disable_grouping=disable_grouping, **kwargs)
        if do_rescale:
            data["pixel_values"] = scale(resized, True, rescale_factor)
        else:  # Floats between 0 and 1 stay there, whatever the others are.
            data["pixel_values"] = [
                scale([image], photograph.in_unit_range, 1 / 255)[0]
                for photograph, image in zip(photographs, resized, strict=True)
            ]
        if depth_maps is not None:
            depths = [read_depth_map(depth, depth_scale) for depth in flatten_inputs(depth_maps, "depth_maps", 2)]
            if len(depths) != len(photographs):
                raise ValueError(
                    f"`depth_maps` has {len(depths)} maps for {len(photographs)} images; pass one for each."
                )
            labels = [
                nearest_depth(align_depth_map(depth, photograph), image.shape[-2:])
                for depth, photograph, image in zip(depths, photographs, resized, strict=True)
            ]
            device = device or photographs[0].levels.device  # Depth was read on the CPU.
            data["labels"] = [self._from_tensor(depth, device) for depth in labels]
        if return_statistics:
            data["image_statistics"] = _measure(resized)
        if return_original_sizes:
            data["original_sizes"] = torch.tensor([photograph.levels.shape[-2:] for photograph in photographs])
        return BatchFeature(data, tensor_type=return_tensors)

    def post_process_depth_estimation(
        self,
        outputs: DepthEstimatorOutput,
        target_sizes: Tensor | Sequence[tuple[int, int]] | None = None,
    ) -> list[dict[str, Tensor]]:
        """The model's depth at the size of the photographs, in metres.

        Args:
            outputs ([`DepthEstimatorOutput`]): Output of the model, with `predicted_depth` of shape `(batch_size,
                height, width)` in any floating point type.
            target_sizes (`torch.Tensor` of shape `(batch_size, 2)` or list of `(height, width)`, *optional*): Sizes of
                the photographs. If unset, depth keeps the size the model gave it.

        Returns:
            `list[dict[str, torch.Tensor]]`: For each image, `predicted_depth`: float32 of shape `(height, width)`,
            interpolated bilinearly between pixel centres (`align_corners=False`).

        Raises:
            ValueError: If `target_sizes` is not one (height, width) for each image.
        """
        predicted_depth = outputs.predicted_depth.float()
        if target_sizes is None:
            return [{"predicted_depth": depth} for depth in predicted_depth]
        sizes = [torch.as_tensor(size).flatten().tolist() for size in target_sizes]
        if len(sizes) != len(predicted_depth) or any(len(size) != 2 for size in sizes):
            raise ValueError(
                f"`target_sizes` is {target_sizes}; pass one (height, width) for each of the {len(predicted_depth)} "
                "images in the batch."
            )
        return [
            {
                "predicted_depth": F.interpolate(
                    depth[None, None], size=[int(side) for side in size], mode="bilinear", align_corners=False
                )[0, 0]
            }
            for depth, size in zip(predicted_depth, sizes, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The configuration, in which `auto_map` names the classes of both backends: [PIL, torchvision].

        Saving writes the reference of the saved class alone, and copies the files it imports. The imports here make
        each backend's files travel with the other's, so that `backend="pil"` works on any machine.
        """
        from .image_processing_llm_mde import LLMMDEImageProcessor
        from .image_processing_pil_llm_mde import LLMMDEImageProcessorPil

        config = super().to_dict()
        if "AutoImageProcessor" in config.get("auto_map", {}):
            config["auto_map"]["AutoImageProcessor"] = [
                f"{backend.__module__.rpartition('.')[-1]}.{backend.__name__}"
                for backend in (LLMMDEImageProcessorPil, LLMMDEImageProcessor)
            ]
        return config


def resized_size(
    image_size: tuple[int, int], size: tuple[int, int], keep_aspect_ratio: bool, multiple: int
) -> tuple[int, int]:
    """Height and width after resizing; the arguments are those of the image processor, sizes are (height, width)."""
    scales = [target / side for target, side in zip(size, image_size, strict=True)]
    if keep_aspect_ratio:
        scales = [min(scales, key=lambda scale: abs(1 - scale))] * 2
    height, width = (
        max(1, round(scale * side / multiple)) * multiple for scale, side in zip(scales, image_size, strict=True)
    )
    if max(height, width) > _LARGEST_SIDE:
        raise ValueError(
            f"`size` is {size[0]} x {size[1]} with `ensure_multiple_of={multiple}`, which makes {height} x {width} of "
            f"an image of {image_size[0]} x {image_size[1]} (height x width); no side may have more than "
            f"{_LARGEST_SIDE} pixels."
        )
    return height, width


def nearest_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth of shape `(height, width)` at another size, each pixel the measurement nearest to its centre."""
    return F.interpolate(depth[None, None], size=tuple(size), mode="nearest-exact")[0, 0]


def _measure(images: list[Tensor] | list[np.ndarray]) -> Tensor:
    """`histogram_statistics` of uint8 images, with one histogram for the batch where all are of one size."""
    images = [torch.as_tensor(image) for image in images]
    is_one_size = len({image.shape for image in images}) == 1
    batches = [torch.stack(images)] if is_one_size else [image[None] for image in images]
    return histogram_statistics(torch.cat([image_histogram(batch) for batch in batches]))


__all__ = ["DepthImageProcessingMixin", "LLMMDEImageProcessorKwargs", "nearest_depth", "resized_size"]
