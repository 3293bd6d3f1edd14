"""Arguments of a training run beside those of the Trainer: which model, what of it is trained, and its frames."""

from dataclasses import dataclass, field

from llm_mde.presets import PRESETS

from .adapters import LORA_PRESETS, TRAINING_METHODS

AUGMENTATIONS = ("none", "mild", "strong")
PAPER_ENCODERS = ("google/vit-base-patch16-224", "google-bert/bert-base-uncased")
ADAPTER_FIELDS = (
    *("lora_preset", "vision_rank", "vision_alpha", "language_rank", "language_alpha", "lora_targets"),
    *("lora_dropout", "use_dora", "use_rslora", "adapter_dtype"),
)  # of `ModelArguments`, for the method "lora" alone
MAX_DEPTH = 10.0  # metres, of new models: the rooms of NYU Depth v2


@dataclass
class BaseModelArguments:
    """Which model a command starts from."""

    model: str | None = field(default=None, metadata={"help": "LLM-MDE model to start from: folder or Hub id."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub id."})
    vision_model: str = field(
        default=PAPER_ENCODERS[0], metadata={"help": "Vision encoder of a new model, where `--model` is not given."}
    )
    language_model: str = field(
        default=PAPER_ENCODERS[1], metadata={"help": "Language model of a new model, where `--model` is not given."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Compose a small model of random weights instead, for machines without any."}
    )

    def __post_init__(self):
        if self.from_scratch and self.model is not None:
            raise ValueError(f"`from_scratch` is true but `model` is {self.model!r}; give one of the two.")
        if self.model_revision is not None and self.model is None:
            raise ValueError(f"`model_revision` is {self.model_revision!r} without `model`, whose it would be.")
        for name, encoder in zip(("vision_model", "language_model"), PAPER_ENCODERS, strict=True):
            if getattr(self, name) != encoder and (self.from_scratch or self.model is not None):
                other = "from_scratch" if self.from_scratch else "model"
                raise ValueError(
                    f"`{name}` is {getattr(self, name)!r}, but `{other}` is {getattr(self, other)!r}, which has "
                    f"encoders of its own; leave out one of the two."
                )


@dataclass
class NewModelArguments:
    """What a model that is composed anew is like."""

    preset: str | None = field(
        default=None,
        metadata={"help": f"Size of a new model: {', '.join(PRESETS)} (`llm_mde.presets`); the paper's by default."},
    )
    image_height: int | None = field(default=None, metadata={"help": "Pixels the model reads; of new models."})
    image_width: int | None = field(default=None, metadata={"help": "Pixels the model reads; of new models."})
    max_depth: float | None = field(
        default=None, metadata={"help": f"Farthest depth of a new model in metres; {MAX_DEPTH:g} by default."}
    )


@dataclass
class ModelArguments(NewModelArguments, BaseModelArguments):
    """Which model is trained, and what of it."""

    variance_focus: float | None = field(
        default=None, metadata={"help": "SILog's lambda: 1 ignores one common factor, 0 counts it in full."}
    )
    relative_weight: float | None = field(
        default=None, metadata={"help": "Weight of the mean absolute relative error, added to SILog."}
    )
    encoder_dropout: bool | None = field(
        default=None, metadata={"help": "Whether encoders drop out while they train what they were pretrained with."}
    )
    method: str = field(
        default="lora", metadata={"help": "What is trained: 'lora', 'full' or 'frozen'.", "choices": TRAINING_METHODS}
    )
    lora_preset: str = field(
        default="default", metadata={"help": "Ranks and targets of the adapter.", "choices": tuple(LORA_PRESETS)}
    )
    vision_rank: int | None = field(default=None, metadata={"help": "Rank in the vision encoder; 0 for none."})
    vision_alpha: int | None = field(default=None, metadata={"help": "Scale in the vision encoder; twice the rank."})
    language_rank: int | None = field(default=None, metadata={"help": "Rank in the language model; 0 for none."})
    language_alpha: int | None = field(default=None, metadata={"help": "Scale in the language model; twice the rank."})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "Projections to adapt: query, key, value, output."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the updates."})
    use_dora: bool = field(default=False, metadata={"help": "Weight-decomposed updates (DoRA)."})
    use_rslora: bool = field(default=False, metadata={"help": "Updates scaled by alpha / sqrt(rank) (rsLoRA)."})
    adapter_dtype: str = field(
        default="float32",
        metadata={"help": "Type of the saved adapter; bfloat16 halves the file.", "choices": ("float32", "bfloat16")},
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Load the frozen base in '4bit' or '8bit' (bitsandbytes, GPU).",
            "choices": ("4bit", "8bit"),
        },
    )
    dataset_prompt: str | None = field(default=None, metadata={"help": "What kind of scenes the photographs show."})
    camera_prompt: str | None = field(default=None, metadata={"help": "A sentence about the camera."})


@dataclass
class FrameArguments:
    """How frames are prepared for training."""

    augmentation: str = field(
        default="mild", metadata={"help": "Joint augmentation of the training frames.", "choices": AUGMENTATIONS}
    )
    cut_depth: float = field(default=0.0, metadata={"help": "Probability of CutDepth."})
    keep_in_memory: bool = field(
        default=False, metadata={"help": "Decode each frame once and keep it at twice the model's size."}
    )
    num_panel_frames: int = field(default=4, metadata={"help": "Evaluation frames drawn after each evaluation."})


__all__ = [
    "AUGMENTATIONS",
    "PAPER_ENCODERS",
    "BaseModelArguments",
    "FrameArguments",
    "ModelArguments",
    "NewModelArguments",
]
