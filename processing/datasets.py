"""Photographs with measured depth, read from a folder one pair at a time."""

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from .depth_files import MILLIMETRE, check_depth_encoding, read_depth

REQUIRED_COLUMNS = (
    "rgb",
    "depth",
    "split",
    "dataset",
    "scene",
    "depth_encoding",
    "depth_scale_to_metres",
    "depth_offset_metres",
    "invalid_raw_values",
)
INTRINSIC_COLUMNS = ("fx", "fy", "cx", "cy")
PHOTOGRAPH_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels of its photograph: focal lengths and principal point, pixel centres at integers."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class DepthSample:
    """One photograph and its measured depth.

    Attributes:
        image (`PIL.Image.Image`): The photograph, mode RGB.
        depth (`np.ndarray` of shape `(height, width)`, float32): z-depth in metres; 0 marks a missing measurement.
            It covers the photograph's field of view, at the same or at a lower resolution.
        intrinsics (`Intrinsics`, *optional*): The photograph's camera, `None` where unknown.
        name (`str`): Which sample this is: the photograph's path inside its folder.
    """

    image: Image.Image
    depth: np.ndarray
    intrinsics: Intrinsics | None
    name: str


@dataclass(frozen=True)
class _Pair:
    """Where one pair lies and how its depth is stored: a checked row."""

    name: str
    rgb: Path
    depth: Path
    encoding: str
    scale: float
    offset: float
    invalid_raw_values: tuple[float, ...]
    intrinsics: Intrinsics | None


