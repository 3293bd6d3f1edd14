"""From a row of a table to a sample: photographs and depth maps are decoded here, one at a time and when asked for."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from .depth_files import MILLIMETRE, read_depth
from .depth_samples import DepthSample, Intrinsics, import_extra
from .image_inputs_llm_mde import Photograph, align_depth_map, exif_orientation, read_photograph, readable_formats

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

# A mapping from columns to values, or a `pyarrow.Table` of one row.
Row = Any

# The crop that KITTI's benchmark gives all images before anything is measured (height, width), bottom and centre.
KB_CROP = (352, 1216)
_EXIF_OF_PNG = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})  # as Pillow calls its chunks


class DepthReader(ABC):
    """How a row becomes a [`DepthSample`]; the photograph and the depth map are read independently of each other.

    A reader holds no row and no open file that another process could inherit, so it travels to the workers of a
    `DataLoader`.

    Attributes:
        kb_crop (`bool`): Whether photograph, depth and principal point are cut to KITTI's 352 x 1216 pixels.
    """

    kb_crop: bool = False

    def name(self, row: Row) -> str:
        """What the sample of this row is called."""
        return row["name"]

    @abstractmethod
    def read_photograph(self, row: Row) -> Image.Image:
        """The photograph as it is stored, with its metadata; `sample` turns it upright and makes RGB of it."""

    @abstractmethod
    def read_depth(self, row: Row) -> np.ndarray:
        """The depth map as it is stored, float32 `(height, width)` in metres, 0 missing."""

    def read_orientation(self, row: Row) -> int:
        """The EXIF orientation of the photograph, whose pixels stay undecoded; 1 for upright, and by default."""
        return 1

    def read_intrinsics(self, row: Row) -> Intrinsics | None:
        """The camera of the photograph as it is stored, uncropped."""
        return Intrinsics(*row["intrinsics"]) if row["intrinsics"] is not None else None

    def sample(self, row: Row) -> DepthSample:
        """Decode a row, by the rules of the image processor, so that training sees what prediction will see.

        The photograph is turned upright by its EXIF orientation, transparent pixels are laid over white, and the image
        that leaves carries no metadata that could turn it once more. Depth is turned along if it fits the photograph
        as stored and not the upright one ([`align_depth_map`]); where the shapes cannot tell (a half turn, a mirror
        image, a square), it is taken to be upright already. The camera is turned with the depth. Where the photograph
        was turned alone, nothing says which of the two grids its camera is of: it is left out, with a warning.

        Raises:
            ValueError: If something cannot be decoded, photograph and depth differ in shape by more than 2 %, or they
                are to be cropped and differ in size or are too small.
        """
        photograph = read_photograph(self.read_photograph(row), is_contiguous=False)
        stored_depth = self.read_depth(row)
        image = Image.fromarray(photograph.levels.permute(1, 2, 0).numpy())
        try:
            depth = align_depth_map(torch.from_numpy(stored_depth), photograph).numpy()
        except ValueError:
            raise self._differs(row, photograph, stored_depth) from None
        height, width = depth.shape
        if self.kb_crop and image.size != (width, height):
            raise self._differs(row, photograph, stored_depth)
        intrinsics = self.read_intrinsics(row)
        if intrinsics is not None and photograph.orientation != 1:
            is_turned = not np.may_share_memory(depth, stored_depth)
            intrinsics = _turned(intrinsics, photograph) if is_turned else None
            if intrinsics is None:
                logger.warning_once(
                    "Photographs with an EXIF orientation were turned upright, beside depth that is upright already; "
                    "nothing says whether their intrinsics are too, so they are left out. Store upright photographs "
                    "without the EXIF tag to keep them."
                )
        if self.kb_crop:
            left, top = self._corner_of_crop(row, width, height)
            image = image.crop((left, top, left + KB_CROP[1], top + KB_CROP[0]))
            depth = self._crop(row, depth)
            if intrinsics is not None:
                intrinsics = replace(intrinsics, cx=intrinsics.cx - left, cy=intrinsics.cy - top)
        return DepthSample(image=image, depth=depth, intrinsics=intrinsics, name=self.name(row))

    def depth(self, row: Row) -> np.ndarray:
        """The depth of `sample(row)`, for which the photograph is decoded only where it is stored on its side."""
        if self.read_orientation(row) != 1:
            return self.sample(row).depth
        depth = self.read_depth(row)
        return self._crop(row, depth) if self.kb_crop else depth

    def _differs(self, row: Row, photograph: Photograph, stored_depth: np.ndarray) -> ValueError:
        (height, width), (depth_height, depth_width) = photograph.levels.shape[-2:], stored_depth.shape
        turned = ""
        if photograph.orientation != 1:
            turned = f" (turned upright by its EXIF orientation {photograph.orientation})"
        return ValueError(
            f"{self.name(row)!r} is {width}x{height}{turned} but its depth map is {depth_width}x{depth_height}; "
            "a pair shows the same field of view, so crop one of them first."
        )

    def _crop(self, row: Row, depth: np.ndarray) -> np.ndarray:
        left, top = self._corner_of_crop(row, depth.shape[1], depth.shape[0])
        return depth[top : top + KB_CROP[0], left : left + KB_CROP[1]]

    def _corner_of_crop(self, row: Row, width: int, height: int) -> tuple[int, int]:
        if height < KB_CROP[0] or width < KB_CROP[1]:
            raise ValueError(
                f"{self.name(row)!r} is {width}x{height}, smaller than the crop of {KB_CROP[1]}x{KB_CROP[0]}; "
                "pass `kb_crop=False` for anything but KITTI at full size."
            )
        return (width - KB_CROP[1]) // 2, height - KB_CROP[0]


@dataclass(frozen=True)
class FilePair:
    """Where one pair lies and how its depth is stored; the fields are those of [`read_depth`].

    `mask` is a NumPy array beside a depth map that is one too: depth counts where it is 1 (the layout of DIODE).
    """

    name: str
    rgb: Path
    depth: Path
    encoding: str = "png16"
    scale: float = MILLIMETRE
    offset: float = 0.0
    invalid_raw_values: Sequence[float] = (0,)
    intrinsics: Intrinsics | None = None
    mask: Path | None = None


def rows_of_pairs(root: Path, pairs: Sequence[FilePair]) -> "datasets.Dataset":
    """A table with one row for each pair, after a look whether the files are there.

    Raises:
        ValueError: If files are missing; the message counts them and names the first.
    """
    datasets = import_extra("datasets")
    files = [file for pair in pairs for file in (pair.rgb, pair.depth, pair.mask) if file is not None]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"`root` is {str(root)!r}, and {len(missing)} of the files it lists are not there, the first "
            f"{str(missing[0])!r}; complete the folder; where a list names the files (index.csv, a split list), take "
            "these out of it."
        )
    text, number = datasets.Value("string"), datasets.Value("float64")
    features = {"name": text, "rgb": text, "depth": text, "mask": text, "encoding": text}
    features |= {"scale": number, "offset": number}
    features |= {"invalid_raw_values": datasets.Sequence(number), "intrinsics": datasets.Sequence(number)}
    columns: dict[str, list] = {column: [] for column in features}
    for pair in pairs:
        camera = pair.intrinsics
        for column, values in columns.items():
            value = getattr(pair, column)
            values.append(str(value) if isinstance(value, Path) else value)
        columns["intrinsics"][-1] = None if camera is None else [camera.fx, camera.fy, camera.cx, camera.cy]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


class FileReader(DepthReader):
    """Reads rows of [`rows_of_pairs`]."""

    def read_photograph(self, row: Row) -> Image.Image:
        return decode_photograph(row["rgb"], row["rgb"])

    def read_orientation(self, row: Row) -> int:
        return stored_orientation(row["rgb"])

    def read_depth(self, row: Row) -> np.ndarray:
        if row["mask"] is not None:
            return _read_masked_depth(row["depth"], row["mask"], row["scale"])
        return read_depth(row["depth"], row["encoding"], row["scale"], row["offset"], row["invalid_raw_values"])


def decode_photograph(file: str | Path | bytes, name: str) -> Image.Image:
    """An encoded photograph, from a path or from memory, decoded as it is stored and with its metadata.

    Raises:
        ValueError: If it is not readable or has 16 bits; `name` says which one.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=readable_formats()) as image:
            if not image.mode.startswith(("I", "F")):
                image.load()
                return image
    except Exception as error:  # damaged files raise whatever the decoders run into
        raise ValueError(f"{name!r} is not a readable photograph: {error}") from error
    raise ValueError(f"{name!r} has Pillow mode {image.mode}; a photograph has 8 bits per channel.")


