"""Photographs and depth maps as people have them, read into one form: 8-bit levels and metres.

Both backends of the image processor start from here, so that a path, a PIL image, an array and a tensor of the same
picture give the same answer on either of them.
"""

import base64
import binascii
import math
import os
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import ChannelDimension

_ORIENTATION_TAG = 0x0112
# EXIF orientation -> the transposition that puts the stored pixels upright; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Ghostscript would run the program that such a file is.
_PROGRAMS = ("EPS",)
_LARGEST_DOWNLOAD = 256 * 2**20  # bytes
_TIMEOUT = 30.0  # seconds
_SHORTEST_BASE64 = 64  # characters: no image is shorter, and names of files mostly are
# A depth map may be smaller than its photograph, but not of another shape.
_ASPECT_RATIO_TOLERANCE = 0.02
# Floats within this range are 0 to 1 with what a sharp edge overshoots when it is resampled (bicubic: a tenth).
_UNIT_RANGE_WITH_OVERSHOOT = (-0.25, 1.5)
# Floats that end between there and here are neither: a photograph in levels is not that dark.
_DARKEST_MAXIMUM_LEVEL = 10


@dataclass(frozen=True)
class Photograph:
    """One image, upright, in levels from 0 to 255.

    Args:
        levels (`torch.Tensor` of shape `(num_channels, height, width)`): uint8, RGB unless not converted.
        in_unit_range (`bool`): Whether the values came as floats between 0 and 1.
        stored_size (`tuple[int, int]`): Height and width before the EXIF orientation was applied.
        orientation (`int`): EXIF orientation that was applied; 1 for none, and for arrays.
    """

    levels: Tensor
    in_unit_range: bool
    stored_size: tuple[int, int]
    orientation: int = 1


def flatten_inputs(inputs: Any, argument: str, ndim: int) -> list[Any]:
    """Single, batched or nested inputs as one flat list.

    Args:
        inputs: A path, PIL image, array or tensor; an array with one axis more than `ndim` is a batch; lists nest.
        argument (`str`): Name of the caller's argument, for error messages.
        ndim (`int`): Axes of one input: 3 for images, 2 for depth maps.

    Raises:
        ValueError: If nothing is left in the list, or something in it is not an image.
    """
    if isinstance(inputs, (list, tuple)):
        # A sample without an image may stand as an empty list among the others.
        groups = [flatten_inputs(item, argument, ndim) for item in inputs if not _is_empty_list(item)]
        if not groups:
            raise ValueError(f"`{argument}` is empty; pass at least one.")
        return list(chain.from_iterable(groups))
    if isinstance(inputs, (np.ndarray, Tensor)):
        has_channel_axis = ndim == 2 and inputs.ndim == 3 and inputs.shape[-1] == 1 and inputs.shape[0] != 1
        if inputs.ndim <= ndim or has_channel_axis:
            return [inputs]
        return flatten_inputs(list(inputs), argument, ndim)
    if isinstance(inputs, (str, os.PathLike, Image.Image)):
        return [inputs]
    raise ValueError(
        f"`{argument}` contains a {type(inputs).__name__}; pass paths, PIL images, NumPy arrays or PyTorch tensors."
    )


