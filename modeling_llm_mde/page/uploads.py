"""Photographs that strangers send: limits before anything is decoded, and one sentence about what is wrong."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from llm_mde.processing.image_inputs_llm_mde import read_photograph
from llm_mde.processing.photographs import Camera
from llm_mde.processing.point_clouds import intrinsics_from_exif

MAX_PIXELS = 25_000_000  # the 24 megapixels of phones and cameras are a little more: 5712 x 4284
MAX_BYTES = 32_000_000
# The fewer decoders strangers reach, the better.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


class Refusal(ValueError):
    """What the visitor of a page can mend, as a sentence for the page."""


@dataclass(frozen=True)
class Upload:
    """A photograph that was read.

    Attributes:
        levels (`np.ndarray` of shape `(height, width, 3)`): Upright RGB, uint8.
        camera (`Camera`, *optional*): The one that its EXIF states.
    """

    levels: np.ndarray
    camera: Camera | None = None


def read_upload(path: str | Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Upload:
    """
    Reads a file that a stranger has sent: what is too large is refused before it is decoded.

    Of an animation the first picture is read; transparent pixels are laid over white.

    Raises:
        Refusal: If it is empty, too large, damaged, or no picture in one of `IMAGE_FORMATS`.
    """
    num_bytes = Path(path).stat().st_size
    if num_bytes == 0:
        raise Refusal("This file is empty. Please choose another photograph.")
    if num_bytes > max_bytes:
        raise Refusal(
            f"This file has {num_bytes / 1e6:.0f} MB; photographs of up to {max_bytes / 1e6:.0f} MB are read here. "
            "Please save it smaller."
        )
    too_many = f"more than the {max_pixels / 1e6:.0f} megapixels that are read here. Please make it smaller."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limit of pixels lies above ours
            image = Image.open(path, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise Refusal(f"This photograph has {too_many}") from error
    except Exception as error:  # damaged headers raise whatever the decoders run into
        raise Refusal(
            "This file is not a photograph that can be read here. JPEG, PNG, WebP, BMP, TIFF and GIF can."
        ) from error
    with image:
        if image.width * image.height > max_pixels:
            raise Refusal(f"This photograph has {image.width} x {image.height} pixels, {too_many}")
        try:
            image.load()
            intrinsics = intrinsics_from_exif(image)
            levels = read_photograph(image, is_contiguous=False).levels
        except Exception as error:
            raise Refusal("This photograph is damaged and cannot be decoded. Please choose another one.") from error
    return Upload(levels.permute(1, 2, 0).numpy(), intrinsics and Camera(intrinsics, "EXIF"))


__all__ = ["MAX_BYTES", "MAX_PIXELS", "Refusal", "Upload", "read_upload"]
