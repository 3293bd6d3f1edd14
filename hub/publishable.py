"""What a folder must be before it is published: complete, ours where code is concerned, and without secrets."""

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import metadata_load

import llm_mde
from llm_mde import processing

KINDS = ("model", "adapter", "space")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
ARRAYS = ("*.npy", "*.npz")  # may hold pickles, and a model has no use for them
CACHES = ("__pycache__", "*.pyc", "Thumbs.db")
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
WORDS = ("added_tokens.json", "special_tokens_map.json")
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")
TEXTS = (".json", ".md", ".yaml", ".yml")
TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")


def travelling_files(only_processing: bool = False) -> Mapping[str, str]:
    """SHA-256 of the `.py` files that a model folder (or an adapter's, of its processor) has, by name."""
    packages = [processing] if only_processing else [processing, llm_mde]
    places = [Path(package.__file__).parent for package in packages]
    return {file.name: _digest(file) for place in places for file in sorted(place.glob("*_llm_mde.py"))}


def package_files() -> Mapping[str, str]:
    """SHA-256 of all `.py` files of the installed package but the Space's, by their place in it."""
    places = {"": Path(llm_mde.__file__), "processing/": Path(processing.__file__), "hub/": Path(__file__)}
    digests = {}
    for below, start in places.items():
        for file in sorted(start.parent.rglob("*.py")):
            inside = file.relative_to(start.parent)
            if inside.parts[0] != "space":
                digests[f"{below}{inside.as_posix()}"] = _digest(file)
    return digests


def check_folder(folder: str | Path, token: str | None = None) -> str:
    """
    Refuses a folder that should not be on the Hub. Reads files; no code of the folder is run.

    A model has its configuration, weights in safetensors, processor, tokenizer, card, and exactly the `.py` files of
    the installed package; an adapter its weights, processor, card, and a base on the Hub; a Space its application and
    requirements. None has pickles, symbolic links, hidden files, caches, tokens, folders of this machine, or a card
    with gaps.

    Args:
        folder (`str` or `Path`): The folder.
        token (`str`, *optional*): The token in use, which no file may contain.

    Returns:
        `str`: What the folder is, one of `KINDS`.

    Raises:
        ValueError: If something is missing or should not be there; the message names the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`folder` is {str(folder)!r}, which is not a folder.")
    kind = _kind(folder)
    files = _plain_files(folder, kind)
    {"model": _check_model, "adapter": _check_adapter, "space": _check_space}[kind](folder, files)
    _check_texts(folder, files, token)
    return kind


def base_on_hub(config: Mapping[str, Any]) -> tuple[str, str]:
    """
    Name and revision of the base in an adapter's configuration.

    Raises:
        ValueError: If it is no repository on the Hub, or has no revision.
    """
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    way_out = "publish the base first, then this adapter with `--base user/name --base_revision COMMIT`."
    if not base or not is_hub_id(base):
        raise ValueError(
            f"`base_model_name_or_path` in adapter_config.json is {base!r}, which nobody else can load: {way_out}"
        )
    if not revision:
        raise ValueError(
            f"`revision` in adapter_config.json is {revision!r}; an adapter fits one state of its base {base!r}: "
            "publish it with `--base_revision COMMIT`."
        )
    return base, revision


def is_hub_id(name: str) -> bool:
    """Whether a name can only be that of a repository: `user/name`, and no folder here."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or Path(name).exists():
        return False
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def _kind(folder: Path) -> str:
    readme = folder / "README.md"
    if readme.is_file() and "sdk" in _front_matter(readme):
        return "space"
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "model"
    raise ValueError(
        f"`folder` is {str(folder)!r}, which has neither config.json (a model), nor adapter_config.json (an adapter), "
        "nor a README.md with `sdk:` (a Space)."
    )


def _plain_files(folder: Path, kind: str) -> list[Path]:
    """All files of a folder, none of which is a link, hidden, a cache, or able to hold code in disguise."""
    unwanted = PICKLES if kind == "space" else PICKLES + ARRAYS
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"{name!r} is a symbolic link; put the file itself in its place.")
        hidden = path.name.startswith(".") and name != ".gitattributes"
        if hidden or any(fnmatch.fnmatch(path.name, pattern) for pattern in CACHES):
            raise ValueError(f"{name!r} is hidden or a cache, which nobody needs; remove it.")
        if any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in unwanted):
            raise ValueError(f"{name!r} can hold a pickle, which runs code when it is loaded; remove it.")
        if path.is_file():
            found.append(path)
    return found


