"""What every data set of this package gives, one sample at a time."""

import importlib
import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels of its photograph: focal lengths and principal point, pixel centres at integers.

    Raises:
        ValueError: If a focal length is not positive, or a number not finite.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self):
        if not (min(self.fx, self.fy) > 0 and all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy)))):
            raise ValueError(
                f"`intrinsics` is fx {self.fx:g}, fy {self.fy:g}, cx {self.cx:g}, cy {self.cy:g}; give positive focal "
                "lengths and a principal point, in pixels, or leave all of them out."
            )


@dataclass(frozen=True)
class DepthSample:
    """One photograph and its measured depth.

    Attributes:
        image (`PIL.Image.Image`): The photograph, mode RGB, upright, without metadata.
        depth (`np.ndarray` of shape `(height, width)`, float32): z-depth in metres; 0 marks a missing measurement.
            It covers the photograph's field of view, at the same or at a lower resolution.
        intrinsics (`Intrinsics`, *optional*): The photograph's camera, `None` where unknown.
        name (`str`): Which sample this is, for files the photograph's path inside its folder.
    """

    image: Image.Image
    depth: np.ndarray
    intrinsics: Intrinsics | None
    name: str


def import_extra(module: str) -> ModuleType:
    """Import a package that reading data needs and inference does not.

    Raises:
        ImportError: If it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"reading this data needs `{package}`: pip install {package} ({error})") from error
