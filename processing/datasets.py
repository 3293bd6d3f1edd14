"""Where data with measured depth comes from: one function for every layout, and folders of pairs as a class."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .dataset_columns import open_columns
from .dataset_layouts import (
    INTRINSIC_COLUMNS,
    REQUIRED_COLUMNS,
    DepthTable,
    has_rgb_and_depth,
    open_index,
    open_pairs,
    part_folders,
)
from .dataset_layouts_diode import diode_masks, open_diode
from .dataset_layouts_kitti import is_kitti, open_kitti
from .dataset_layouts_nyu import is_nyu_scene, open_nyu_labelled, open_nyu_raw
from .dataset_layouts_sun_rgbd import open_sun_rgbd, sun_scenes
from .dataset_layouts_tum_rgbd import open_tum_rgbd, tum_sequences
from .depth_datasets import DepthDataset, StreamingDepthDataset
from .depth_samples import DepthSample, Intrinsics
from .depth_units import check_units as refuse_implausible_units
from .depth_units import median_depth

logger = logging.get_logger(__name__)

_MAX_STREAMING_SHARDS = 64


@dataclass(frozen=True)
class _Layout:
    """A way in which data lies on disk or on the Hub."""

    mark: str  # what it is recognised by, in words
    is_here: Callable[[Path], bool]
    open: Callable[..., DepthTable]
    options: tuple[str, ...]  # arguments of `load_depth_dataset` that mean something here


# In the order in which a folder is looked at: a sequence of TUM RGB-D also has rgb/ and depth/.
_LAYOUTS = {
    "index": _Layout("index.csv", lambda root: (root / "index.csv").is_file(), open_index, ("dataset",)),
    "nyu_labelled": _Layout(
        "nyu_depth_v2_labeled.mat",
        lambda root: root.suffix == ".mat" or (root / "nyu_depth_v2_labeled.mat").is_file(),
        open_nyu_labelled,
        ("depth_scale",),
    ),
    "tum_rgbd": _Layout(
        "rgb.txt and depth.txt, here or one folder below",
        lambda root: bool(tum_sequences(root)),
        open_tum_rgbd,
        ("depth_scale",),
    ),
    "pairs": _Layout(
        "rgb/ and depth/, here or in train/, val/ and test/",
        lambda root: has_rgb_and_depth(root) or bool(part_folders(root)),
        open_pairs,
        ("depth_scale",),
    ),
    "nyu_raw": _Layout(
        "folders of scenes with rgb_* and sync_depth_*, or with rgb/ and depth/",
        lambda root: any(is_nyu_scene(folder) for folder in root.iterdir()),
        open_nyu_raw,
        ("depth_scale", "split_list"),
    ),
    "kitti": _Layout(
        "data_depth_annotated/, or recordings below folders of dates",
        is_kitti,
        open_kitti,
        ("depth_scale", "split_list"),
    ),
    "hub": _Layout(
        "*.parquet",
        lambda root: next(root.rglob("*.parquet"), None) is not None,
        open_columns,
        ("depth_scale", "image_column", "depth_column", "config_name", "revision", "streaming"),
    ),
    "sun_rgbd": _Layout(
        "folders with image/, depth_bfx/ and intrinsics.txt",
        lambda root: next(sun_scenes(root), None) is not None,
        open_sun_rgbd,
        ("depth_scale",),
    ),
    "diode": _Layout(
        "*_depth_mask.npy", lambda root: next(diode_masks(root), None) is not None, open_diode, ("depth_scale",)
    ),
}
LAYOUTS = tuple(_LAYOUTS)


def load_depth_dataset(
    source: str | os.PathLike,
    layout: str | None = None,
    split: str | None = "train",
    *,
    dataset: str | None = None,
    depth_scale: float | None = None,
    image_column: str | None = None,
    depth_column: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    split_list: str | None = None,
    kb_crop: bool = False,
    streaming: bool = False,
    check_units: bool = True,
) -> DepthDataset | StreamingDepthDataset:
    """Photographs with measured depth from a folder, a file or the Hub, as [`DepthSample`]s.

    | `layout` | what it is | splits |
    |---|---|---|
    | `index` | a folder with an index.csv ([`RGBDFolder`]) | its column `split` |
    | `pairs` | rgb/ and depth/ with the same stems ([`RGBDFolder`]) | its folders, else `train`, `val` |
    | `nyu_labelled` | NYU Depth v2, the official .mat file | `train`, `test` of splits.mat |
    | `nyu_raw` | NYU Depth v2, folders of scenes | `train`, `val` by whole scenes, or a `split_list` |
    | `kitti` | KITTI raw with annotated depth | `train`, `val`, or a `split_list` |
    | `sun_rgbd` | SUN RGB-D | `train`, `test` of allsplit.mat, else `train`, `val` |
    | `diode` | DIODE | `train`, `val` |
    | `tum_rgbd` | TUM RGB-D, one or several sequences | `train`, `val` |
    | `hub` | a Hub data set or a folder of Parquet files, by columns | its own |

    The `open_...` functions of the modules `dataset_layouts...` and `dataset_columns` describe each. Files are looked
    for at once and decoded when asked for. The depth of 32 samples (the first ones of a stream) is read to see
    whether it can be metres; `dataset.report` says what was found.

    Args:
        source (`str` or `os.PathLike`): A folder, the labelled .mat file, or the id of a Hub data set ("user/name").
        layout (`str`, *optional*): One of the table; by default it is recognised.
        split (`str`, *optional*, defaults to `"train"`): Which part; `None` takes everything.
        dataset (`str`, *optional*): Rows of this data set alone (`index`).
        depth_scale (`float`, *optional*): Metres per stored unit. Layouts of benchmarks know theirs, an index.csv
            states it, `hub` requires it.
        image_column, depth_column, config_name, revision (`str`, *optional*): For `hub`.
        split_list (`str`, *optional*): A file that lists pairs (`kitti`, `nyu_raw`); then `split` says nothing.
        kb_crop (`bool`, *optional*, defaults to `False`): Whether to cut photograph, depth and principal point to the
            352 x 1216 pixels at the bottom centre, as KITTI's benchmark does.
        streaming (`bool`, *optional*, defaults to `False`): Whether to return a [`StreamingDepthDataset`].
        check_units (`bool`, *optional*, defaults to `True`): Whether to refuse a median depth outside 0.2 m to 80 m.

    Raises:
        ValueError: If the layout is not recognised, an argument does not belong to it, the data is incomplete, or the
            depth cannot be metres.
        ImportError: If a package of the extra `train` is missing.
    """
    layout = recognise_layout(source) if layout is None else layout
    if layout not in _LAYOUTS:
        raise ValueError(f"`layout` is {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    options: dict[str, Any] = {
        "dataset": dataset,
        "depth_scale": depth_scale,
        "image_column": image_column,
        "depth_column": depth_column,
        "config_name": config_name,
        "revision": revision,
        "split_list": split_list,
    }
    options = {name: value for name, value in options.items() if value is not None}
    strangers = [name for name in options if name not in _LAYOUTS[layout].options]
    if strangers:
        raise ValueError(
            f"`{strangers[0]}` is {options[strangers[0]]!r}, but {str(source)!r} is read as layout {layout!r}, which "
            f"has no use for it; leave it out (it takes {', '.join(_LAYOUTS[layout].options)})."
        )
    if depth_scale is not None and not (math.isfinite(depth_scale) and depth_scale > 0):
        raise ValueError(
            f"`depth_scale` is {depth_scale}; pass metres per stored unit, for example 0.001 for millimetres."
        )
    if layout == "hub":
        table = open_columns(source, split, streaming=streaming, **options)
    else:
        if not Path(source).is_dir() and not (layout == "nyu_labelled" and Path(source).is_file()):
            raise ValueError(f"`source` is {str(source)!r}, and there is no such folder.")
        table = _LAYOUTS[layout].open(Path(source), split, **options)
    table.reader.kb_crop = kb_crop
    rows = table.rows
    if streaming and layout != "hub":
        rows = rows.to_iterable_dataset(num_shards=min(_MAX_STREAMING_SHARDS, len(rows)))
    kind = StreamingDepthDataset if streaming else DepthDataset
    loaded = kind(rows, table.reader, table.depth_scale, table.num_without_depth)
    if table.num_without_depth:
        logger.warning(f"{split_list!r} names {table.num_without_depth} photographs without ground truth; left out.")
    if check_units:
        _look_at_units(loaded, source, layout, split_list or split)
    return loaded


def _look_at_units(
    loaded: DepthDataset | StreamingDepthDataset, source: str | os.PathLike, layout: str, part: str | None
) -> None:
    # `transformers.logging.set_verbosity_info()` reaches the logger "transformers" alone, so that one speaks where
    # nobody has turned ours on.
    heard = logger if logger.isEnabledFor(logging.INFO) else logging.get_logger("transformers")
    heard.info(f"{source} ({layout}, {part}): {loaded.report}")
    setting = "depth_scale_to_metres" if layout == "index" else "depth_scale"
    refuse_implausible_units(loaded.report, loaded.depth_scale, setting)


def recognise_layout(source: str | os.PathLike) -> str:
    """Which layout a folder or file has; something that is neither, with one slash, is taken for a Hub id.

    Raises:
        ValueError: If it is none of the known ones; the message says what was looked for.
    """
    path = Path(source)
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            return "hub"
        raise ValueError(f"`source` is {str(source)!r}: no such folder, and no Hub id, which is 'user/name'.")
    for name, layout in _LAYOUTS.items():
        if (path.is_dir() or name == "nyu_labelled") and layout.is_here(path):
            return name
    looked_for = "; ".join(f"{name}: {layout.mark}" for name, layout in _LAYOUTS.items())
    raise ValueError(f"`source` is {str(source)!r}, and no layout was recognised. Looked for: {looked_for}.")


class RGBDFolder(DepthDataset):
    """A [`DepthDataset`] over a folder; files are checked for at construction, photographs decoded when asked for.

    Two layouts are understood. A folder with an `index.csv` has one row for each pair, with the columns `rgb` and
    `depth` (paths relative to the folder), `split`, `dataset`, `scene`, `depth_encoding` (as `encoding` of
    [`read_depth`]), `depth_scale_to_metres`, `depth_offset_metres` and `invalid_raw_values` (joined by `;`), and
    optionally `fx`, `fy`, `cx`, `cy`. A folder without one holds pairs with the same stem:

        my_frames/
            rgb/0001.jpg    depth/0001.png      (16-bit PNG; 0 is missing)
            rgb/0002.jpg    depth/0002.png

    Depth may also be an array in metres (`0001.npy`), and both folders may have the same subfolders. Where such pairs
    lie in `train/`, `val/` (or `validation/`) and `test/`, those are the splits. Otherwise the names are sorted
    (numbers by value) and cut into ten contiguous blocks, five if there are fewer than ten frames; every fifth block
    is `val`, the rest is `train`. Blocks, not every fifth frame: neighbouring frames of a video are nearly the same
    picture, and a validation frame between two training frames would measure memory.

    The depth of 32 samples is read to see whether it can be metres. [`load_depth_dataset`] reads these and other
    layouts.

    Args:
        root (`str` or `os.PathLike`): The folder.
        split (`str`, *optional*, defaults to `"train"`): Which part; `None` takes all of it.
        dataset (`str`, *optional*): Keep the rows of this dataset only (folders with an `index.csv`).
        depth_scale (`float`, *optional*): Metres per stored unit, for folders without an `index.csv`; by default
            0.001 for PNGs and 1 for arrays. An index states its own.
        check_units (`bool`, *optional*, defaults to `True`): Whether to refuse a median depth outside 0.2 m to 80 m.

    Raises:
        ValueError: If the folder has neither layout, columns or files are missing, a path leaves the folder, a number
            cannot be read, the split is empty, or the depth cannot be metres.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str | None = "train",
        dataset: str | None = None,
        depth_scale: float | None = None,
        check_units: bool = True,
    ):
        self.root = Path(root)
        self.split = split
        self.dataset = dataset
        if not self.root.is_dir():
            raise ValueError(f"`root` is {str(self.root)!r}, and there is no such folder.")
        layout = "index" if (self.root / "index.csv").is_file() else "pairs"
        if layout == "index":
            if depth_scale is not None:
                raise ValueError(
                    f"`depth_scale` is {depth_scale}, but {str(self.root / 'index.csv')!r} states a scale for each "
                    "row; leave the argument out, or correct the column `depth_scale_to_metres`."
                )
            table = open_index(self.root, split, dataset)
        else:
            if dataset is not None:
                raise ValueError(f"`dataset` is {dataset!r}, but {str(self.root)!r} has no index.csv to select by.")
            table = open_pairs(self.root, split, depth_scale)
        super().__init__(table.rows, table.reader, table.depth_scale)
        if check_units:
            _look_at_units(self, self.root, layout, split)


__all__ = [
    "INTRINSIC_COLUMNS",
    "LAYOUTS",
    "REQUIRED_COLUMNS",
    "DepthDataset",
    "DepthSample",
    "Intrinsics",
    "RGBDFolder",
    "StreamingDepthDataset",
    "load_depth_dataset",
    "median_depth",
    "recognise_layout",
]
