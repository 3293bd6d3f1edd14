"""NYU Depth v2 (Silberman et al., 2012): the labelled .mat file, and raw frames as folders of scenes."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from transformers.utils import logging

from .dataset_layouts import (
    PAIRED_SUFFIXES,
    DepthTable,
    block_split,
    by_number,
    inside,
    pairs_of_stems,
    read_split_list,
    table_of_pairs,
)
from .depth_files import MILLIMETRE
from .depth_readers import DepthReader, FilePair, FileReader, Row, depth_in_metres
from .depth_samples import Intrinsics, import_extra

if TYPE_CHECKING:
    import h5py

logger = logging.get_logger(__name__)

# The colour camera as the toolbox of the data set calibrates it, for photographs of this size.
_FULL_SIZE = (640, 480)
NYU_INTRINSICS = Intrinsics(fx=518.85790117450188, fy=519.46961112127485, cx=325.58244941119034, cy=253.73616633400465)
# Outside of these rows and columns the published test set is black; the labelled photographs have a white frame there.
_TEST_WINDOW = (slice(7, 474), slice(7, 632))
_SYNCHRONISED = re.compile(r"(sync_depth|rgb)_(\d+)\.(png|jpg|jpeg)", re.IGNORECASE)


class LabelledNYUReader(DepthReader):
    """Reads the labelled file, HDF5 as MATLAB writes it: arrays lie transposed, `images` as (N, 3, 640, 480).

    Args:
        path (`Path`): The file.
        depth_scale (`float`): Metres per stored unit, 1 for the official file.
        depths (`str`, *optional*, defaults to `"depths"`): The array with the depth, or `"rawDepths"`.
        with_black_frame (`bool`, *optional*, defaults to `False`): Whether photographs are black at the edges, as in
            the published test set, see [`open_nyu_labelled`].
    """

    def __init__(self, path: Path, depth_scale: float, depths: str = "depths", with_black_frame: bool = False):
        self.path = path
        self.depth_scale = depth_scale
        self.depths = depths
        self.with_black_frame = with_black_frame
        self._file: h5py.File | None = None
        self._process: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_process": None}

    def read_photograph(self, row: Row) -> Image.Image:
        photograph = self._open()["images"][row["index"]].transpose(2, 1, 0)  # (H, W, 3)
        if self.with_black_frame and self._is_full_size():
            window = photograph[_TEST_WINDOW]
            photograph = np.zeros_like(photograph)
            photograph[_TEST_WINDOW] = window
        return Image.fromarray(np.ascontiguousarray(photograph))

    def read_depth(self, row: Row) -> np.ndarray:
        return depth_in_metres(self._open()[self.depths][row["index"]].T, self.depth_scale)

    def read_intrinsics(self, row: Row) -> Intrinsics | None:
        return NYU_INTRINSICS if self._is_full_size() else None

    def _is_full_size(self) -> bool:
        return self._open()["images"].shape[2:] == _FULL_SIZE

    def _open(self) -> "h5py.File":
        # A forked worker inherits the attribute, but HDF5 must not be used through a file another process opened.
        if self._file is None or self._process != os.getpid():
            self._file, self._process = open_labelled_file(self.path), os.getpid()
        return self._file


class NYUFrameReader(FileReader):
    """Reads rows of [`open_nyu_raw`]: their camera holds for photographs of 640 x 480 pixels and no others."""

    def read_intrinsics(self, row: Row) -> Intrinsics | None:
        camera = super().read_intrinsics(row)
        if camera is None:
            return None
        with Image.open(row["rgb"]) as photograph:
            return camera if photograph.size == _FULL_SIZE else None


def open_labelled_file(path: Path) -> "h5py.File":
    """Open the labelled file and check its arrays.

    Raises:
        ValueError: If it is not HDF5, or lacks `images` (N, 3, W, H) or `depths` (N, W, H).
    """
    h5py = import_extra("h5py")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be opened as HDF5, the format of nyu_depth_v2_labeled.mat: {error}"
        ) from error
    shapes = {key: file[key].shape if key in file else None for key in ("images", "depths")}
    images = shapes["images"]
    if images is None or len(images) != 4 or shapes["depths"] != (images[0], *images[2:]):
        file.close()
        raise ValueError(f"{str(path)!r} has {shapes}; the labelled file has images (N, 3, W, H), depths (N, W, H).")
    return file


def open_nyu_labelled(root: Path, split: str | None, depth_scale: float | None = None) -> DepthTable:
    """The labelled images: 795 to train and 654 to test, by the official `splits.mat` beside the file.

    `test` is the set of 654 images that the field measures on (as BTS extracts it; AdaBins, GLPN, NeWCRFs and ZoeDepth
    use the same files): its depth is `rawDepths`, where holes are missing, and its photographs of 640 x 480 pixels are
    black outside rows 7 to 473 and columns 7 to 631. `train` and `None` read the dense `depths`, whose holes are
    filled, and whole photographs; numbers of `None` are therefore not comparable with published ones. A copy of the
    file without `rawDepths` gives `depths` for `test` as well, with a warning.

    Args:
        root (`Path`): `nyu_depth_v2_labeled.mat`, or a folder with a file of this name.
        split (`str`, *optional*): `"train"`, `"test"`, or `None` for all 1449.
        depth_scale (`float`, *optional*, defaults to 1): Metres per stored unit.

    Raises:
        ValueError: If a file is missing or does not hold what it should.
    """
    is_test_set = split == "test"
    datasets = import_extra("datasets")
    path = root / "nyu_depth_v2_labeled.mat" if root.is_dir() else root
    if not path.is_file():
        raise ValueError(f"`source` is {str(root)!r}, and there is no {str(path)!r}; pass the path of the file.")
    with open_labelled_file(path) as file:
        count = len(file["images"])
        has_raw_depth = "rawDepths" in file and file["rawDepths"].shape == file["depths"].shape
    if is_test_set and not has_raw_depth:
        logger.warning(
            f"{str(path)!r} has no rawDepths, which published numbers on the test set are measured with: its filled "
            "`depths` are read instead. The official nyu_depth_v2_labeled.mat has both."
        )
    indices = list(range(count)) if split is None else _official_indices(path.with_name("splits.mat"), split, count)
    rows = datasets.Dataset.from_dict({"name": [f"{index:04d}" for index in indices], "index": indices})
    scale = 1.0 if depth_scale is None else depth_scale
    depths = "rawDepths" if is_test_set and has_raw_depth else "depths"
    return DepthTable(rows, LabelledNYUReader(path, scale, depths, with_black_frame=is_test_set), scale)


def _official_indices(path: Path, split: str, count: int) -> list[int]:
    """Indices from 0, in the order of the file."""
    keys = {"train": "trainNdxs", "test": "testNdxs"}
    if split not in keys:
        raise ValueError(f"`split` is {split!r}, but the labelled NYU Depth v2 has 'train' and 'test' only.")
    if not path.is_file():
        raise ValueError(
            f"`split` is {split!r}, but {str(path)!r} is not there; put the official splits.mat beside the labelled "
            "file, or pass `split=None` for all images."
        )
    try:
        stored = import_extra("scipy.io").loadmat(path, variable_names=[keys[split]])[keys[split]]
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{str(path)!r} has no readable {keys[split]!r}: {error}") from error
    indices = [int(number) - 1 for number in np.ravel(stored)]  # MATLAB counts from 1
    if not indices or min(indices) < 0 or max(indices) >= count:
        raise ValueError(f"{str(path)!r} names images that are not among the {count} of the labelled file.")
    return sorted(indices)


def open_nyu_raw(
    root: Path, split: str | None, depth_scale: float | None = None, split_list: str | None = None
) -> DepthTable:
    """Raw frames, projected and in 16-bit PNG: one folder for each scene, in either of two customs.

        bedroom_0001/rgb_00000.jpg     bedroom_0001/sync_depth_00000.png
        bedroom_0001/rgb/00000.jpg     bedroom_0001/depth/00000.png

    Without a list, the parts `train` and `val` are made of whole scenes; recordings of one room (`_0001a`, `_0001b`)
    count as one. With a list, its lines say which pairs (`/scene/rgb_00000.jpg /scene/sync_depth_00000.png focal`),
    and `split` says nothing.

    The camera of NYU is that of photographs of 640 x 480 pixels which are NYU's own by their name (`rgb_00000.jpg`) or
    by the list. Whoever keeps scenes of another camera in rgb/ and depth/ gets them without intrinsics.

    Args:
        root (`Path`): The folder of the scenes.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for everything.
        depth_scale (`float`, *optional*, defaults to 0.001): Metres per stored unit.
        split_list (`str`, *optional*): A file of such lines.

    Raises:
        ValueError: If there is no such scene, or files are missing.
    """
    num_without_depth = 0
    if split_list is None:
        scenes = sorted((folder for folder in root.iterdir() if is_nyu_scene(folder)), key=lambda f: by_number(f.name))
        if not scenes:
            raise ValueError(f"`source` is {str(root)!r}, and none of its folders holds rgb_* and sync_depth_* files.")
        pairs = [pair for scene in scenes for pair in _pairs_of_scene(scene)]
        pairs = block_split(pairs, split, root, "scenes", group=lambda pair: _room(pair[0].relative_to(root).parts[0]))
    else:
        pairs = []
        for number, fields in enumerate(read_split_list(root, split_list), start=1):
            if len(fields) < 2:
                raise ValueError(f"`split_list` is {split_list!r}, whose line {number} names no depth map.")
            if fields[1] == "None":
                num_without_depth += 1
            else:  # these lists write paths with a slash in front
                pairs.append(tuple(inside(root, field.lstrip("/")) for field in fields[:2]))
    scale = MILLIMETRE if depth_scale is None else depth_scale
    table = table_of_pairs(
        root,
        [
            FilePair(
                name=rgb.relative_to(root).as_posix(),
                rgb=rgb,
                depth=depth,
                scale=scale,
                intrinsics=NYU_INTRINSICS if split_list is not None or _SYNCHRONISED.fullmatch(rgb.name) else None,
            )
            for rgb, depth in pairs
        ],
        num_without_depth,
    )
    return replace(table, reader=NYUFrameReader())


def is_nyu_scene(folder: Path) -> bool:
    """Whether a folder holds frames of one scene in one of the two customs.

    A hidden folder is no scene, nor is one named for a part: parts that somebody made must not be mixed and cut anew.
    """
    if folder.name.startswith(".") or folder.name in ("train", "val", "validation", "test") or not folder.is_dir():
        return False
    if (folder / "rgb").is_dir() and (folder / "depth").is_dir():
        return True
    return any(_SYNCHRONISED.fullmatch(path.name) for path in folder.glob("sync_depth_*"))


def _pairs_of_scene(scene: Path) -> list[tuple[Path, Path]]:
    if (scene / "rgb").is_dir():
        return pairs_of_stems(scene / "rgb", scene / "depth")
    files: dict[str, dict[str, Path]] = {"rgb": {}, "sync_depth": {}}
    for path in sorted(scene.iterdir()):
        match = _SYNCHRONISED.fullmatch(path.name)
        if match and path.suffix.lower() in PAIRED_SUFFIXES:
            files[match[1].lower()][match[2]] = path
    alone = sorted(files["rgb"].keys() ^ files["sync_depth"].keys())
    if alone:
        raise ValueError(
            f"{str(scene)!r} has {len(alone)} frames with only one of rgb_* and sync_depth_*, the first {alone[0]!r}; "
            "complete or remove them."
        )
    return [(files["rgb"][frame], files["sync_depth"][frame]) for frame in sorted(files["rgb"], key=by_number)]


def _room(scene: str) -> str:
    """`basement_0001a` and `basement_0001b_out` are recordings of one room."""
    return re.sub(r"(?<=\d)[a-z]?(_out)?$", "", scene)