class RGBDFolder(Dataset):
    """A map-style dataset of [`DepthSample`] over a folder; files are checked for at construction, decoded when asked.

    Two layouts are understood. A folder with an `index.csv` has one row for each pair, with the columns `rgb` and
    `depth` (paths relative to the folder), `split`, `dataset`, `scene`, `depth_encoding` (as `encoding` of
    [`read_depth`]), `depth_scale_to_metres`, `depth_offset_metres` and `invalid_raw_values` (joined by `;`), and
    optionally `fx`, `fy`, `cx`, `cy`. A folder without one holds pairs with the same stem:

        my_frames/
            rgb/0001.jpg    depth/0001.png      (16-bit PNG; 0 is missing)
            rgb/0002.jpg    depth/0002.png

    Its names are sorted (numbers by value) and cut into ten contiguous blocks, five if there are fewer than ten
    frames; every fifth block is `val`, the rest is `train`. Blocks, not every fifth frame: neighbouring frames of a
    video are nearly the same picture, and a validation frame between two training frames would measure memory.

    Args:
        root (`str` or `os.PathLike`): The folder.
        split (`str`, *optional*, defaults to `"train"`): Which part; `None` takes all of it.
        dataset (`str`, *optional*): Keep the rows of this dataset only (folders with an `index.csv`).
        depth_scale (`float`, *optional*, defaults to 0.001): Metres per stored unit, for folders without an
            `index.csv`; an index states its own.

    Raises:
        ValueError: If the folder has neither layout, columns or files are missing, a path leaves the folder, a number
            cannot be read, or the split is empty.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str | None = "train",
        dataset: str | None = None,
        depth_scale: float | None = None,
    ):
        self.root = Path(root)
        self.split = split
        self.dataset = dataset
        if not self.root.is_dir():
            raise ValueError(f"`root` is {str(self.root)!r}, and there is no such folder.")
        if (self.root / "index.csv").is_file():
            if depth_scale is not None:
                raise ValueError(
                    f"`depth_scale` is {depth_scale}, but {str(self.root / 'index.csv')!r} states a scale for each "
                    "row; leave the argument out, or correct the column `depth_scale_to_metres`."
                )
            self._pairs = _pairs_of_index(self.root, split, dataset)
        else:
            if dataset is not None:
                raise ValueError(f"`dataset` is {dataset!r}, but {str(self.root)!r} has no index.csv to select by.")
            self._pairs = _pairs_of_stems(self.root, split, MILLIMETRE if depth_scale is None else depth_scale)
        missing = [path for pair in self._pairs for path in (pair.rgb, pair.depth) if not path.is_file()]
        if missing:
            raise ValueError(
                f"`root` is {str(self.root)!r}, and {len(missing)} of the files it lists are not there, the first "
                f"{str(missing[0])!r}; complete the folder, or take the rows out of index.csv."
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> DepthSample:
        """Decode one pair.

        Raises:
            ValueError: If a file cannot be decoded, or photograph and depth differ in shape by more than 2 %.
        """
        pair = self._pairs[index]
        image = _read_photograph(pair.rgb)
        depth = self.depth(index)
        height, width = depth.shape
        if abs(image.width * height / (image.height * width) - 1) > 0.02:
            raise ValueError(
                f"{str(pair.rgb)!r} is {image.width}x{image.height} but {str(pair.depth)!r} is {width}x{height}; "
                "a pair shows the same field of view, so crop one of them first."
            )
        return DepthSample(image=image, depth=depth, intrinsics=pair.intrinsics, name=pair.name)

    def depth(self, index: int) -> np.ndarray:
        """Read the depth of one pair alone, float32 `(height, width)` in metres, 0 missing."""
        pair = self._pairs[index]
        return read_depth(pair.depth, pair.encoding, pair.scale, pair.offset, pair.invalid_raw_values)

    @property
    def names(self) -> list[str]:
        """The name of each sample, in order."""
        return [pair.name for pair in self._pairs]


def median_depth(dataset: RGBDFolder | Iterable[DepthSample]) -> float:
    """Median over all measured pixels of a set, in metres, exact to 1 mm: the trivial predictor.

    Pixels are counted in bins of a millimetre, so memory does not grow with the set.

    Raises:
        ValueError: If no pixel is measured, or half of them are a kilometre away or farther (the scale is wrong).
    """
    last = 1_000_000  # one kilometre in millimetres
    counts = np.zeros(last + 1, dtype=np.int64)
    if isinstance(dataset, RGBDFolder):  # leaves the photographs closed
        depth_maps = (dataset.depth(index) for index in range(len(dataset)))
    else:
        depth_maps = (sample.depth for sample in dataset)
    for depth in depth_maps:
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


def _read_photograph(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{str(path)!r} has Pillow mode {image.mode}; a photograph has 8 bits per channel.")
            photograph = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is not a readable photograph: {error}") from error
    # The depth map lies on the pixel grid as stored: nothing later may turn the photograph alone by its EXIF tag.
    photograph.info.pop("exif", None)
    photograph.getexif().clear()
    return photograph


def _pairs_of_index(root: Path, split: str | None, dataset: str | None) -> list[_Pair]:
    index = root / "index.csv"
    with index.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        absent = [column for column in REQUIRED_COLUMNS if column not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"{str(index)!r} lacks the columns {', '.join(absent)}; `RGBDFolder` describes them.")
        rows = [(reader.line_num, row) for row in reader]
    chosen = [
        (line, row)
        for line, row in rows
        if (split is None or row["split"] == split) and (dataset is None or row["dataset"] == dataset)
    ]
    if not chosen:
        there = sorted({f"{row['dataset']}/{row['split']}" for _, row in rows})
        raise ValueError(
            f"`split` is {split!r} and `dataset` is {dataset!r}, but {str(index)!r} has no such row; "
            f"it has {', '.join(there) or 'none at all'}."
        )
    pairs = []
    for line, row in chosen:
        try:
            pairs.append(_pair_of_row(root, row))
        except ValueError as error:
            raise ValueError(f"{str(index)!r}, line {line}: {error}") from None
    return pairs


def _pair_of_row(root: Path, row: dict[str, str]) -> _Pair:
    check_depth_encoding(row["depth_encoding"] or "")
    given = [row.get(column) or "" for column in INTRINSIC_COLUMNS]
    if any(given) and not all(given):
        raise ValueError(f"{dict(zip(INTRINSIC_COLUMNS, given, strict=True))} is half a camera; fill all or none.")
    return _Pair(
        name=row["rgb"],
        rgb=_inside(root, row["rgb"]),
        depth=_inside(root, row["depth"]),
        encoding=row["depth_encoding"],
        scale=_number(row, "depth_scale_to_metres"),
        offset=_number(row, "depth_offset_metres"),
        invalid_raw_values=tuple(float(value) for value in (row["invalid_raw_values"] or "").split(";") if value),
        intrinsics=Intrinsics(*(_number(row, column) for column in INTRINSIC_COLUMNS)) if all(given) else None,
    )


def _number(row: dict[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"`{column}` is {row[column]!r}, which is not a number.") from None


def _inside(root: Path, relative: str | None) -> Path:
    # By the name alone, without resolving links: the files of a Hub snapshot are links into another folder.
    path = PurePosixPath((relative or "").replace("\\", "/"))
    if not relative or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", relative):
        raise ValueError(f"the path {relative!r} leaves the folder; write paths relative to index.csv, without '..'.")
    return root / path


def _pairs_of_stems(root: Path, split: str | None, depth_scale: float) -> list[_Pair]:
    if not (root / "rgb").is_dir() or not (root / "depth").is_dir():
        raise ValueError(
            f"`root` is {str(root)!r}, which has neither an index.csv nor the folders rgb/ and depth/; "
            "put photographs into rgb/ and 16-bit PNGs with the same stems into depth/."
        )
    if split not in (None, "train", "val"):
        raise ValueError(f"`split` is {split!r}, but a folder without index.csv has 'train' and 'val' only.")
    photographs = _files_by_stem(root / "rgb", PHOTOGRAPH_SUFFIXES)
    depth_maps = _files_by_stem(root / "depth", (".png",))
    alone = sorted(photographs.keys() ^ depth_maps.keys())
    if alone:
        raise ValueError(
            f"`root` is {str(root)!r}, where {len(alone)} names are in only one of rgb/ and depth/, the first "
            f"{alone[0]!r}; give each photograph one depth map with the same stem."
        )
    stems = sorted(photographs, key=_by_number)
    blocks = 10 if len(stems) >= 10 else 5
    chosen = [
        stem
        for position, stem in enumerate(stems)
        if split is None or (split == "val") == (position * blocks // len(stems) % 5 == 4)
    ]
    if not chosen:
        raise ValueError(
            f"`split` is {split!r}, but {str(root)!r} has {len(stems)} pairs; add frames, val needs five."
        )
    return [
        _Pair(
            name=f"rgb/{photographs[stem].name}",
            rgb=photographs[stem],
            depth=depth_maps[stem],
            encoding="png16",
            scale=depth_scale,
            offset=0.0,
            invalid_raw_values=(0,),
            intrinsics=None,
        )
        for stem in chosen
    ]


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in files:
            raise ValueError(f"{str(folder)!r} has {files[path.stem].name!r} and {path.name!r}; keep one of them.")
        files[path.stem] = path
    return files


def _by_number(stem: str) -> list[tuple[int, int, str]]:
    """Sort `frame_10` after `frame_9`: neighbours in time have to be neighbours in the list."""
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", stem) if part]
