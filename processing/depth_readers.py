"""From a row of a table to a sample: photographs and depth maps are decoded here, one at a time and when asked for."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .depth_files import MILLIMETRE, read_depth
from .depth_samples import DepthSample, Intrinsics, import_extra

if TYPE_CHECKING:
    import datasets

# A mapping from columns to values, or a `pyarrow.Table` of one row.
Row = Any

# The crop that KITTI's benchmark gives all images before anything is measured (height, width), bottom and centre.
KB_CROP = (352, 1216)


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
        """The photograph, mode RGB, never turned by an EXIF tag."""

    @abstractmethod
    def read_depth(self, row: Row) -> np.ndarray:
        """The depth map, float32 `(height, width)` in metres, 0 missing."""

    def read_intrinsics(self, row: Row) -> Intrinsics | None:
        """The camera of the uncropped photograph."""
        return Intrinsics(*row["intrinsics"]) if row["intrinsics"] is not None else None

    def sample(self, row: Row) -> DepthSample:
        """Decode a row.

        Raises:
            ValueError: If something cannot be decoded, photograph and depth differ in shape by more than 2 %, or they
                are to be cropped and differ in size or are too small.
        """
        image, depth, intrinsics = self.read_photograph(row), self.read_depth(row), self.read_intrinsics(row)
        height, width = depth.shape
        differ = abs(image.width * height / (image.height * width) - 1) > 0.02
        if differ or (self.kb_crop and image.size != (width, height)):
            raise ValueError(
                f"{self.name(row)!r} is {image.width}x{image.height} but its depth map is {width}x{height}; "
                "a pair shows the same field of view, so crop one of them first."
            )
        if self.kb_crop:
            left, top = self._corner_of_crop(row, width, height)
            image = image.crop((left, top, left + KB_CROP[1], top + KB_CROP[0]))
            depth = self._crop(row, depth)
            if intrinsics is not None:
                intrinsics = replace(intrinsics, cx=intrinsics.cx - left, cy=intrinsics.cy - top)
        return DepthSample(image=image, depth=depth, intrinsics=intrinsics, name=self.name(row))

    def depth(self, row: Row) -> np.ndarray:
        """The depth of `sample(row)`, with the photograph left as it is stored."""
        depth = self.read_depth(row)
        return self._crop(row, depth) if self.kb_crop else depth

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
            f"{str(missing[0])!r}; complete the folder, or take the rows out of index.csv or of the split list."
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

    def read_depth(self, row: Row) -> np.ndarray:
        if row["mask"] is not None:
            return _read_masked_depth(row["depth"], row["mask"], row["scale"])
        return read_depth(row["depth"], row["encoding"], row["scale"], row["offset"], row["invalid_raw_values"])


def decode_photograph(file: str | Path | bytes, name: str) -> Image.Image:
    """An encoded photograph, from a path or from memory, as RGB on the pixel grid as stored.

    Raises:
        ValueError: If it is not readable or has 16 bits; `name` says which one.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{name!r} has Pillow mode {image.mode}; a photograph has 8 bits per channel.")
            photograph = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{name!r} is not a readable photograph: {error}") from error
    # The depth map lies on the pixel grid as stored: nothing later may turn the photograph alone by its EXIF tag.
    photograph.info.pop("exif", None)
    photograph.getexif().clear()
    return photograph


def depth_in_metres(raw: np.ndarray, scale: float) -> np.ndarray:
    """A stored array as float32 metres; what is not finite and positive becomes 0."""
    valid = np.isfinite(raw) & (raw > 0)
    return (np.where(valid, raw, 0).astype(np.float64) * scale).astype(np.float32)


def _read_masked_depth(depth_file: str, mask_file: str, scale: float) -> np.ndarray:
    arrays = []
    for file in (depth_file, mask_file):
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{file!r} cannot be read as a NumPy array: {error}") from error
        arrays.append(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
    depth, mask = arrays
    if depth.ndim != 2 or mask.shape != depth.shape:
        raise ValueError(
            f"{depth_file!r} has shape {depth.shape} and its mask {mask.shape}; both are (height, width) or "
            "(height, width, 1)."
        )
    return depth_in_metres(np.where(mask > 0, depth, 0), scale)
