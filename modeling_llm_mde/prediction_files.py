"""Predictions on disk: the files of each photograph, and the log by which an interrupted run goes on."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from llm_mde.processing import write_depth_png
from llm_mde.processing.colours import colourise, depth_limits
from llm_mde.processing.depth_files import LARGEST_PNG_DEPTH, remove_unfinished, write_depth_npy, write_whole
from llm_mde.processing.photographs import Camera
from llm_mde.processing.point_clouds import back_project, without_depth_edges, write_ply

# What each format adds to the name of a photograph.
SUFFIXES = {"png": "_depth_mm.png", "npy": "_depth.npy", "colour": "_colour.png", "ply": "_points.ply"}
POINT_SETTINGS = ("intrinsics", "fov", "max_angle")  # which nothing but point clouds depends on
# The files of a model folder that say what it predicts: weights, configurations, tokenizer.
_MODEL_FILES = (
    "*.safetensors",
    "pytorch_model*.bin",
    "*config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
)


def write_prediction(
    folder: Path,
    stem: str,
    depth: np.ndarray,
    formats: Sequence[str],
    levels: np.ndarray | None = None,
    camera: Camera | None = None,
    max_angle: float | None = None,
    is_metric: bool = True,
) -> dict[str, str]:
    """
    Writes one prediction in several formats, each file whole or not at all.

    Args:
        folder (`Path`): The output folder.
        stem (`str`): Path of the files below it, without their suffixes; folders on the way are made.
        depth (`np.ndarray` of shape `(height, width)`): Depth in metres, finite and positive.
        formats (`Sequence[str]`): Any of `"png"` (16 bits, millimetres; what lies beyond 65.535 m does not fit and
            becomes 0, missing), `"npy"` (float32, metres), `"colour"` (a picture, which states the metres of its
            first and last colour as PNG text, or of relative depth the bare numbers) and `"ply"` (points in metres).
        levels (`np.ndarray` of shape `(3, height, width)`, *optional*): The photograph, uint8; needed for `"ply"`.
        camera (`Camera`, *optional*): Needed for `"ply"`.
        max_angle (`float`, *optional*): Leaves out points at depth edges: see `without_depth_edges`.
        is_metric (`bool`, *optional*, defaults to `True`): Whether depth is in metres, or up to an unknown factor.

    Returns:
        `dict[str, str]`: For each format the path below `folder`.
    """
    paths = {each: folder / f"{stem}{SUFFIXES[each]}" for each in formats}
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    if "png" in paths:
        write_depth_png(paths["png"], np.where(depth > LARGEST_PNG_DEPTH, 0, depth))
    if "npy" in paths:
        write_depth_npy(paths["npy"], depth)
    if "colour" in paths:
        _write_colours(paths["colour"], depth, "_metres" if is_metric else "")
    if "ply" in paths:
        _write_points(paths["ply"], depth, levels, camera, max_angle)
    return {each: path.relative_to(folder).as_posix() for each, path in paths.items()}


def model_digest(name_or_path: str, revision: str | None, base: str) -> str:
    """
    What tells a model from the one that it was before: another training into the same folder gives another digest, a
    copy of the folder the same one.

    Args:
        name_or_path (`str`), revision (`str`, *optional*): As in `load_model_and_processor`.
        base (`str`): Where the base of an adapter was found: `model.name_or_path` of the loaded model.

    Returns:
        `str`: The commit of a Hub id, or a SHA-256 over weights, configurations and tokenizer in a folder; of an
        adapter also that of its base.

    Raises:
        OSError: If there is no such model.
    """
    try:
        config = cached_file(name_or_path, "adapter_config.json", revision=revision)
    except OSError:
        return _digest_of_files(cached_file(name_or_path, "config.json", revision=revision))
    base_revision = json.loads(Path(config).read_text(encoding="utf-8")).get("revision")
    base_config = cached_file(base, "config.json", revision=base_revision)
    return f"{_digest_of_files(config)} on {_digest_of_files(base_config)}"


def _digest_of_files(config: str) -> str:
    """The commit of a file in the Hub's cache, or a SHA-256 of it and the files of the model beside it."""
    if commit := extract_commit_hash(config, None):
        return commit
    folder, whole = Path(config).parent, hashlib.sha256()
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        whole.update(f"{path.name} {digest.hexdigest()}\n".encode())
    return whole.hexdigest()


def _write_colours(path: Path, depth: np.ndarray, unit: str) -> None:
    near, far = depth_limits(depth)
    text = PngImagePlugin.PngInfo()
    text.add_text(f"first_colour{unit}", f"{near:.4f}")
    text.add_text(f"last_colour{unit}", f"{far:.4f}")
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
                differs = f"`{name}` is {value!r}, but {str(self.folder)!r} holds predictions with {earlier[name]!r}"
                if name == "model_digest":
                    differs = (
                        f"`model` is {earlier['model']!r}, whose weights or configuration are no longer those that "
                        f"the predictions in {str(self.folder)!r} are from"
                    )
                raise ValueError(
                    f"{differs}; choose another `--output`, or predict everything anew with `--overwrite`."
                )

    def start(self, settings: dict, overwritten: Sequence[str] | None = None) -> None:
        """Makes the folder ready for a run: merges what earlier ones have left.

        Args:
            settings (`dict`): Of the run.
            overwritten (`Sequence[str]`, *optional*): Stems to predict `again`. Nothing goes before there is something
                new: what was predicted with other settings is noted as `stale`, for `drop_stale`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)
        rows, earlier = self.merge(), self._earlier_settings()
        if overwritten is not None:
            # The digest tells what a revision is called.
            others = {name for name, value in settings.items() if earlier.get(name, value) != value} - {"revision"}
            formats = () if not others else ("ply",) if others <= set(POINT_SETTINGS) else tuple(SUFFIXES)
            for stem, row in rows.items():
                row["stale"] = [each for each in row.get("outputs", {}) if each in formats]
                row["again"] = stem in set(overwritten)
            self._write(rows)
            earlier = {} if others else earlier
        write_whole(self._settings, (json.dumps({**earlier, **settings}, indent=2) + "\n").encode())

    def drop_stale(self) -> None:
        """Removes the files that are still stale, and rows without any other."""
        rows = self.merge()
        for stem, row in list(rows.items()):
            stale = set(row.pop("stale", ()))
            row.pop("again", None)
            for each in stale & row["outputs"].keys():
                self.remove(row["outputs"].pop(each))
            if stale and not row["outputs"] and row["status"] != "failed":
                del rows[stem]
        self._write(rows)

    def remove(self, path: str) -> None:
        """Deletes a file that a row names, unless it lies elsewhere: a log may come from somebody else."""
        file = self.folder / path
        if file.resolve().is_relative_to(self.folder.resolve()):
            file.unlink(missing_ok=True)

    def is_there(self) -> bool:
        """Whether the folder is that of a run."""
        return self.path.is_file() and self._settings.is_file()

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
        self._write(rows)
        for part in parts:
            part.unlink()
        return rows

    def _write(self, rows: dict[str, dict]) -> None:
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows.values()).encode("utf-8"))

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


__all__ = ["POINT_SETTINGS", "SUFFIXES", "PredictionLog", "model_digest", "write_prediction"]
