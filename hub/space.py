"""A folder that is a Gradio Space: the application, this package as it is installed, and a model, or the id of one."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import metadata_load, metadata_save

import llm_mde
from llm_mde import processing
from llm_mde.adapters_llm_mde import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, AdapterFiles
from llm_mde.demonstration import MARK, train_demonstration_model
from llm_mde.page.settings import (
    DEMONSTRATION,
    DEMONSTRATION_NAME,
    MODEL_FOLDER,
    SETTINGS_FILE,
    model_name,
    read_space_settings,
)

from .folders import appearing_whole, write_model_folder
from .loading import is_adapter, load_model_and_processor
from .publishable import is_hub_id, read_json
from .sample_pictures import SAMPLE_PHOTOGRAPH, SAMPLE_PICTURE
from .space_template import space_template

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation

APPLICATION = ("app.py", "requirements.txt", "README.md")
ADAPTERS_FOLDER = "adapters"
DESCRIPTION = ("README.md", SAMPLE_PICTURE, SAMPLE_PHOTOGRAPH, MARK)  # of a model folder


def write_space_folder(
    folder: str | Path,
    model: str | Path | None = None,
    *,
    title: str | None = None,
    revision: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
) -> Path:
    """
    Writes a Space, which `python app.py` inside it starts as the Hub does: the application with its header,
    requirements and examples, the files of the installed package as `llm_mde`, and what `space.json` says it shows.
    The folder appears whole or not at all.

    A model folder becomes part of the Space, written anew in safetensors; an adapter folder, too, merged into its
    base. A Hub id is loaded by the Space when it starts: no network is needed here, but for an adapter folder whose
    base is on the Hub. The environment variables LLM_MDE_MODEL, LLM_MDE_REVISION and LLM_MDE_ADAPTERS go before all
    that is written here.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model (`str` or `Path`, *optional*): Model folder, adapter folder, or Hub id of either. By default the
            demonstration model, which is trained for it: some five minutes on two CPU cores.
        title (`str`, *optional*): Of the Space; by default that of the header in `spaces_demo`.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id, best a commit.
        adapters (`Mapping[str, str | Path]`, *optional*): More for the visitor to choose from, by name: adapter
            folders, which become part of the Space, or Hub ids, `user/name` or `user/name@revision`.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, a place is neither a folder nor a Hub id, a folder does not
            load or an adapter in it does not fit the model, or a title, a name or `revision` cannot be as it is given.
        ImportError: If the demonstration model is to be trained, or an adapter is there, and something that this needs
            is not installed.
    """
    adapters = dict(adapters or {})
    if title is not None and not (title.strip() and title.isprintable()):
        raise ValueError(f"`title` is {title!r}; give one line of text.")
    is_local = model is None or _is_folder(model, "model")
    if is_local and revision is not None:
        raise ValueError(f"`revision` is {revision!r}, but `model` is no Hub id; only those have revisions.")
    if model is None and adapters:
        raise ValueError("`adapters` are given without `model`; give the model they were made for.")
    local_adapters = {name: Path(place) for name, place in adapters.items() if _is_folder(place, "adapters")}
    for place in local_adapters.values():
        if not is_adapter(place):
            raise ValueError(f"`adapters` has {str(place)!r}, a folder without {ADAPTER_CONFIG_NAME}.")
    inside = {name: f"{ADAPTERS_FOLDER}/{name}" for name in local_adapters}
    on_hub = {name: str(place) for name, place in adapters.items() if name not in inside}
    is_demonstration = is_local and (model is None or Path(model, MARK).is_file())
    settings = {
        "model": MODEL_FOLDER if is_local else str(model),
        "revision": revision,
        "adapters": {name: (inside | on_hub)[name] for name in adapters},
        "note": DEMONSTRATION if is_demonstration else "",
        "name": DEMONSTRATION_NAME if is_demonstration else model_name(model),
    }
    models = [*([] if is_local else [str(model)]), *(place.partition("@")[0] for place in on_hub.values())]
    with appearing_whole(folder) as unfinished:
        _copy_application(unfinished)
        _copy_package(unfinished / "llm_mde")
        (unfinished / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        read_space_settings({}, unfinished)  # as the application will: names that it does not take are refused here
        _complete_header(unfinished / "README.md", title, models)
        loaded = None
        if model is None:
            train_demonstration_model(unfinished / MODEL_FOLDER)
        elif is_local:
            loaded = _embed_model(unfinished / MODEL_FOLDER, Path(model))
        for name, place in local_adapters.items():
            _embed_adapter(unfinished / ADAPTERS_FOLDER / name, place, loaded, settings)
    return Path(folder)


def _is_folder(place: str | Path, argument: str) -> bool:
    """Whether a place is a folder here; if not, it is an id on the Hub, for adapters with `@revision`."""
    if Path(place).is_dir():
        return True
    name = str(place).partition("@")[0] if argument == "adapters" else str(place)
    if isinstance(place, Path) or not is_hub_id(name):
        raise ValueError(
            f"`{argument}` has {str(place)!r}, which is neither a folder here nor an id on the Hub, such as user/name."
        )
    return False


def _copy_application(target: Path) -> None:
    template = space_template()
    for name in APPLICATION:
        shutil.copyfile(template / name, target / name)
    (target / "examples").mkdir()
    for example in sorted((template / "examples").glob("*.jpg")):
        shutil.copyfile(example, target / "examples" / example.name)


def _copy_package(target: Path) -> None:
    """All packages of a wheel, wherever an editable install has them, without the application itself."""
    for start, below in ((llm_mde.__file__, "."), (processing.__file__, "processing"), (__file__, "hub")):
        source = Path(start).parent
        for file in sorted(source.rglob("*")):
            inside = file.relative_to(source)
            if inside.parts[0] == "space" or not (file.suffix in (".py", ".yaml") or file.name == "py.typed"):
                continue
            (target / below / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / below / inside)


def _complete_header(readme: Path, title: str | None, models: Sequence[str]) -> None:
    """The header with the title asked for, and with the models that the Space loads from the Hub."""
    header = metadata_load(readme)
    if title is not None:
        header["title"] = title.strip()
    if models:
        header["models"] = list(dict.fromkeys(models))
    metadata_save(readme, header)


def _embed_model(target: Path, source: Path) -> "LLMMDEForDepthEstimation":
    model, processor = load_model_and_processor(source, device="cpu")
    write_model_folder(target, model, processor)
    if not is_adapter(source):  # an adapter's card does not describe the merged model
        for name in DESCRIPTION:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
    return model


def _embed_adapter(target: Path, source: Path, model: "LLMMDEForDepthEstimation | None", settings: dict) -> None:
    """The weights of an adapter, its processor if it has one, and a configuration that names the Space's model."""
    adapter = AdapterFiles.find(source)
    if model is not None:
        adapter.check_fits(model)
    target.mkdir(parents=True)
    shutil.copyfile(source / ADAPTER_WEIGHTS_NAME, target / ADAPTER_WEIGHTS_NAME)
    base = {
        "base_model_name_or_path": settings["model"] if model is None else f"../../{MODEL_FOLDER}",
        "revision": settings["revision"],
    }
    config = read_json(source / ADAPTER_CONFIG_NAME) | base
    (target / ADAPTER_CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (source / "processor_config.json").is_file():
        processing.LLMMDEProcessor.from_pretrained(source).save_pretrained(target)


__all__ = ["write_space_folder"]
