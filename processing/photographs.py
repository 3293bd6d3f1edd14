"""Many photographs to predict: found in files, folders and data sets, and read in batches that survive a bad file."""

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from .depth_samples import DepthSample, Intrinsics
from .image_inputs_llm_mde import open_image, read_photograph
from .point_clouds import intrinsics_from_exif
from .worker_processes import end_with_parent

if TYPE_CHECKING:
    from transformers import BatchFeature

    from .processing_llm_mde import LLMMDEProcessor

PHOTOGRAPH_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2"),
    *(".heic", ".heif"),  # for which Pillow needs a plugin: without it they are told as unreadable
)


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels of one photograph, and where they are from."""

    intrinsics: Intrinsics
    source: str


@dataclass(frozen=True)
class PhotographFile:
    """A photograph on disk.

    Attributes:
        name (`str`): Its path from the working directory, or the absolute one if it does not lie below.
        stem (`str`): A relative path without suffix, under which something about it can be written.
        path (`Path`): Where it lies.
    """

    name: str
    stem: str
    path: Path

    def read(self) -> tuple[np.ndarray, Camera | None]:
        """Upright RGB levels, uint8 `(3, height, width)`, and the camera of the EXIF; `ValueError` if unreadable."""
        image = open_image(self.path, "images")
        intrinsics = intrinsics_from_exif(image) if isinstance(image, Image.Image) else None
        camera = intrinsics and Camera(intrinsics, "EXIF")
        return read_photograph(image).levels.numpy(), camera


@dataclass(frozen=True)
class PhotographOfSample:
    """The photograph of one sample of a data set; attributes as in [`PhotographFile`]."""

    name: str
    stem: str
    samples: Sequence[DepthSample]
    index: int

    def read(self) -> tuple[np.ndarray, Camera | None]:
        """As [`PhotographFile.read`], with the camera that the data set states."""
        sample = self.samples[self.index]
        return read_photograph(sample.image).levels.numpy(), sample.intrinsics and Camera(
            sample.intrinsics, "data set"
        )


@dataclass(frozen=True)
class ReadPhotograph:
    """A photograph as a `DataLoader` brings it, or the reason why it could not be read.

    Attributes:
        index (`int`): Which of the data set's photographs.
        levels (`np.ndarray` of shape `(3, height, width)`, *optional*): Upright RGB, uint8.
        size (`tuple[int, int]`): Height and width of the upright photograph.
        camera (`Camera`, *optional*): `None` where unknown.
        error (`str`, *optional*): Why there are no levels.
    """

    index: int
    levels: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    camera: Camera | None = None
    error: str | None = None


class PhotographDataset(Dataset):
    """A map-style dataset of [`ReadPhotograph`]; a bad file is a value with an `error`, and no exception."""

    def __init__(self, photographs: Sequence[PhotographFile | PhotographOfSample]):
        self.photographs = photographs

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> ReadPhotograph:
        try:
            levels, camera = self.photographs[index].read()
        except (OSError, ValueError) as error:
            return ReadPhotograph(index, error=" ".join(str(error).split()))
        return ReadPhotograph(index, levels, levels.shape[1:], camera)


class PhotographCollator:
    """Turns a list of [`ReadPhotograph`] into pairs of some of them and the processor's inputs with their prompts.

    Usually that is one pair. Photographs that the processor would not bring to one size are parted by size, and those
    that could not be read come with `None`.

    Args:
        processor ([`LLMMDEProcessor`]): The processor.
        keep_levels (`bool`): Whether the photographs keep their pixels, or leave them behind in the worker.
        kwargs: More arguments of the processor's call, such as `text`.
    """

    def __init__(self, processor: "LLMMDEProcessor", keep_levels: bool, **kwargs):
        self.processor = processor
        self.keep_levels = keep_levels
        self.kwargs = kwargs

    def __call__(self, photographs: list[ReadPhotograph]) -> list[tuple[list[ReadPhotograph], "BatchFeature | None"]]:
        end_with_parent()
        image_processor = self.processor.image_processor
        is_one_size = image_processor.do_resize and not image_processor.keep_aspect_ratio
        groups: dict[tuple, list[ReadPhotograph]] = defaultdict(list)
        for photograph in photographs:
            groups[(photograph.error is None, None if is_one_size else photograph.size)].append(photograph)
        return [
            (self._kept(group), self._inputs(group) if is_read else None) for (is_read, _), group in groups.items()
        ]

    def _inputs(self, photographs: list[ReadPhotograph]) -> "BatchFeature":
        return self.processor(
            images=[photograph.levels for photograph in photographs],
            input_data_format="channels_first",
            return_prompt=True,
            return_tensors="pt",
            **self.kwargs,
        )

    def _kept(self, photographs: list[ReadPhotograph]) -> list[ReadPhotograph]:
        return photographs if self.keep_levels else [replace(photograph, levels=None) for photograph in photographs]


def find_photographs(names: Sequence[str]) -> list[PhotographFile]:
    """The photographs in files, folders (with all below them) and glob patterns, in this order and each once.

    Of a folder come the files with the suffix of a photograph, without hidden ones, links to folders followed; a
    pattern gives whatever matches, as in a shell.

    Raises:
        ValueError: If a name leads to nothing.
    """
    found: dict[str, PhotographFile] = {}
    for name in names:
        named = Path(name)
        if named.is_dir():
            paths = sorted(path for path in visible_files(named) if path.suffix.lower() in PHOTOGRAPH_SUFFIXES)
        elif named.is_file():
            paths = [named]
        else:
            paths = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if os.path.isfile(match)]
            named = Path(*takewhile(lambda part: not glob.has_magic(part), named.parts))
        if not paths:
            raise ValueError(
                f"`images` has {name!r}, where no photograph is; give files, folders, or quoted patterns such as "
                "'photos/**/*.jpg'."
            )
        for path in paths:
            found.setdefault(os.path.abspath(path), _photograph_file(path, named))
    return list(found.values())


def photographs_of_samples(samples: Sequence[DepthSample]) -> list[PhotographOfSample]:
    """The photographs of a map-style data set, which has the `names` of its samples.

    Raises:
        ValueError: If it has not.
    """
    if not (hasattr(samples, "names") and hasattr(samples, "__getitem__")):
        raise ValueError(
            f"`data` is a {type(samples).__name__}, whose samples come in a row and cannot be chosen by name; load it "
            "without streaming."
        )
    return [
        PhotographOfSample(name, _stem(PurePosixPath(name)), samples, index)
        for index, name in enumerate(samples.names)
    ]


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links to folders followed; without hidden ones, such as macOS's `._1.png`. A link to a
    folder on the way to it is not followed."""
    on_the_way = {os.fspath(folder): {os.path.realpath(folder)}}
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        above = on_the_way.pop(parent)
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in subfolders if not name.startswith(".")}
        subfolders[:] = sorted(name for name, place in real.items() if place not in above)
        on_the_way |= {os.path.join(parent, name): above | {real[name]} for name in subfolders}
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _photograph_file(path: Path, named: Path) -> PhotographFile:
    absolute = Path(os.path.abspath(path))
    if absolute.is_relative_to(Path.cwd()):
        relative = absolute.relative_to(Path.cwd())
        return PhotographFile(relative.as_posix(), _stem(relative), path)
    return PhotographFile(absolute.as_posix(), _stem(absolute.relative_to(Path(os.path.abspath(named)).parent)), path)


def _stem(relative: Path | PurePosixPath) -> str:
    """A path below some folder, whatever the name: without an anchor, without '..', without a photograph's suffix."""
    parts = [part for part in relative.parts if part not in (relative.anchor, "..")]
    path = PurePosixPath(*parts)
    return (path.with_suffix("") if path.suffix.lower() in PHOTOGRAPH_SUFFIXES else path).as_posix()


__all__ = [
    "PHOTOGRAPH_SUFFIXES",
    "Camera",
    "PhotographCollator",
    "PhotographDataset",
    "PhotographFile",
    "PhotographOfSample",
    "ReadPhotograph",
    "find_photographs",
    "photographs_of_samples",
    "visible_files",
]
