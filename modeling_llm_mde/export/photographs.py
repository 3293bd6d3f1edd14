"""Photographs for the export: to compare the exported network with the model on, and to quantise it by."""

from pathlib import Path

import numpy as np
from PIL import Image

from llm_mde.hub.space_template import space_template
from llm_mde.processing import load_depth_dataset
from llm_mde.processing.datasets import recognise_layout
from llm_mde.processing.image_inputs_llm_mde import open_image
from llm_mde.processing.photographs import find_photographs

_TABLES = ("index", "hub")  # layouts known by a table, which may be one of something else


def example_photographs() -> list[Image.Image]:
    """Those that came with the package.

    Raises:
        ValueError: If it has come without.
    """
    return [open_image(path, "images") for path in sorted((space_template() / "examples").glob("*.jpg"))]


def photographs_in(folder: str | Path, count: int) -> list[Image.Image]:
    """
    Photographs of a folder, the same ones each time: of RGB-D frames from all over its split `train`, of other folders
    from all over those that are in it or below.

    Args:
        folder (`str` or `Path`): RGB-D frames in any layout that `load_depth_dataset` recognises, or photographs.
        count (`int`): How many at most.

    Raises:
        ValueError: If there is no such folder, no photograph in it, or one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`calibration_data` is {str(folder)!r}, which is no folder; give one with photographs.")
    layout = None
    try:
        layout = recognise_layout(folder)
        frames = load_depth_dataset(folder, layout, check_units=False)
    except ValueError:
        may_be_no_frames = layout in (None, *_TABLES)
        if not may_be_no_frames or any("depth" in path.name.lower() for path in folder.iterdir()):
            raise  # frames that are incomplete: their depth maps are no photographs
        paths = [photograph.path for photograph in find_photographs([str(folder)])]
        return [open_image(paths[index], "calibration_data") for index in spread(len(paths), count)]
    return [frames[index].image for index in spread(len(frames), count)]


def spread(length: int, count: int) -> list[int]:
    """At most `count` places in a list of `length`, at equal distances from the first to the last."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()


__all__ = ["example_photographs", "photographs_in", "spread"]