def read_photograph(
    image: Any,
    do_convert_rgb: bool | None = True,
    input_data_format: str | ChannelDimension | None = None,
    is_contiguous: bool = True,
) -> Photograph:
    """Reads one image of any common kind into 8-bit levels.

    Paths and PIL images are turned upright by their EXIF orientation. Transparent pixels are laid over white. 16-bit
    values (modes I;16 and I, uint16 arrays) are divided by 257. Floats up to 1 are taken as 0 to 1, also where a few
    overshoot (from -0.25 to 1.5, clipped), larger ones as 0 to 255; both are rounded to levels.

    Args:
        image: A path, URL, PIL image, or an array or tensor of shape (height, width), (channels, height, width) or
            (height, width, channels) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels.
        do_convert_rgb (`bool`, *optional*, defaults to `True`): Whether to return three channels in any case.
        input_data_format (`str` or `ChannelDimension`, *optional*): Where the channels of an array are. If unset, an
            outer axis of length 3 is taken, else one of 1 or 4, else one of 2. Where both are equally likely it is the
            last axis of a NumPy array and the first one of a tensor.
        is_contiguous (`bool`, *optional*, defaults to `True`): Whether the levels lie in memory channel by channel.
            `False` leaves them pixel by pixel where they came so, and spares who makes an image of them two copies.

    Raises:
        ValueError: If the image cannot be opened, has no pixels, an unexpected shape, or values outside its range.
    """
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image, "images")
    orientation, stored_size = 1, None
    if isinstance(image, Image.Image):
        _decode(image, "images")
        orientation, stored_size = exif_orientation(image), image.size[::-1]
        if orientation != 1:
            image = image.transpose(_UPRIGHT[orientation])
        image, input_data_format = _pil_to_array(image), ChannelDimension.LAST
    values = _as_tensor(image, "images")
    if values.ndim == 3 and input_data_format is None:
        input_data_format = _guess_data_format(values.shape, prefer_last=isinstance(image, np.ndarray))
    levels, in_unit_range = _to_levels(_to_channels_first(values, input_data_format))
    if do_convert_rgb:
        levels = _to_rgb(levels)
    levels = levels.contiguous() if is_contiguous else levels
    return Photograph(levels, in_unit_range, stored_size or tuple(levels.shape[-2:]), orientation)


def read_depth_map(depth_map: Any, depth_scale: float | None = None) -> Tensor:
    """Reads one depth map into metres.

    Args:
        depth_map: A path (an image, or a .npy file), a PIL image of mode F, I, I;16 or L, or an array or tensor of
            shape (height, width), also with an axis of length 1 for the channel.
        depth_scale (`float`, *optional*): Metres per stored unit. Floating point maps are in metres without it.

    Returns:
        `torch.Tensor`: float32 of shape `(height, width)` on the CPU, in metres; 0 where the stored value is not a
        positive number: a missing measurement.

    Raises:
        ValueError: If the map cannot be opened, has colours, or holds integers while `depth_scale` is not given.
    """
    if isinstance(depth_map, (str, os.PathLike)):
        depth_map = open_image(depth_map, "depth_maps")
    if isinstance(depth_map, Image.Image):
        _decode(depth_map, "depth_maps")
        if depth_map.mode == "P" or len(depth_map.getbands()) != 1:
            raise ValueError(
                f"`depth_maps` contains an image of mode {depth_map.mode}, which is a picture and no depth map; "
                "pass mode F, I or I;16, or an array of shape (height, width)."
            )
        depth_map = np.array(depth_map)
    values = _as_tensor(depth_map, "depth_maps").cpu()
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(
            f"`depth_maps` contains a map of shape {tuple(values.shape)}; each must be (height, width) with at least "
            "one pixel."
        )
    if depth_scale is None and not values.is_floating_point():
        raise ValueError(
            f"`depth_maps` holds integers ({values.dtype}) and `depth_scale` is not given; pass the metres per stored "
            "unit: `depth_scale=0.001` for millimetres, `depth_scale=1 / 256` for KITTI."
        )
    # In float64, so that 1500 mm are 1.5 m exactly.
    depth = (values.double() * (1.0 if depth_scale is None else depth_scale)).float()
    return depth.masked_fill(~(torch.isfinite(depth) & (depth > 0)), 0.0)


def align_depth_map(depth: Tensor, photograph: Photograph) -> Tensor:
    """Turns a depth map along with its photograph where that is needed, and checks that the two belong together.

    A depth map stored the way the camera held its sensor needs the photograph's EXIF orientation; one that is upright
    already does not. Only the shapes can tell: the map is turned if it fits the photograph before but not after.

    Raises:
        ValueError: If the aspect ratios differ by more than 2 %.
    """
    size, upright_size = tuple(depth.shape), tuple(photograph.levels.shape[-2:])
    for fits in (tuple.__eq__, _has_aspect_ratio_of):
        if fits(size, upright_size):
            return depth
        if fits(size, photograph.stored_size):
            turned = Image.fromarray(depth.numpy()).transpose(_UPRIGHT[photograph.orientation])
            return torch.from_numpy(np.array(turned))
    raise ValueError(
        f"`depth_maps` contains a map of {size[0]} x {size[1]} pixels for an image of {upright_size[0]} x "
        f"{upright_size[1]} (height x width); crop the two alike, their aspect ratios must agree within "
        f"{_ASPECT_RATIO_TOLERANCE:.0%}."
    )


