"""What is known about how weights came about: `training.json`, from which a model card is written."""

import json
import os
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

RECORD_FILE = "training.json"


@dataclass(frozen=True)
class StartRecord:
    """What the training started from.

    Attributes:
        kind (`str`): `"model"`, `"adapter"` (merged into its base), `"encoders"` (two pretrained ones, joined by new
            layers) or `"random"` (nothing pretrained).
        names (`list[str]`): Of the model or the adapter, or of vision encoder and language model; folders by their
            last part.
        hub_ids (`list[str]`): Those of them that were loaded from the Hub.
        revision (`str`, *optional*): Of a model or an adapter from the Hub, a commit where it is known.
    """

    kind: Literal["model", "adapter", "encoders", "random"]
    names: list[str]
    hub_ids: list[str]
    revision: str | None


@dataclass(frozen=True)
class DataRecord:
    """Frames that were trained on, or chosen by.

    Attributes:
        name (`str`): Hub id, or the last part of a folder's or file's path.
        is_on_hub (`bool`): Whether `name` is a Hub id.
        dataset (`str`, *optional*): Part of the data that was chosen.
        split (`str`): Split, or the file that lists it.
        revision (`str`, *optional*): Of a data set on the Hub.
        num_frames (`int`, *optional*): How many; not known of a stream.
        shots (`str`, *optional*): The few-shot subset that was asked for, such as `"10"` or `"5%"`.
        shots_seed (`int`, *optional*): Which subset of that size.
        depth (`str`): Median, range and measured share of the depth, in words.
        flags (`dict`): Anything else that changes how the data is read.
    """

    name: str
    is_on_hub: bool
    dataset: str | None
    split: str
    revision: str | None
    num_frames: int | None
    shots: str | None
    shots_seed: int | None
    depth: str
    flags: dict[str, Any]


@dataclass(frozen=True)
class AdaptedPartRecord:
    """Layers of one part that have an update: how many, and the ranks and scales (alpha) that occur."""

    part: str
    num_layers: int
    ranks: list[int]
    alphas: list[float]


@dataclass(frozen=True)
class AdapterRecord:
    """An adapter: its kind, the layers that it adds to, the modules that it keeps whole."""

    kind: str
    parts: list[AdaptedPartRecord]
    whole_modules: list[str]


@dataclass(frozen=True)
class PartRecord:
    """Weights of one part of the model: all, and those that were trained."""

    part: str
    total: int
    trained: int


@dataclass(frozen=True)
class OptimisationRecord:
    """How long and how fast. Of `warmup_steps`, a number below 1 is a share of all steps."""

    epochs: float
    steps: int
    resumed_at_step: int | None
    effective_batch_size: int
    num_processes: int
    optimiser: str
    learning_rate: float
    vision_learning_rate: float
    language_learning_rate: float
    weight_decay: float
    schedule: str
    warmup_steps: float
    max_grad_norm: float
    seed: int


@dataclass(frozen=True)
class BestRecord:
    """By which metric of the evaluation frames the weights were chosen, its value, and when it was reached."""

    metric: str
    value: float
    step: int | None


@dataclass(frozen=True)
class TrainingRecord:
    """How weights came about, without folders of the machine.

    Attributes:
        command (`str`, *optional*): The command line, as `public_command` shows it.
        recipe (`str`, *optional*): The recipe whose values the command line replaced.
        method (`str`): What was trained: `"lora"`, `"full"` or `"frozen"`.
        start ([`StartRecord`]): What it started from.
        data ([`DataRecord`]): Frames that were trained on.
        eval_data ([`DataRecord`]): Frames that were measured with while training.
        parts (`list[PartRecord]`): Weights of each part.
        adapter ([`AdapterRecord`], *optional*): Of the method `"lora"`.
        optimisation ([`OptimisationRecord`]): How long and how fast.
        loss (`dict`): Fields of the loss and their values.
        augmentation (`str`): `"none"`, `"mild"` or `"strong"`, and what was added to it.
        prompts (`dict`): Sentences about the data set and the camera that every prompt had.
        precision (`str`): Type of the arithmetic.
        seconds (`float`): Of the training loop, evaluations included; since the resumption of a resumed one.
        device (`str`): What computed.
        best ([`BestRecord`], *optional*): None where the last weights were kept.
        versions (`dict[str, str]`): Of the libraries.
    """

    command: str | None
    recipe: str | None
    method: Literal["lora", "full", "frozen"]
    start: StartRecord
    data: DataRecord
    eval_data: DataRecord
    parts: list[PartRecord]
    adapter: AdapterRecord | None
    optimisation: OptimisationRecord
    loss: dict[str, Any]
    augmentation: str
    prompts: dict[str, str]
    precision: str
    seconds: float
    device: str
    best: BestRecord | None
    versions: dict[str, str]

    @property
    def num_parameters(self) -> int:
        """All weights."""
        return sum(part.total for part in self.parts)

    @property
    def num_trained_parameters(self) -> int:
        """Those that were trained."""
        return sum(part.trained for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any) -> "TrainingRecord":
        """
        The record that `to_dict` gave.

        Raises:
            ValueError: If a field is missing, unknown or of another type.
        """
        return _read(cls, stored, "the record")

    def write(self, folder: str | Path) -> Path:
        """Writes `training.json` into a folder, whole or not at all."""
        file = Path(folder) / RECORD_FILE
        unfinished = file.with_name(f".{RECORD_FILE}.part")
        unfinished.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(unfinished, file)
        return file

    @classmethod
    def read(cls, file: str | Path) -> "TrainingRecord":
        """
        Reads the `training.json` of a run.

        Args:
            file (`str` or `Path`): The file.

        Raises:
            ValueError: If it cannot be read, is no JSON, or holds anything else than a record.
        """
        try:
            return cls.from_dict(json.loads(Path(file).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`file` is {str(file)!r}, which is no record of a training: {error}; `llm-mde train` writes one as "
                f"{RECORD_FILE}. Remove a damaged one to do without."
            ) from error


def _read(kind: Any, value: Any, place: str) -> Any:
    """`value` as `kind`, a type of the fields above; `place` says in an error where it stands."""
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is {type(value).__name__}, not an object")
        kinds = typing.get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        for problem, which in (("lacks", set(names) - set(value)), ("does not know", set(value) - set(names))):
            if which:
                raise ValueError(f"{place} {problem} {', '.join(sorted(which))}")
        return kind(**{name: _read(kinds[name], value[name], f"`{name}`") for name in names})
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _read(parts[0], value, place)
    if origin is list and isinstance(value, list):
        return [_read(parts[0], each, f"an entry of {place}") for each in value]
    if origin is dict and isinstance(value, dict):
        return {name: _read(parts[1], each, f"{place}[{name!r}]") for name, each in value.items()}
    if kind is Any or (origin is Literal and value in parts):
        return value
    if origin is Literal:
        raise ValueError(f"{place} is {value!r}, not one of {', '.join(map(repr, parts))}")
    expected = (int, float) if kind is float else origin or kind
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{place} is {value!r}, not {getattr(kind, '__name__', kind)}")
    return value


__all__ = [
    "RECORD_FILE",
    "AdaptedPartRecord",
    "AdapterRecord",
    "BestRecord",
    "DataRecord",
    "OptimisationRecord",
    "PartRecord",
    "StartRecord",
    "TrainingRecord",
]
