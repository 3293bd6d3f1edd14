"""Any data set of the Hub, or a local folder of Parquet files, by the names of its columns and an explicit scale."""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .dataset_layouts import INTRINSIC_COLUMNS, DepthTable
from .depth_readers import DepthReader, decode_photograph, depth_in_metres
from .depth_samples import Intrinsics, import_extra

if TYPE_CHECKING:
    import datasets
    import pyarrow

_USUAL_IMAGE_COLUMNS = ("image",)
_USUAL_DEPTH_COLUMNS = ("depth", "depth_map")
_DEPTH_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


class ColumnReader(DepthReader):
    """Reads rows with an image column and a depth column, as stored: encoded files, or arrays.

    A row is a table of one row: `datasets` turns arrays into nested lists otherwise, 40 times slower.

    Args:
        image_column (`str`), depth_column (`str`): The columns.
        depth_scale (`float`): Metres per stored unit.
        has_intrinsics (`bool`): Whether there are columns fx, fy, cx and cy.
    """

    def __init__(self, image_column: str, depth_column: str, depth_scale: float, has_intrinsics: bool):
        self.image_column = image_column
        self.depth_column = depth_column
        self.depth_scale = depth_scale
        self.has_intrinsics = has_intrinsics

    def name(self, row: "pyarrow.Table") -> str:
        """Split and number; of a row from a stream, whose number nobody knows, a digest of what it holds."""
        if "name" in row.column_names:
            return _cell(row, "name")
        digest = hashlib.sha256()
        for column in (self.image_column, self.depth_column):
            cell = _cell(row, column)
            digest.update(_encoded(cell) if isinstance(cell, dict) else np.ascontiguousarray(cell).tobytes())
        return digest.hexdigest()[:16]

    def read_photograph(self, row: "pyarrow.Table") -> Image.Image:
        with self._errors_named(row, self.image_column):
            cell = _cell(row, self.image_column)
            if isinstance(cell, dict):
                return decode_photograph(_encoded(cell), "the file")
            return _photograph_of_array(np.asarray(cell))

    def read_depth(self, row: "pyarrow.Table") -> np.ndarray:
        with self._errors_named(row, self.depth_column):
            cell = _cell(row, self.depth_column)
            raw = _decode_depth(_encoded(cell)) if isinstance(cell, dict) else _two_dimensional(np.asarray(cell))
        return depth_in_metres(raw, self.depth_scale)

    def read_intrinsics(self, row: "pyarrow.Table") -> Intrinsics | None:
        if not self.has_intrinsics:
            return None
        values = [_cell(row, column) for column in INTRINSIC_COLUMNS]
        known = all(value is not None and math.isfinite(value) for value in values)
        return Intrinsics(*map(float, values)) if known else None

    @contextmanager
    def _errors_named(self, row: "pyarrow.Table", column: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"`{column}` of {self.name(row)!r}: {error}") from error