def open_image(source: str | os.PathLike, argument: str, timeout: float | None = None) -> Image.Image | np.ndarray:
    """Opens a path, a URL, a `data:` URI or base64 as a decoded PIL image, and a .npy file as an array.

    Args:
        source (`str` or `PathLike`): Where the image is, or its bytes as base64.
        argument (`str`): Name of the caller's argument, for error messages.
        timeout (`float`, *optional*): Seconds to wait for each answer of a server; 30 by default.

    Raises:
        ValueError: For whatever reason it cannot be read, naming `argument` and the source. EPS is not read, as
            Ghostscript would run what stands in it.
    """
    name = os.fspath(source)
    try:
        content = _content(name, _TIMEOUT if timeout is None else timeout)
        if name.endswith(".npy"):
            return np.load(BytesIO(content), allow_pickle=False)
        image = Image.open(BytesIO(content), formats=readable_formats())
        image.load()
    except Exception as error:
        raise ValueError(
            f"`{argument}` contains {name[:200]!r}, which cannot be read as an image ({type(error).__name__}: "
            f"{str(error)[:200]}); pass the path of an image file, a URL, or the image itself."
        ) from error
    return image


def readable_formats() -> list[str]:
    """What Pillow, with its plugins, may take a file for: all but programs."""
    Image.init()
    return [name for name in Image.ID if name not in _PROGRAMS]