def stored_orientation(file: str | Path | bytes) -> int:
    """The EXIF orientation that the header of an encoded photograph states; 1 where it states none or is damaged."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=readable_formats()) as image:
            # Without an entry so far, Pillow would decode a PNG to look for one behind its pixels.
            is_stated = image.format != "PNG" or not _EXIF_OF_PNG.isdisjoint(image.info)
            return exif_orientation(image) if is_stated else 1
    except Exception:  # whatever the decoders run into; it is told when the pixels are decoded
        return 1


def depth_in_metres(raw: np.ndarray, scale: float) -> np.ndarray:
    """A stored array as float32 metres; what is not finite and positive there becomes 0."""
    valid = np.isfinite(raw) & (raw > 0)
    depth = np.where(valid, raw, 0).astype(np.float64) * scale
    return np.where(depth <= np.finfo(np.float32).max, depth, 0).astype(np.float32)


def _turned(camera: Intrinsics, photograph: Photograph) -> Intrinsics:
    """The camera of a photograph on its side, for the upright one: x and y change places, some count from the end."""
    height, width = photograph.stored_size
    # Orientations 6 and 7 put the last row first, 7 and 8 the last column.
    cx = height - 1 - camera.cy if photograph.orientation in (6, 7) else camera.cy
    cy = width - 1 - camera.cx if photograph.orientation in (7, 8) else camera.cx
    return Intrinsics(fx=camera.fy, fy=camera.fx, cx=cx, cy=cy)


def _read_masked_depth(depth_file: str, mask_file: str, scale: float) -> np.ndarray:
    arrays = []
    for file in (depth_file, mask_file):
        try:
            array = np.load(file, allow_pickle=False)
        except Exception as error:  # a header may also ask for more memory than there is
            raise ValueError(f"{file!r} cannot be read as a NumPy array: {error}") from error
        arrays.append(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
    depth, mask = arrays
    if depth.ndim != 2 or mask.shape != depth.shape:
        raise ValueError(
            f"{depth_file!r} has shape {depth.shape} and its mask {mask.shape}; both are (height, width) or "
            "(height, width, 1)."
        )
    return depth_in_metres(np.where(mask > 0, depth, 0), scale)
