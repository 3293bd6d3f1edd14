"""Predictions on disk: the files of each photograph, and the log by which an interrupted run goes on."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from llm_mde.processing import write_depth_png
from llm_mde.processing.colours import colourise, depth_limits
from llm_mde.processing.depth_files import remove_unfinished, write_depth_npy, write_whole
from llm_mde.processing.photographs import Camera
from llm_mde.processing.point_clouds import back_project, without_depth_edges, write_ply

# What each format adds to the name of a photograph.
SUFFIXES = {"png": "_depth_mm.png", "npy": "_depth.npy", "colour": "_colour.png", "ply": "_points.ply"}


def write_prediction(
    folder: Path,
    stem: str,
    depth: np.ndarray,
    formats: Sequence[str],
    levels: np.ndarray | None = None,
    camera: Camera | None = None,
    max_angle: float | None = None,
) -> tuple[dict[str, str], str | None]:
    """
    Writes one prediction in several formats, each file whole or not at all.

    Args:
        folder (`Path`): The output folder.
        stem (`str`): Path of the files below it, without their suffixes; folders on the way are made.
        depth (`np.ndarray` of shape `(height, width)`): Depth in metres, finite and positive.
        formats (`Sequence[str]`): Any of `"png"` (16 bits, millimetres), `"npy"` (float32, metres), `"colour"` (a
            picture, which states the metres of its first and last colour as PNG text) and `"ply"` (points in metres).
        levels (`np.ndarray` of shape `(3, height, width)`, *optional*): The photograph, uint8; needed for `"ply"`.
        camera (`Camera`, *optional*): Needed for `"ply"`.
        max_angle (`float`, *optional*): Leaves out points at depth edges: see `without_depth_edges`.

    Returns:
        `tuple[dict[str, str], str | None]`: For each format that was written the path below `folder`, and why one was
        not: depth beyond 65.535 m does not fit into 16 bits of millimetres.
    """
    paths = {each: folder / f"{stem}{SUFFIXES[each]}" for each in formats}
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    error = None
    if "png" in paths:
        try:
            write_depth_png(paths["png"], depth)
        except ValueError as refusal:
            error = f"no PNG: {refusal}"
            paths.pop("png").unlink(missing_ok=True)  # one of an earlier run would contradict the others
    if "npy" in paths:
        write_depth_npy(paths["npy"], depth)
    if "colour" in paths:
        _write_colours(paths["colour"], depth)
    if "ply" in paths:
        _write_points(paths["ply"], depth, levels, camera, max_angle)
    return {each: path.relative_to(folder).as_posix() for each, path in paths.items()}, error


def _write_colours(path: Path, depth: np.ndarray) -> None:
    near, far = depth_limits(depth)
    text = PngImagePlugin.PngInfo()
    text.add_text("first_colour_metres", f"{near:.4f}")
    text.add_text("last_colour_metres", f"{far:.4f}")
    stored = io.BytesIO()
    Image.fromarray(colourise(depth, near, far)).save(stored, format="PNG", pnginfo=text)
    write_whole(path, stored.getvalue())


def _write_points(path: Path, depth: np.ndarray, levels: np.ndarray, camera: Camera, max_angle: float | None) -> None:
    intrinsics = camera.intrinsics
    if max_angle is not None:
        depth = without_depth_edges(depth, intrinsics, max_angle)
    height, width = depth.shape
    comment = (
        f"camera: fx {intrinsics.fx:.3f} fy {intrinsics.fy:.3f} cx {intrinsics.cx:.3f} cy {intrinsics.cy:.3f} pixels "
        f"of {width} x {height}, from {camera.source}"
    )
    write_ply(path, back_project(depth, intrinsics), levels.transpose(1, 2, 0)[depth > 0], [comment])


class PredictionLog:
    """
    What has been predicted into a folder: `predictions.jsonl` has one row for each photograph, `settings.json` what
    all of them have in common.

    While a run lasts, each of its processes appends rows to a part of its own; a run that is killed leaves them there,
    and the next one merges them. A row is added after the files it tells of.

    Args:
        folder (`Path`): The output folder.
        rank (`int`, *optional*, defaults to 0): Which process this is.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.folder = folder
        self.path = folder / "predictions.jsonl"
        self._settings = folder / "settings.json"
        self._part = folder / f"predictions.{rank}.part"

    def check_settings(self, settings: dict) -> None:
        """
        Raises:
            ValueError: If the folder holds predictions with other settings.
        """
        earlier = self._earlier_settings()
        for name, value in settings.items():
            if name in earlier and earlier[name] != value:
                raise ValueError(
                    f"`{name}` is {value!r}, but {str(self.folder)!r} holds predictions with {earlier[name]!r}; "
                    "choose another `--output`, or predict everything anew with `--overwrite`."
                )

    def start(self, settings: dict, overwrite: bool) -> None:
        """Makes the folder ready for a run: merges what earlier ones have left, or with `overwrite` forgets it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in [self.path, self._settings, *self._parts()]:
                path.unlink(missing_ok=True)
        remove_unfinished(self.folder)
        self.merge()
        settings = {**self._earlier_settings(), **settings}
        write_whole(self._settings, (json.dumps(settings, indent=2) + "\n").encode())

    def read(self) -> dict[str, dict]:
        """The merged rows by their `stem`."""
        return _by_stem([self.path] if self.path.is_file() else [])

    def add(self, row: dict) -> None:
        """Appends a row to this process's part."""
        with self._part.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")

    def merge(self) -> dict[str, dict]:
        """Makes one sorted file of all parts, whose rows replace older ones, and returns its rows by their `stem`."""
        parts = self._parts()
        rows = {**self.read(), **_by_stem(parts)}
        rows = {stem: rows[stem] for stem in sorted(rows)}
        text = "".join(json.dumps(row) + "\n" for row in rows.values())
        write_whole(self.path, text.encode("utf-8"))
        for part in parts:
            part.unlink()
        return rows

    def _earlier_settings(self) -> dict:
        return json.loads(self._settings.read_text()) if self._settings.is_file() else {}

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("predictions.*.part"))


def _by_stem(paths: Iterable[Path]) -> dict[str, dict]:
    rows = {}
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # a process was killed while it wrote this line
                continue
            rows[row["stem"]] = row
    return rows


__all__ = ["SUFFIXES", "PredictionLog", "write_prediction"]
