"""Flags that studies share. Lists say which runs there are, everything else how each is done (see `RunLog`)."""

from dataclasses import dataclass, field, fields
from typing import ClassVar

from llm_mde.evaluation import PROTOCOLS, EvaluationProtocol, get_protocol
from llm_mde.training.adapters import TRAINING_METHODS
from llm_mde.training.model_arguments import AUGMENTATIONS, BaseModelArguments, ModelArguments, NewModelArguments


@dataclass
class StudyArguments(BaseModelArguments):
    """Which model a study starts from (random weights are drawn anew for each seed), and where its results go."""

    output: str | None = field(default=None, metadata={"help": "Folder; outputs/studies/NAME by default."})
    use_cpu: bool = field(default=False, metadata={"help": "Whether to leave an accelerator alone."})

    def model_arguments(self) -> ModelArguments:
        """The same for `load_base`; with the method 'full' it leaves nothing on disk."""
        shared = [each.name for each in fields(ModelArguments) if hasattr(self, each.name)]
        return ModelArguments(**{name: getattr(self, name) for name in shared} | {"method": "full"})


@dataclass
class MeasuringArguments(NewModelArguments, StudyArguments):
    """What a new model is like, how depth is measured, and how often everything is repeated."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One repetition for each."})
    protocol: str = field(default="plain", metadata={"help": f"One of {', '.join(PROTOCOLS)}."})
    protocol_max_depth: float | None = field(default=None, metadata={"help": "Metres; replaces the protocol's."})
    boundaries: bool = field(default=False, metadata={"help": "Whether to measure boundary_f1, which is slow."})
    batch_size: int = field(default=8, metadata={"help": "Photographs at once, in training and measuring."})

    def __post_init__(self):
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` is {self.seeds}; give one or more different numbers.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` is {self.batch_size}; give at least 1.")
        self.chosen_protocol()

    def chosen_protocol(self) -> EvaluationProtocol:
        """The protocol with what the flags replace."""
        overrides = {} if self.protocol_max_depth is None else {"max_depth": self.protocol_max_depth}
        return get_protocol(self.protocol, **overrides)


@dataclass
class TrainingStudyArguments(MeasuringArguments):
    """How each run trains: as the recipe of `llm-mde train` for the same method, for so many steps."""

    fewest_steps: ClassVar[int] = 1

    max_steps: int = field(default=300, metadata={"help": "Steps of each training run."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Of the new layers; by default the recipe's of the method."}
    )
    augmentation: str | None = field(
        default=None, metadata={"help": f"{', '.join(AUGMENTATIONS)}; by default the recipe's of the method."}
    )
    mixed_precision: str = field(default="auto", metadata={"help": "As in `llm-mde train`: auto, no, bf16, fp16."})

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps < self.fewest_steps:
            raise ValueError(f"`max_steps` is {self.max_steps}; give at least {self.fewest_steps}.")
        if self.augmentation not in (None, *AUGMENTATIONS):
            raise ValueError(f"`augmentation` is {self.augmentation!r}; choose one of {', '.join(AUGMENTATIONS)}.")


@dataclass
class MethodStudyArguments(TrainingStudyArguments):
    """What is trained, for studies that do not compare it."""

    method: str | None = field(
        default=None, metadata={"help": "'lora' (default), 'full' (default, and a must, from scratch) or 'frozen'."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.method = self.method or ("full" if self.from_scratch else "lora")
        if self.method not in TRAINING_METHODS:
            raise ValueError(f"`method` is {self.method!r}; choose one of {', '.join(TRAINING_METHODS)}.")
        if self.from_scratch and self.method != "full":
            raise ValueError(
                f"`from_scratch` is true but `method` is {self.method!r}; random weights have to be trained: pass "
                "--method full, or leave it out."
            )


def check_positive(name: str, values: list[int]) -> None:
    """Refuses an empty list, a number below 1, and one that comes twice."""
    if not values or min(values) < 1 or len(set(values)) < len(values):
        raise ValueError(f"`{name}` is {values}; give one or more different numbers from 1.")


__all__ = [
    "MeasuringArguments",
    "MethodStudyArguments",
    "StudyArguments",
    "TrainingStudyArguments",
    "check_positive",
]
