"""What a study leaves on disk while it runs: each finished run at once, under settings that do not change."""

import hashlib
import json
import os
import platform
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from llm_mde.public_names import without_place

Row = dict[str, Any]  # "variant", where a study has it "at", the "loss" of a training, and numbers by name

_PACKAGES = ("llm-mde", "torch", "transformers", "peft", "timm", "accelerate", "datasets", "numpy")
_MODELS, _DATA = ("model", "vision_model", "language_model"), ("data", "train_split_list", "eval_split_list")
_BLOCK = 1 << 20


class RunLog:
    """
    `runs.jsonl`, one line for each finished run, and `study.json` with the settings they share.

    A line is a run's `name` and `seed`, its `rows`, and the `versions` and `device` that made it. A line that was cut
    off, by a killed process, is dropped, and its run is done again.

    Args:
        folder (`Path`): Where both lie; it exists.
        study (`str`): The study's name.
        settings (`dict`): Everything but lists and places: see [`settings_of`].

    Raises:
        ValueError: If the folder holds another study, or the same under other settings.
    """

    def __init__(self, folder: Path, study: str, settings: dict[str, Any]):
        self.path = folder / "runs.jsonl"
        description = folder / "study.json"
        if description.is_file():
            earlier = json.loads(description.read_text())
            _refuse_others(folder, earlier, {"study": study, "settings": settings})
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):
            write_whole(self.path, b"".join(whole))
        write_whole(description, (json.dumps({"study": study, "settings": settings}, indent=1) + "\n").encode())
        records = [json.loads(line) for line in whole]
        self.records = {(record["run"], record["seed"]): record for record in records}

    def append(self, name: str, seed: int | None, rows: list[Row], use_cpu: bool = False) -> None:
        """Adds a finished run, on disk before this returns."""
        device = describe_device(use_cpu)
        record = {"run": name, "seed": seed, "rows": rows, "versions": versions(), "device": device}
        with self.path.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self.records[name, seed] = record


def settings_of(*arguments: Any) -> dict[str, Any]:
    """What has to be the same for runs to share a folder: all fields but the output and lists, which only say which
    runs there are. Of a model or of data on this machine there is the name, and as `model_content` what it is."""
    values = {field.name: getattr(each, field.name) for each in arguments for field in fields(each)}
    settings = {
        name: without_place(value)
        for name, value in values.items()
        if name != "output" and not isinstance(value, (list, tuple))
    }
    for name in (*_MODELS, *_DATA):
        if values.get(name) is not None and Path(values[name]).exists():
            digest = model_digest if name in _MODELS else data_digest
            settings[f"{name}_content"] = digest(Path(values[name]))
    return settings


def model_digest(folder: Path) -> str:
    """What a saved model is: names and content of its files, but for its card and code."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if file.is_file() and file.suffix not in (".md", ".py"):
            digest.update(f"{file.name}\n".encode())
            _add_content(digest, file)
    return digest.hexdigest()[:16]


def data_digest(place: Path) -> str:
    """Which data this is: the content of its index.csv, else names and sizes of all files; of a list its content."""
    digest = hashlib.sha256()
    index = place / "index.csv"
    if index.is_file():
        _add_content(digest, index)
    elif place.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=True) for name in names]
        for name, file in sorted((file.relative_to(place).as_posix(), file) for file in files):
            digest.update(f"{name} {file.stat().st_size}\n".encode())
    else:
        _add_content(digest, place)
    return digest.hexdigest()[:16]


def _add_content(digest: Any, file: Path) -> None:
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_device(use_cpu: bool = False) -> str:
    """The accelerator's name, or the processor's kind with the number of threads."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.get_device_name()
    accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return f"{platform.machine()} CPU, threads: {torch.get_num_threads()}" if accelerator is None else str(accelerator)


def _refuse_others(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    where = f"`output` is {str(folder)!r}, which holds "
    way_out = "; give another folder, or the same settings to go on."
    if earlier["study"] != now["study"]:
        raise ValueError(f"{where}the study {earlier['study']!r}{way_out}")
    old, new = earlier["settings"], json.loads(json.dumps(now["settings"]))
    changed = [name for name in new if name not in old or old[name] != new[name]]
    if changed:
        listing = ", ".join(f"{name}={old.get(name)!r} (now {new[name]!r})" for name in changed)
        raise ValueError(f"{where}runs with {listing}{way_out}")


__all__ = [
    "Row",
    "RunLog",
    "data_digest",
    "describe_device",
    "model_digest",
    "settings_of",
    "versions",
    "write_whole",
]
