"""Which model a Space shows: from its environment, from its `space.json`, or from the folder beside it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NO_ADAPTER = "none"
MODEL_FOLDER = "model"
SETTINGS_FILE = "space.json"
DEMONSTRATION_NAME = "the demonstration model"
DEMONSTRATION = (
    "This is the demonstration model: small, and trained for minutes. It shows that every part works; it is not a "
    "good depth model."
)


@dataclass(frozen=True)
class SpaceSettings:
    """What a Space shows.

    Attributes:
        model (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.
        adapters (`dict[str, tuple[str, str | None]]`): By the name to choose them by, folder or Hub id, and revision.
        note (`str`): A sentence about the model.
        name (`str`): What visitors read it is called; by default after the folder or the Hub id.
    """

    model: str
    revision: str | None = None
    adapters: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    note: str = ""
    name: str = ""

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", model_name(self.model))


def model_name(model: str | Path) -> str:
    """The Hub id, or the name of the folder; a folder called `model` has that of the one around it."""
    if not Path(model).is_dir():
        return str(model)
    folder = Path(model).resolve()
    return folder.parent.name if folder.name == MODEL_FOLDER else folder.name


def read_space_settings(environment: Mapping[str, str], folder: Path) -> SpaceSettings:
    """
    Reads LLM_MDE_MODEL, LLM_MDE_REVISION and LLM_MDE_ADAPTERS (`name=place,name=place@revision`); for each that is not
    set `model`, `revision`, `adapters` (an object of names and places), `note` and `name` of `space.json`; without a
    model there, takes the folder `model`. Places are Hub ids, or folders also beside these two.

    Args:
        environment (`Mapping[str, str]`): `os.environ`.
        folder (`Path`): Where the Space's `app.py` lies.

    Raises:
        ValueError: If nothing names a model, what does cannot be read, a place is a path where no folder is, or a
            folder is to have a revision.
    """
    stated = _stated(folder / SETTINGS_FILE)
    adapters = stated.get("adapters") or {}
    if environment.get("LLM_MDE_ADAPTERS"):
        adapters = _pairs(environment["LLM_MDE_ADAPTERS"])
    for name in adapters:
        if name == NO_ADAPTER or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(
                f"an adapter is called {name!r}; use letters, digits, '_' and '-', and not {NO_ADAPTER!r}, which is "
                "the model alone."
            )
    if environment.get("LLM_MDE_MODEL"):
        # What `space.json` says is about another model.
        (model, revision), note, name = _place(environment["LLM_MDE_MODEL"], folder), "", ""
        adapters = adapters if environment.get("LLM_MDE_ADAPTERS") else {}
    elif stated.get("model"):
        (model, revision), note = _place(stated["model"], folder), stated.get("note") or ""
        name, revision = stated.get("name") or "", stated.get("revision") or revision
    elif (folder / MODEL_FOLDER).is_dir():
        model, revision, note = str(folder / MODEL_FOLDER), None, stated.get("note", DEMONSTRATION)
        name = stated.get("name") or (DEMONSTRATION_NAME if note == DEMONSTRATION else "")
    else:
        raise ValueError(
            "there is no model: set LLM_MDE_MODEL to a folder or Hub id, or make a Space that has one with "
            "`make space` or `llm-mde publish space`."
        )
    revision = environment.get("LLM_MDE_REVISION") or revision
    if revision and Path(model).is_dir():
        raise ValueError(
            f"LLM_MDE_REVISION is {revision!r}, but the model is the folder {model!r}, and only Hub ids have "
            "revisions: unset it, or set LLM_MDE_MODEL to a Hub id."
        )
    adapters = {adapter: _place(place, folder) for adapter, place in adapters.items()}
    return SpaceSettings(model, revision, adapters, note, name)


def _stated(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(stated, dict) or not isinstance(stated.get("adapters") or {}, dict):
        raise ValueError(f"{str(path)!r} is no object with a `model` and an object of `adapters`.")
    return stated


def _pairs(text: str) -> dict[str, str]:
    pairs = [(name.strip(), place.strip()) for name, _, place in (pair.partition("=") for pair in text.split(","))]
    if len(dict(pairs)) < len(pairs) or not all(name and place for name, place in pairs):
        raise ValueError(
            f"LLM_MDE_ADAPTERS is {text!r}; write name=folder or name=user/model@revision, with commas between them "
            "and every name once."
        )
    return dict(pairs)


def _place(place: str, folder: Path) -> tuple[str, str | None]:
    """Folder or Hub id, and revision, of `place`, `place@revision`, or a folder of the Space."""
    for candidate in (Path(place), folder / place):
        if candidate.is_dir():
            return str(candidate), None
    name, _, revision = place.partition("@")
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no folder {place!r}; give one that is there, or a Hub id such as user/name.")
    return name, revision or None


__all__ = ["NO_ADAPTER", "SpaceSettings", "model_name", "read_space_settings"]
