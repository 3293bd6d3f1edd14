"""DIODE (Vasiljevic et al., 2019): photographs beside depth and validity as NumPy arrays."""

import os
from collections.abc import Iterator
from pathlib import Path

from .dataset_layouts import DepthTable, table_of_pairs
from .depth_readers import FilePair
from .depth_samples import Intrinsics

# The computed camera of all crops of 1024 x 768 pixels, from intrinsics.txt of the authors' devkit.
DIODE_INTRINSICS = Intrinsics(fx=886.81, fy=927.06, cx=512.0, cy=384.0)
_MASK = "_depth_mask.npy"


def open_diode(root: Path, split: str | None, depth_scale: float | None = None) -> DepthTable:
    """Every `NAME.png` below with `NAME_depth.npy` (H, W, 1) in metres and `NAME_depth_mask.npy` (H, W).

    Args:
        root (`Path`): The folder that holds train/ and val/, the official parts; `None` as the split takes any folder.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for everything below.
        depth_scale (`float`, *optional*, defaults to 1): Metres per stored unit.

    Raises:
        ValueError: If the part is not there or empty, or files are missing.
    """
    if split not in (None, "train", "val"):
        raise ValueError(f"`split` is {split!r}, but DIODE has 'train' and 'val' only.")
    part = root if split is None else root / split
    masks = sorted(diode_masks(part)) if part.is_dir() else []
    if not masks:
        raise ValueError(
            f"`split` is {split!r}, but {str(part)!r} holds no *{_MASK}; pass the folder that holds train/ and val/, "
            "or `split=None` for everything below a folder."
        )
    pairs = []
    for mask in masks:
        photograph = mask.with_name(mask.name.removesuffix(_MASK) + ".png")
        pairs.append(
            FilePair(
                name=photograph.relative_to(root).as_posix(),
                rgb=photograph,
                depth=mask.with_name(mask.name.removesuffix(_MASK) + "_depth.npy"),
                mask=mask,
                encoding="npy",
                scale=1.0 if depth_scale is None else depth_scale,
                intrinsics=DIODE_INTRINSICS,
            )
        )
    return table_of_pairs(root, pairs)


def diode_masks(root: Path) -> Iterator[Path]:
    """The validity masks below a folder."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders.sort()
        yield from (Path(folder) / file for file in sorted(files) if file.endswith(_MASK) and not file.startswith("."))
