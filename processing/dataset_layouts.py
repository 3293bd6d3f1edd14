"""Folders of pairs: the index.csv layout, plain paired folders, and what the layouts of benchmarks share."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from .depth_files import MILLIMETRE, check_depth_encoding
from .depth_readers import DepthReader, FilePair, FileReader, rows_of_pairs
from .depth_samples import Intrinsics

if TYPE_CHECKING:
    import datasets

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

Item = TypeVar("Item")


@dataclass(frozen=True)
class DepthTable:
    """The rows of a data set, how to read them, and what is said about them; see [`DepthDataset`]."""

    rows: "datasets.Dataset | datasets.IterableDataset"
    reader: DepthReader
    depth_scale: float | None
    num_without_depth: int = 0


def table_of_pairs(root: Path, pairs: Sequence[FilePair], num_without_depth: int = 0) -> DepthTable:
    """Pairs of files as a table.

    Raises:
        ValueError: If files are missing.
    """
    scales = {pair.scale for pair in pairs}
    scale = scales.pop() if len(scales) == 1 else None
    return DepthTable(rows_of_pairs(root, pairs), FileReader(), scale, num_without_depth)


def open_index(root: Path, split: str | None, dataset: str | None = None) -> DepthTable:
    """The rows of an index.csv; [`RGBDFolder`] describes them.

    Raises:
        ValueError: If columns or files are missing, a path leaves the folder, a number cannot be read, or no row is
            of this split and data set.
    """
    return table_of_pairs(root, _pairs_of_index(root, split, dataset))


def open_pairs(root: Path, split: str | None, depth_scale: float | None = None) -> DepthTable:
    """Pairs of the same stem in rgb/ and depth/; [`RGBDFolder`] describes them.

    Raises:
        ValueError: If the folders or files are missing or the names do not pair.
    """
    if not (root / "rgb").is_dir() or not (root / "depth").is_dir():
        raise ValueError(
            f"`root` is {str(root)!r}, which has neither an index.csv nor the folders rgb/ and depth/; "
            "put photographs into rgb/ and 16-bit PNGs with the same stems into depth/."
        )
    scale = MILLIMETRE if depth_scale is None else depth_scale
    pairs = [
        FilePair(name=f"rgb/{photograph.name}", rgb=photograph, depth=depth, scale=scale)
        for photograph, depth in pairs_of_stems(root / "rgb", root / "depth")
    ]
    return table_of_pairs(root, block_split(pairs, split, root, "pairs"))


def pairs_of_stems(photographs: Path, depth_maps: Path) -> list[tuple[Path, Path]]:
    """Photographs and 16-bit PNGs of the same stem in two folders, in the order of their numbers.

    Raises:
        ValueError: If a stem is in one of the folders only, or twice in one.
    """
    rgb = _files_by_stem(photographs, PHOTOGRAPH_SUFFIXES)
    depth = _files_by_stem(depth_maps, (".png",))
    alone = sorted(rgb.keys() ^ depth.keys())
    if alone:
        raise ValueError(
            f"`root` is {str(photographs.parent)!r}, where {len(alone)} names are in only one of {photographs.name}/ "
            f"and {depth_maps.name}/, the first {alone[0]!r}; give each photograph one depth map with the same stem."
        )
    return [(rgb[stem], depth[stem]) for stem in sorted(rgb, key=by_number)]


def block_split(
    items: Sequence[Item],
    split: str | None,
    root: Path,
    unit: str,
    group: Callable[[Item], str] | None = None,
) -> list[Item]:
    """The part of a set without official splits: ten contiguous blocks (five of fewer than ten), every fifth is `val`.

    Blocks, not every fifth item: neighbouring frames of a video are nearly the same picture, and a validation frame
    between two training frames would measure memory.

    Args:
        items (`Sequence`): What there is, in an order in which neighbours are alike.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for everything.
        root (`Path`), unit (`str`): For messages: where, and what is counted ("pairs", "scenes").
        group (`Callable`, *optional*): Which scene an item is of; a scene is then never in both parts.

    Raises:
        ValueError: If the split is another or empty.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f"`split` is {split!r}, but {str(root)!r} has no official parts: 'train' and 'val' only.")
    keys = [group(item) for item in items] if group else list(range(len(items)))
    distinct = list(dict.fromkeys(keys))
    blocks = 10 if len(distinct) >= 10 else 5
    in_val = {key: position * blocks // len(distinct) % 5 == 4 for position, key in enumerate(distinct)}
    chosen = [item for item, key in zip(items, keys, strict=True) if split is None or in_val[key] == (split == "val")]
    if not chosen:
        raise ValueError(
            f"`split` is {split!r}, but {str(root)!r} has {len(distinct)} {unit}; add {unit}, val needs five."
        )
    return chosen


def read_split_list(root: Path, split_list: str) -> list[list[str]]:
    """The fields of each line of a split list, a file beside the data or anywhere.

    Raises:
        ValueError: If there is no such file or it is empty.
    """
    places = [place for place in (Path(split_list), root / split_list) if place.is_file()]
    if not places:
        raise ValueError(f"`split_list` is {split_list!r}, which is no file, neither here nor in {str(root)!r}.")
    lines = [line.split() for line in places[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"`split_list` is {split_list!r}, and the file is empty; write one pair a line.")
    return lines


def inside(root: Path, relative: str | None) -> Path:
    """A path that a file in the folder names, refused if it leaves the folder.

    By the name alone, without resolving links: the files of a Hub snapshot are links into another folder.

    Raises:
        ValueError: If the path is absolute, empty, or goes up.
    """
    path = PurePosixPath((relative or "").replace("\\", "/"))
    if not relative or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", relative):
        raise ValueError(f"the path {relative!r} leaves the folder; write paths relative to it, without '..'.")
    return root / path


def by_number(stem: str) -> list[tuple[int, int, str]]:
    """Sort `frame_10` after `frame_9`: neighbours in time have to be neighbours in the list."""
    return [(0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", stem) if part]


def _pairs_of_index(root: Path, split: str | None, dataset: str | None) -> list[FilePair]:
    index = root / "index.csv"
    if not index.is_file():
        raise ValueError(f"`source` is {str(root)!r}, which has no index.csv; choose another `layout`.")
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


def _pair_of_row(root: Path, row: dict[str, str]) -> FilePair:
    check_depth_encoding(row["depth_encoding"] or "")
    given = [row.get(column) or "" for column in INTRINSIC_COLUMNS]
    if any(given) and not all(given):
        raise ValueError(f"{dict(zip(INTRINSIC_COLUMNS, given, strict=True))} is half a camera; fill all or none.")
    return FilePair(
        name=row["rgb"],
        rgb=inside(root, row["rgb"]),
        depth=inside(root, row["depth"]),
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


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in files:
            raise ValueError(f"{str(folder)!r} has {files[path.stem].name!r} and {path.name!r}; keep one of them.")
        files[path.stem] = path
    return files
