"""Folders of pairs: the index.csv layout, plain paired folders, and what the layouts of benchmarks share."""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from .depth_files import MILLIMETRE, check_depth_encoding
from .depth_readers import DepthReader, FilePair, FileReader, rows_of_pairs
from .depth_samples import Intrinsics
from .photographs import visible_files

if TYPE_CHECKING:
    import datasets

# Of photographs with depth. Originals in other formats may lie beside them.
PAIRED_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
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
# A folder of pairs may have its parts made already: folders of these names, by the names that `split` takes.
PART_FOLDERS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}

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
        ValueError: If the folders or files are missing, the names do not pair, there is no such part, or the first
            depth map is no depth map of these kinds.
    """
    if has_rgb_and_depth(root):
        pairs = block_split(_pairs_of_folder(root, root, depth_scale), split, root, "pairs")
    else:
        parts = part_folders(root)
        if not parts:
            raise ValueError(
                f"`root` is {str(root)!r}, which has neither an index.csv nor the folders rgb/ and depth/; "
                "put photographs into rgb/ and 16-bit PNGs (or .npy in metres) with the same stems into depth/."
            )
        if split is not None and split not in parts:
            raise ValueError(f"`split` is {split!r}, but {str(root)!r} has the parts {', '.join(parts)}; name one.")
        chosen = parts if split is None else (split,)
        pairs = [pair for part in chosen for pair in _pairs_of_folder(root, parts[part], depth_scale)]
    return table_of_pairs(root, pairs)


def has_rgb_and_depth(folder: Path) -> bool:
    """Whether a folder holds rgb/ and depth/."""
    return (folder / "rgb").is_dir() and (folder / "depth").is_dir()


def part_folders(root: Path) -> dict[str, Path]:
    """The folders train/, val/ (or validation/) and test/ that hold rgb/ and depth/, by the name of their split."""
    found = {}
    for split, names in PART_FOLDERS.items():
        folders = [root / name for name in names if has_rgb_and_depth(root / name)]
        if folders:
            found[split] = folders[0]
    return found


def pairs_of_stems(
    photographs: Path, depth_maps: Path, depth_suffixes: tuple[str, ...] = (".png",)
) -> list[tuple[Path, Path]]:
    """Photographs and depth maps of the same stem, subfolders included, in the order of their numbers.

    Args:
        photographs (`Path`), depth_maps (`Path`): The two folders; what is hidden in them is left alone.
        depth_suffixes (`tuple[str, ...]`, *optional*, defaults to `(".png",)`): Which files are depth maps.

    Raises:
        ValueError: If a stem is in one of the folders only, or twice in one, or there is none.
    """
    rgb, others = _files_by_stem(photographs, PAIRED_SUFFIXES)
    depth, other_depth = _files_by_stem(depth_maps, depth_suffixes)
    ignored = "".join(
        f" Ignored in {folder.name}/: {', '.join(f'{count} {suffix}' for suffix, count in sorted(suffixes.items()))}; "
        f"it takes {', '.join(taken)}."
        for folder, suffixes, taken in (
            (photographs, others, PAIRED_SUFFIXES),
            (depth_maps, other_depth, depth_suffixes),
        )
        if suffixes
    )
    where = f"`root` is {str(photographs.parent)!r}, where"
    alone = sorted(rgb.keys() ^ depth.keys())
    if alone:
        raise ValueError(
            f"{where} {len(alone)} names are in only one of {photographs.name}/ and {depth_maps.name}/, the first "
            f"{alone[0]!r}; give each photograph one depth map with the same stem.{ignored}"
        )
    if not rgb:
        raise ValueError(
            f"{where} {photographs.name}/ holds no photograph and {depth_maps.name}/ no depth map; add some.{ignored}"
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
            f"`split` is {split!r}, but {str(root)!r} has {len(distinct)} {unit}; add {unit}, val needs five, or read "
            "everything with `split=None` (`--eval_split all`), or write an index.csv with a column `split`."
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
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", stem) if part]


def _pairs_of_folder(root: Path, folder: Path, depth_scale: float | None) -> list[FilePair]:
    pairs = [
        FilePair(
            name=photograph.relative_to(root).as_posix(),
            rgb=photograph,
            depth=depth,
            encoding="npy" if depth.suffix.lower() == ".npy" else "png16",
            scale=_scale_of(depth) if depth_scale is None else depth_scale,
        )
        for photograph, depth in pairs_of_stems(folder / "rgb", folder / "depth", (".png", ".npy"))
    ]
    _check_bits(pairs[0].depth)
    return pairs


def _scale_of(depth_map: Path) -> float:
    """Metres per stored unit where nobody says it: arrays are in metres, PNGs in millimetres."""
    return 1.0 if depth_map.suffix.lower() == ".npy" else MILLIMETRE


def _check_bits(depth_map: Path) -> None:
    """One look, without decoding, before thousands are queued; the reader refuses each such file in any case."""
    if depth_map.suffix.lower() != ".png":
        return
    try:
        with Image.open(depth_map) as image:
            mode = image.mode
    except Exception:
        return  # reported when it is read
    if not mode.startswith("I"):
        raise ValueError(
            f"{str(depth_map)!r} has Pillow mode {mode}, but depth/ takes PNGs of 16 bits (I;16), or .npy in metres. "
            "Depth of 8 bits needs an index.csv with `depth_encoding` png8 and its scale; a colour picture of a depth "
            "map cannot be read back."
        )


def _pairs_of_index(root: Path, split: str | None, dataset: str | None) -> list[FilePair]:
    index = root / "index.csv"
    if not index.is_file():
        raise ValueError(f"`source` is {str(root)!r}, which has no index.csv; choose another `layout`.")
    try:
        with index.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns, rows = reader.fieldnames or (), [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{str(index)!r} is no CSV file in UTF-8: {error}; save it as one.") from error
    absent = [column for column in REQUIRED_COLUMNS if column not in columns]
    if absent:
        raise ValueError(f"{str(index)!r} lacks the columns {', '.join(absent)}; `RGBDFolder` describes them.")
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
    scale, offset = _number(row, "depth_scale_to_metres"), _number(row, "depth_offset_metres")
    if not (0 < scale < math.inf and math.isfinite(offset)):
        raise ValueError(
            f"`depth_scale_to_metres` is {scale:g} and `depth_offset_metres` {offset:g}; write metres per stored "
            "unit, such as 0.001, and metres, mostly 0."
        )
    given = [row.get(column) or "" for column in INTRINSIC_COLUMNS]
    if any(given) and not all(given):
        raise ValueError(f"{dict(zip(INTRINSIC_COLUMNS, given, strict=True))} is half a camera; fill all or none.")
    return FilePair(
        name=row["rgb"],
        rgb=inside(root, row["rgb"]),
        depth=inside(root, row["depth"]),
        encoding=row["depth_encoding"],
        scale=scale,
        offset=offset,
        invalid_raw_values=tuple(float(value) for value in (row["invalid_raw_values"] or "").split(";") if value),
        intrinsics=Intrinsics(*(_number(row, column) for column in INTRINSIC_COLUMNS)) if all(given) else None,
    )


def _number(row: dict[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise ValueError(f"`{column}` is {row[column]!r}, which is not a number.") from None


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], Counter[str]]:
    """Files by their path without suffix, and how many of other suffixes there are."""
    files: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in visible_files(folder):
        if path.suffix.lower() not in suffixes:
            others[path.suffix.lower() or "without a suffix"] += 1
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise ValueError(f"{str(folder)!r} has {files[stem].name!r} and {path.name!r}; keep one of them.")
        files[stem] = path
    return files, others
