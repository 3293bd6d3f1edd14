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
from transformers.utils import logging

from .dataset_layouts import INTRINSIC_COLUMNS, DepthTable
from .depth_readers import DepthReader, decode_photograph, depth_in_metres, stored_orientation
from .depth_samples import Intrinsics, import_extra
from .image_inputs_llm_mde import read_photograph, readable_formats

if TYPE_CHECKING:
    import datasets
    import pyarrow

logger = logging.get_logger(__name__)

_USUAL_IMAGE_COLUMNS = ("image",)
_USUAL_DEPTH_COLUMNS = ("depth", "depth_map")
_MATRIX_COLUMNS = ("intrinsics", "K")
_DEPTH_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


class ColumnReader(DepthReader):
    """Reads rows with an image column and a depth column, as stored: encoded files, or arrays.

    A row is a table of one row: `datasets` turns arrays into nested lists otherwise, 40 times slower.

    Args:
        image_column (`str`), depth_column (`str`): The columns.
        depth_scale (`float`): Metres per stored unit.
        camera_columns (`tuple[str, ...]`): fx, fy, cx and cy, or one column of 3 x 3 matrices, or none.
    """

    def __init__(self, image_column: str, depth_column: str, depth_scale: float, camera_columns: tuple[str, ...]):
        self.image_column = image_column
        self.depth_column = depth_column
        self.depth_scale = depth_scale
        self.camera_columns = camera_columns

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

    def read_orientation(self, row: "pyarrow.Table") -> int:
        cell = _cell(row, self.image_column)
        if not isinstance(cell, dict) or (cell["bytes"] is None and cell.get("path") is None):
            return 1
        return stored_orientation(_encoded(cell))

    def read_depth(self, row: "pyarrow.Table") -> np.ndarray:
        with self._errors_named(row, self.depth_column):
            cell = _cell(row, self.depth_column)
            raw = _decode_depth(_encoded(cell)) if isinstance(cell, dict) else _two_dimensional(np.asarray(cell))
        return depth_in_metres(raw, self.depth_scale)

    def read_intrinsics(self, row: "pyarrow.Table") -> Intrinsics | None:
        if not self.camera_columns:
            return None
        if len(self.camera_columns) == 1:
            (column,) = self.camera_columns
            return _camera_of_matrix(_cell(row, column), column)
        values = [_cell(row, column) for column in self.camera_columns]
        known = all(value is not None and math.isfinite(value) for value in values)
        # Tables have 0 where a camera is not known as well as nothing.
        return Intrinsics(*map(float, values)) if known and min(values[:2]) > 0 else None

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

    The image column holds images, or arrays (H, W, 3), (3, H, W) or, grey, (H, W) of 0 ... 255 or 0 ... 1. The depth
    column holds images of mode I;16, I or F, or arrays (H, W), (1, H, W) or (H, W, 1). Images may also be plain bytes
    or pairs of `bytes` and `path`, as tables written without `datasets` have them. Columns fx, fy, cx and cy, where
    all four are there, become intrinsics, else a column `intrinsics` or `K` of 3 x 3 matrices. Images stay encoded
    until a sample is asked for, and are decoded here: no 16-bit image is ever turned into 8 bits.

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
        cameras = _camera_columns(rows.features)
        for column in (image, depth):
            if isinstance(rows.features[column], datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        rows = rows.select_columns([image, depth, *cameras]).with_format("arrow")
        if not streaming:
            rows = rows.add_column("name", _row_names(part, rows.info.splits, len(rows)))
        tables.append(rows)
    rows = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
    return DepthTable(rows, ColumnReader(image, depth, depth_scale, cameras), depth_scale)


def _row_names(part: str, splits: "datasets.SplitDict | None", count: int) -> list[str]:
    """`train/000005` for row 5 of `train`, also where only a part such as `train[5:]` is read."""
    import datasets

    lengths = {name: split.num_examples for name, split in (splits or {}).items()}
    pieces = datasets.ReadInstruction.from_spec(part).to_absolute(lengths) if lengths else []
    names = [
        f"{each.splitname}/{n:06d}" for each in pieces for n in range(lengths[each.splitname])[each.from_ : each.to]
    ]
    return names if len(names) == count else [f"{part}/{index:06d}" for index in range(count)]


def _why_not_loaded(source: str, split: str | None, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    if "scripts are no longer supported" in reason:
        return (
            f"`source` is {source!r}, whose files need a loading script, which `datasets` no longer runs; "
            "try the Hub's own conversion with `revision='refs/convert/parquet'` "
            "(`--data_revision refs/convert/parquet`)."
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
    if isinstance(feature, dict):  # how `datasets` would store an image, but without its metadata
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or _holds_arrays(feature) or _holds_bytes(feature)


def _holds_bytes(feature) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _holds_arrays(feature) -> bool:
    datasets = import_extra("datasets")
    return isinstance(feature, (datasets.Array2D, datasets.Array3D, datasets.List, datasets.LargeList))


def _camera_columns(features: "datasets.Features") -> tuple[str, ...]:
    if all(column in features for column in INTRINSIC_COLUMNS):
        return INTRINSIC_COLUMNS
    return tuple(column for column in _MATRIX_COLUMNS if column in features and _holds_arrays(features[column]))[:1]


def _camera_of_matrix(cell: Any, column: str) -> Intrinsics | None:
    """The camera of K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; `None` where there is none, or something else."""
    if cell is None:
        return None
    try:
        matrix = np.asarray(cell, dtype=np.float64).reshape(3, 3)
        fx, fy, cx, cy = (float(matrix[position]) for position in ((0, 0), (1, 1), (0, 2), (1, 2)))
        is_camera = np.isfinite(matrix).all() and (matrix[2] == (0, 0, 1)).all() and min(fx, fy) > 0
    except (TypeError, ValueError):
        is_camera = False
    if not is_camera:
        logger.warning_once(
            f"`{column}` does not hold 3 x 3 camera matrices [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; samples without "
            "one have no intrinsics."
        )
    return Intrinsics(fx, fy, cx, cy) if is_camera else None


def _cell(row: "pyarrow.Table", column: str) -> Any:
    """Bytes and path of an image, an array, or a plain value."""
    (values,) = (chunk for chunk in row.column(column).chunks if len(chunk))
    if hasattr(values.type, "storage_type"):  # Array2D, Array3D
        return values.to_numpy(zero_copy_only=False)[0]
    value = values[0].as_py()
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value


def _encoded(cell: Mapping[str, Any]) -> bytes:
    """The bytes of an image that was not decoded; a stream may give a path alone, possibly a remote one."""
    if cell["bytes"] is not None:
        return cell["bytes"]
    if cell.get("path") is None:
        raise ValueError("it is empty: neither the bytes of an image nor its path.")
    with import_extra("fsspec").open(cell["path"], "rb") as file:
        return file.read()


def _decode_depth(encoded: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded), formats=readable_formats()) as image:
            mode, raw = image.mode, np.array(image)
    except Exception as error:  # damaged files raise whatever the decoders run into
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
    is_grey = array.ndim == 2
    is_rgb = array.ndim == 3 and 3 in (array.shape[0], array.shape[-1])
    if array.dtype.kind not in "fiu" or array.size == 0 or not (is_grey or is_rgb):
        raise ValueError(
            f"it is {array.dtype} of shape {array.shape}, but a photograph is (H, W, 3), (3, H, W) or (H, W)."
        )
    # Integers of any width are levels here: tables often store small numbers in wide types.
    if array.dtype.kind in "iu":
        low, high = array.min(), array.max()
        if low < 0 or high > 255:
            raise ValueError(f"it has values from {low} to {high}, but a photograph of integers has 0 ... 255.")
        array = array.astype(np.uint8)
    return Image.fromarray(read_photograph(array).levels.permute(1, 2, 0).numpy())