def _content(name: str, timeout: float) -> bytes:
    if name.startswith(("http://", "https://")):
        request = urllib.request.Request(name, headers={"User-Agent": "llm-mde"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            content = response.read(_LARGEST_DOWNLOAD + 1)
        if len(content) > _LARGEST_DOWNLOAD:
            raise ValueError(f"the answer has more than {_LARGEST_DOWNLOAD // 2**20} MiB")
        return content
    if name.startswith("data:image/"):
        return base64.b64decode(name.partition(",")[2])
    if os.path.isfile(name):  # no device and no pipe, whose end may never come
        return Path(name).read_bytes()
    if len(name) >= _SHORTEST_BASE64:
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(name, validate=True)
    raise ValueError("it is no regular file" if os.path.exists(name) else "there is no such file")


def _decode(image: Image.Image, argument: str) -> None:
    """Reads the pixels of an image that was opened only, as `Image.open` leaves it."""
    try:
        if image.format in _PROGRAMS:
            raise ValueError(f"{image.format} is a program, which Ghostscript would run")
        image.load()
    except Exception as error:
        name = getattr(image, "filename", "") or "an image"
        raise ValueError(
            f"`{argument}` contains {str(name)[:200]!r}, which cannot be decoded ({type(error).__name__}: "
            f"{str(error)[:200]}); open a whole file, or leave this one out."
        ) from error


def _is_empty_list(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) and len(inputs) == 0


def exif_orientation(image: Image.Image) -> int:
    """How an image has to be turned, 1 to 8; 1 where nothing readable says it."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Damaged metadata are no reason to refuse a picture.
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _pil_to_array(image: Image.Image) -> np.ndarray:
    """Grey, RGB or RGBA values; palettes and other colour spaces are converted, 16 and 32 bits are kept."""
    if image.mode == "I":
        array = np.array(image)
        if array.min() < 0 or array.max() > np.iinfo(np.uint16).max:
            raise ValueError(
                f"`images` contains an image of mode I with values from {array.min()} to {array.max()}; 16-bit values "
                "lie between 0 and 65535."
            )
        return array.astype(np.uint16)
    if image.mode == "F" or image.mode.startswith("I;16"):
        return np.array(image)
    mode = "RGBA" if image.has_transparency_data else image.mode if image.mode in ("1", "L") else "RGB"
    try:
        return np.array(image.convert(mode))
    except ValueError as error:
        raise ValueError(f"`images` contains an image of mode {image.mode}; convert it to RGB first.") from error


def _as_tensor(array: np.ndarray | Tensor, argument: str) -> Tensor:
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_meta or array.is_quantized:
            kind = "meta" if array.is_meta else "quantised" if array.is_quantized else str(array.layout)
            raise ValueError(f"`{argument}` contains a tensor that is {kind}; pass a dense one that has its values.")
        return array.detach()
    try:
        # PyTorch wants the machine's byte order, no negative strides, and memory it may write to.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError as error:
        raise ValueError(f"`{argument}` contains an array of dtype {array.dtype}; pass numbers.") from error


def _guess_data_format(shape: Sequence[int], prefer_last: bool) -> ChannelDimension:
    for counts in ((3,), (1, 4), (2,)):
        first_fits, last_fits = shape[0] in counts, shape[-1] in counts
        if first_fits or last_fits:
            return ChannelDimension.LAST if last_fits and (prefer_last or not first_fits) else ChannelDimension.FIRST
    raise ValueError(
        f"`images` contains an array of shape {tuple(shape)}, in which neither the first nor the last axis can be the "
        "channels; pass `input_data_format`, or a batch of grey images as (batch_size, 1, height, width)."
    )


def _to_channels_first(values: Tensor, input_data_format: str | ChannelDimension | None) -> Tensor:
    if values.ndim not in (2, 3) or values.numel() == 0:
        raise ValueError(
            f"`images` contains an array of shape {tuple(values.shape)}; pass (height, width), (channels, height, "
            "width) or (height, width, channels) with at least one pixel."
        )
    if values.ndim == 2:
        return values[None]
    return values.permute(2, 0, 1) if ChannelDimension(input_data_format) == ChannelDimension.LAST else values


def _to_levels(values: Tensor) -> tuple[Tensor, bool]:
    """uint8 levels of any real values, and whether those were floats between 0 and 1."""
    if values.dtype == torch.uint8:
        return values, False
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255, False
    if values.dtype == torch.uint16:
        return ((values.to(torch.int32) + 128) // 257).to(torch.uint8), False
    if values.is_complex():
        raise ValueError(f"`images` contains values of dtype {values.dtype}; pass real numbers.")
    is_float = values.is_floating_point()
    values = values.float() if is_float else values.long()
    minimum, maximum = values.min().item(), values.max().item()
    lowest, highest = _UNIT_RANGE_WITH_OVERSHOOT
    if is_float and lowest <= minimum and maximum <= highest:
        return (values.clamp(0, 1) * 255).round().to(torch.uint8), True
    is_between = is_float and maximum < _DARKEST_MAXIMUM_LEVEL and not values.equal(values.round())
    # Written so that NaN fails it too.
    if not (minimum >= 0 and maximum <= 255) or is_between:
        raise ValueError(
            f"`images` contains values from {minimum:g} to {maximum:g}; pass floats from 0 to 1 or 0 to 255, integers "
            "from 0 to 255, or uint16. Images that are normalised already need no image processor."
        )
    return values.round().to(torch.uint8), False


def _to_rgb(levels: Tensor) -> Tensor:
    num_channels = len(levels)
    if num_channels not in (1, 2, 3, 4):
        raise ValueError(
            f"`images` contains an image of {num_channels} channels, which has no RGB version; pass 1 to 4 channels, "
            "or `do_convert_rgb=False`."
        )
    if num_channels in (2, 4):
        colour, alpha = levels[:-1].int(), levels[-1:].int()
        # Over white, rounded: (colour * alpha + 255 * (255 - alpha)) / 255.
        levels = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return levels.expand(3, -1, -1)


def _has_aspect_ratio_of(size: tuple[int, int], other: tuple[int, int]) -> bool:
    difference = math.log((size[0] * other[1]) / (size[1] * other[0]))
    return abs(difference) <= math.log1p(_ASPECT_RATIO_TOLERANCE)


__all__ = [
    "Photograph",
    "align_depth_map",
    "exif_orientation",
    "flatten_inputs",
    "open_image",
    "read_depth_map",
    "read_photograph",
    "readable_formats",
]