def open_columns(
    source: str | Path,
    split: str | None,
    depth_scale: float | None = None,
    image_column: str | None = None,
    depth_column: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> DepthTable:
    """A Hub data set, or a local folder of Parquet files, through `datasets.load_dataset`.

    The image column holds images, or arrays (H, W, 3) or (3, H, W) of 0 ... 255 or 0 ... 1. The depth column holds
    images of mode I;16, I or F, or arrays (H, W), (1, H, W) or (H, W, 1). Columns fx, fy, cx and cy, where all four
    are there, become intrinsics. Images stay encoded until a sample is asked for, and are decoded here: no 16-bit
    image is ever turned into 8 bits.

    Args:
        source (`str` or `Path`): Repository id or folder.
        split (`str`, *optional*): As in `load_dataset` ("train", "train[:10%]"); `None` joins all splits.
        depth_scale (`float`): Metres per stored unit. Required: nothing in the data says it.
        image_column (`str`, *optional*, defaults to `"image"`), depth_column (`str`, *optional*): The columns; the
            depth column defaults to `"depth"`, else `"depth_map"`.
        config_name (`str`, *optional*), revision (`str`, *optional*), streaming (`bool`, *optional*): As in
            `load_dataset`.

    Raises:
        ValueError: If the data cannot be loaded, the split or a column is not there, or no scale is given.
    """
    datasets = import_extra("datasets")
    if depth_scale is None:
        kind = "a folder of Parquet files" if Path(source).exists() else "no folder here, hence a Hub data set"
        raise ValueError(
            f"`depth_scale` is not given, and `source` {str(source)!r} is {kind}, which does not state it; pass "
            "metres per stored unit, for example 1 for metres or 0.001 for millimetres."
        )
    try:
        loaded = datasets.load_dataset(str(source), config_name, split=split, revision=revision, streaming=streaming)
    except (RuntimeError, OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(_why_not_loaded(str(source), split, error)) from error
    parts = dict(loaded) if split is None else {split: loaded}
    tables = []
    for part, rows in parts.items():
        image, depth = _checked_columns(source, rows.features, image_column, depth_column)
        cameras = [column for column in INTRINSIC_COLUMNS if column in rows.features]
        has_intrinsics = len(cameras) == len(INTRINSIC_COLUMNS)
        for column in (image, depth):
            if isinstance(rows.features[column], datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        rows = rows.select_columns([image, depth, *(cameras if has_intrinsics else [])]).with_format("arrow")
        if not streaming:
            rows = rows.add_column("name", [f"{part}/{index:06d}" for index in range(len(rows))])
        tables.append(rows)
    rows = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
    return DepthTable(rows, ColumnReader(image, depth, depth_scale, has_intrinsics), depth_scale)


def _why_not_loaded(source: str, split: str | None, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    if "scripts are no longer supported" in reason:
        return (
            f"`source` is {source!r}, whose files need a loading script, which `datasets` no longer runs; "
            "try the Hub's own conversion with `revision='refs/convert/parquet'`."
        )
    if "split" in reason:
        return f"`split` is {split!r}, but {source!r} cannot be loaded so: {reason}"
    return f"`source` is {source!r}, no folder of a layout known here, nor can it be loaded as a data set: {reason}"


def _checked_columns(
    source: str | Path, features: "datasets.Features | None", image_column: str | None, depth_column: str | None
) -> tuple[str, str]:
    if features is None:
        raise ValueError(f"`source` is {str(source)!r}, which does not say its columns; use a copy in Parquet.")
    chosen = []
    for argument, given, usual in (
        ("image_column", image_column, _USUAL_IMAGE_COLUMNS),
        ("depth_column", depth_column, _USUAL_DEPTH_COLUMNS),
    ):
        there = [column for column in ([given] if given else usual) if column in features]
        if not there:
            raise ValueError(
                f"`{argument}` is {given or ' or '.join(usual)!r}, but {str(source)!r} has the columns "
                f"{', '.join(features)}; pass one of them."
            )
        if not _holds_images_or_arrays(features[there[0]]):
            raise ValueError(
                f"`{argument}` is {there[0]!r}, which holds {features[there[0]]}; it has to hold images or arrays. "
                f"The columns are {', '.join(features)}."
            )
        chosen.append(there[0])
    return chosen[0], chosen[1]


def _holds_images_or_arrays(feature) -> bool:
    datasets = import_extra("datasets")
    kinds = (datasets.Image, datasets.Array2D, datasets.Array3D, datasets.List, datasets.LargeList)
    return isinstance(feature, kinds)


def _cell(row: "pyarrow.Table", column: str) -> Any:
    """Bytes and path of an image, an array, or a plain value."""
    (values,) = (chunk for chunk in row.column(column).chunks if len(chunk))
    if hasattr(values.type, "storage_type"):  # Array2D, Array3D
        return values.to_numpy(zero_copy_only=False)[0]
    return values[0].as_py()


def _encoded(cell: Mapping[str, Any]) -> bytes:
    """The bytes of an image that was not decoded; a stream may give a path alone, possibly a remote one."""
    if cell["bytes"] is not None:
        return cell["bytes"]
    with import_extra("fsspec").open(cell["path"], "rb") as file:
        return file.read()


def _decode_depth(encoded: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode, raw = image.mode, np.array(image)
    except OSError as error:
        raise ValueError(f"it is not a readable image: {error}") from error
    if mode not in _DEPTH_MODES:
        raise ValueError(
            f"it has Pillow mode {mode}, but depth has 16 or 32 bits (I;16, I, F). A picture of a depth map, grey or "
            "in colours, cannot be read back."
        )
    return raw


def _two_dimensional(array: np.ndarray) -> np.ndarray:
    depth = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    depth = depth[..., 0] if depth.ndim == 3 and depth.shape[-1] == 1 else depth
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise ValueError(f"it is {array.dtype} of shape {array.shape}, but depth is (H, W), (1, H, W) or (H, W, 1).")
    return depth


def _photograph_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype.kind not in "fiu":
        raise ValueError(f"it is {array.dtype} of shape {array.shape}, but a photograph is (H, W, 3) or (3, H, W).")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(f"it has values from {low:g} to {high:g}, but a photograph has 0 ... 255 or 0 ... 1.")
    if array.dtype.kind == "f":
        array = np.rint(array * 255 if high <= 1 else array)
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))
