"""SUN RGB-D (Song et al., 2015): one folder for each image, with its camera and its depth in rotated 16 bits."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from .dataset_layouts import PAIRED_SUFFIXES, DepthTable, block_split, by_number, table_of_pairs
from .depth_files import MILLIMETRE
from .depth_readers import FilePair
from .depth_samples import Intrinsics, import_extra

# Refined depth first: the authors filled its holes from neighbouring frames.
_DEPTH_FOLDERS = ("depth_bfx", "depth")
_SPLIT_FILE = Path("SUNRGBDtoolbox") / "traintestSUNRGBD" / "allsplit.mat"


def open_sun_rgbd(root: Path, split: str | None, depth_scale: float | None = None) -> DepthTable:
    """Every folder below with `image/`, `depth_bfx/` (or `depth/`) and `intrinsics.txt`.

    With the toolbox (`SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat`) in the folder or beside it, the parts are the
    official `train` and `test`. Without it they are `train` and `val`, blocks of the sorted folders.

    Args:
        root (`Path`): The folder.
        split (`str`, *optional*): The part, `None` for everything.
        depth_scale (`float`, *optional*, defaults to 0.001): Metres per unit after the rotation by three bits.

    Raises:
        ValueError: If there is no such folder, one is incomplete, or the part is empty.
    """
    scenes = sorted(sun_scenes(root), key=lambda scene: by_number(scene.relative_to(root).as_posix()))
    if not scenes:
        raise ValueError(
            f"`source` is {str(root)!r}, and no folder below it holds image/, depth_bfx/ (or depth/), intrinsics.txt."
        )
    split_files = [path for path in (root / _SPLIT_FILE, root.parent / _SPLIT_FILE) if path.is_file()]
    if split_files and split is not None:
        scenes = _official_scenes(root, scenes, split_files[0], split)
    else:
        scenes = block_split(scenes, split, root, "images")
    scale = MILLIMETRE if depth_scale is None else depth_scale
    return table_of_pairs(root, [_pair_of_scene(root, scene, scale) for scene in scenes])


def sun_scenes(root: Path) -> Iterator[Path]:
    """The folders of images, found without looking into them."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if "intrinsics.txt" in files and "image" in subfolders and set(_DEPTH_FOLDERS) & set(subfolders):
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = sorted(subfolder for subfolder in subfolders if not subfolder.startswith("."))


def _official_scenes(root: Path, scenes: list[Path], split_file: Path, split: str) -> list[Path]:
    keys = {"train": "alltrain", "test": "alltest"}
    if split not in keys:
        raise ValueError(f"`split` is {split!r}, but {str(split_file)!r} has 'train' and 'test' only.")
    try:
        stored = import_extra("scipy.io").loadmat(split_file, variable_names=[keys[split]])[keys[split]]
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{str(split_file)!r} has no readable {keys[split]!r}: {error}") from error
    # Paths of the authors' machine, /n/fs/sun3d/data/SUNRGBD/kv1/...: what follows SUNRGBD names the folder.
    official = {_below_sunrgbd(PurePosixPath(str(np.ravel(path)[0]))) for path in np.ravel(stored)}
    chosen = [
        scene for scene in scenes if _below_sunrgbd(PurePosixPath(scene.relative_to(root).as_posix())) in official
    ]
    if not chosen:
        raise ValueError(
            f"`split` is {split!r}, but none of the {len(scenes)} images in {str(root)!r} is in that part of "
            f"{str(split_file)!r}; pass the folder that holds kv1/, kv2/, realsense/ and xtion/."
        )
    return chosen


def _below_sunrgbd(path: str) -> str:
    parts = PurePosixPath(path).parts
    return "/".join(parts[parts.index("SUNRGBD") + 1 :] if "SUNRGBD" in parts else parts)


def _pair_of_scene(root: Path, scene: Path, scale: float) -> FilePair:
    photograph = _only_file(scene / "image", PAIRED_SUFFIXES)
    depth_folder = next(scene / name for name in _DEPTH_FOLDERS if (scene / name).is_dir())
    numbers = (scene / "intrinsics.txt").read_text().split()
    try:
        fx, _, cx, _, fy, cy = [float(number) for number in numbers[:6]]
        intrinsics = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)
    except ValueError:
        raise ValueError(f"{str(scene / 'intrinsics.txt')!r} does not hold the nine numbers of a camera.") from None
    return FilePair(
        name=photograph.relative_to(root).as_posix(),
        rgb=photograph,
        depth=_only_file(depth_folder, (".png",)),
        encoding="png16_rot3",
        scale=scale,
        intrinsics=intrinsics,
    )


def _only_file(folder: Path, suffixes: tuple[str, ...]) -> Path:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.name[0] != "."]
    if len(files) != 1:
        raise ValueError(f"{str(folder)!r} holds {len(files)} files with {', '.join(suffixes)}; it should hold one.")
    return files[0]