def _check_model(folder: Path, files: list[Path]) -> None:
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != llm_mde.LLMMDEConfig.model_type:
        raise ValueError(f"'config.json' is of a {model_type!r} model; only LLM-MDE models are published here.")
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    if index.is_file():
        weights = sorted(set(read_json(index).get("weight_map", {}).values()))
    _check_weights(folder, weights)
    _check_processor(folder)
    _require(folder, ["README.md"])
    _check_code(folder, files, travelling_files())


def _check_adapter(folder: Path, files: list[Path]) -> None:
    base_on_hub(read_json(folder / "adapter_config.json"))
    _check_weights(folder, ["adapter_model.safetensors"])
    _check_processor(folder)
    _require(folder, ["README.md"])
    _check_code(folder, files, travelling_files(only_processing=True))


def _check_space(folder: Path, files: list[Path]) -> None:
    """Its own application may be anything; what it brings of this package may not."""
    header = _front_matter(folder / "README.md")
    if header["sdk"] != "gradio":
        raise ValueError(f"`sdk` in 'README.md' is {header['sdk']!r}; only Gradio Spaces are published here.")
    _require(folder, [header.get("app_file", "app.py"), "requirements.txt"])
    for config in folder.rglob("config.json"):  # of a model that the Space brings along
        if read_json(config).get("model_type") == llm_mde.LLMMDEConfig.model_type:
            _check_weights(config.parent, ["model.safetensors"])
            _check_processor(config.parent)
            _check_code(config.parent, files, travelling_files())
    if (folder / "llm_mde").is_dir():
        _check_code(folder / "llm_mde", files, package_files())
    expected = travelling_files()
    for file in files:
        if file.name in expected and _digest(file) != expected[file.name]:
            raise ValueError(f"{file.relative_to(folder).as_posix()!r} is not the file of the installed package.")


def _check_weights(folder: Path, names: Iterable[str]) -> None:
    from safetensors import SafetensorError, safe_open

    names = list(names)
    _require(folder, names)
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as weights:
                weights.keys()
        except SafetensorError as error:
            raise ValueError(f"{name!r} is not a whole safetensors file: {error}") from error


def _check_processor(folder: Path) -> None:
    _require(folder, PROCESSOR_FILES)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ValueError(f"{VOCABULARIES[0]!r} is missing; save the processor beside the weights.")


def _check_code(folder: Path, files: list[Path], expected: Mapping[str, str]) -> None:
    """Exactly these `.py` files, to the byte, in a folder and below it."""
    inside = [file for file in files if file.suffix == ".py" and folder in file.parents]
    found = {file.relative_to(folder).as_posix(): file for file in inside}
    way_out = "write the folder again with the installed package (`llm-mde publish` does)."
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise ValueError(f"{name!r} is missing, without which nothing loads elsewhere; {way_out}")
        if name not in expected:
            raise ValueError(
                f"{name!r} does not belong to the installed package, whose code alone is tested; remove it."
            )
        if _digest(found[name]) != expected[name]:
            raise ValueError(f"{name!r} is not the file of the installed package, which alone is tested; {way_out}")


def _check_texts(folder: Path, files: list[Path], token: str | None) -> None:
    """No token in any file, no folder of this machine and no gap in what is read by people and loaders."""
    homes = {str(place) for place in (Path.home(), Path.cwd(), folder.resolve(), folder.absolute())} - {os.sep}
    place = re.compile("|".join(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])" for home in sorted(homes)))
    for file in files:
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            continue
        content = file.read_bytes()
        if TOKEN.search(content) or (token and token.encode() in content):
            raise ValueError(
                f"{name!r} contains a Hugging Face token; remove it, and revoke the token if it was shared."
            )
        if file.suffix not in TEXTS or file.name in (*VOCABULARIES, *WORDS):  # of which "/root" may be a word
            continue
        text = content.decode(errors="replace")
        if match := place.search(text):
            raise ValueError(f"{name!r} names {match[0]!r}, a folder of this machine; replace it.")
        if file.name == "README.md" and "More Information Needed" in text:
            raise ValueError(f'{name!r} says "More Information Needed"; write what is known, and leave out the rest.')


def _require(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{name!r} is missing in {str(folder)!r}, without which it does not load elsewhere.")


def _front_matter(readme: Path) -> Mapping[str, Any]:
    import yaml

    try:
        return metadata_load(readme) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{readme.name!r} has front matter that cannot be read: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file.name!r} is not JSON: {error}") from error


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


__all__ = ["KINDS", "base_on_hub", "check_folder", "is_hub_id", "read_json", "travelling_files"]
