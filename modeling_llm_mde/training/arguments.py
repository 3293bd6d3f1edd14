"""Training arguments: those of the stock Trainer with the paper's schedule, and a learning rate for each encoder."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import TrainingArguments

from .adapters import ENCODERS

MIXED_PRECISION = ("auto", "no", "bf16", "fp16")
_OPTIMISERS_WITH_OWN_GROUPS = ("galore", "apollo", "lomo", "adalomo")  # first words of `optim`


@dataclass
class DepthTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` whose defaults train LLM-MDE as its paper does: AdamW and a cosine schedule, after a warm-up.

    Differences to the stock defaults: columns are kept for the collator, metrics are summed batch after batch instead
    of collecting maps (`batch_eval_metrics`), the best checkpoint by `eval_abs_rel` is loaded at the end, and a
    machine without an accelerator trains on its CPU also in bfloat16. With `early_stopping_patience`, a resumed run
    goes on counting where the interrupted one was.

    Raises:
        ValueError: If `mixed_precision` is unknown, or `optim` groups the weights itself and so would lose either its
            groups or the learning rate of each encoder.
    """

    learning_rate: float = field(default=5e-4, metadata={"help": "Learning rate of the new layers."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the vision encoder's trained weights; by default `learning_rate`."}
    )
    language_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the language model's trained weights; by default `learning_rate`."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Of matrices; norms and biases get none."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rates."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or below 1 the share of all steps."})
    relative_start: float = field(
        default=0.0,
        metadata={"help": "Share of the training after which relative_weight, if above 0, begins to count."},
    )
    mixed_precision: str = field(
        default="auto",
        metadata={
            "help": "'auto' (bfloat16 where the processor multiplies it natively), 'no', 'bf16' or 'fp16'.",
            "choices": MIXED_PRECISION,
        },
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: 'no', 'steps' or 'epoch'."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: 'no', 'steps' or 'epoch'."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two reports of the loss."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether to end with the best checkpoint."})
    metric_for_best_model: str | None = field(default="abs_rel", metadata={"help": "By which metric it is the best."})
    greater_is_better: bool | None = field(
        default=None, metadata={"help": "Whether a larger metric is better; by default only of delta1 to delta3."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric; by default never."}
    )
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Sum metrics instead of collecting maps."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must stay off for RGB-D frames."})

    def __post_init__(self):
        if self.mixed_precision not in MIXED_PRECISION:
            raise ValueError(
                f"`mixed_precision` is {self.mixed_precision!r}; choose one of {', '.join(MIXED_PRECISION)}."
            )
        optimiser = str(getattr(self.optim, "value", self.optim))
        if optimiser.startswith(_OPTIMISERS_WITH_OWN_GROUPS):
            raise ValueError(
                f"`optim` is {optimiser!r}, which groups the weights itself, while each encoder here has a learning "
                "rate of its own; choose another one, such as adamw_torch or adafactor."
            )
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.removeprefix("eval_").startswith("delta")
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.dataloader_pin_memory = False
        if not (self.bf16 or self.fp16):  # else the stock flags have been used
            self.bf16 = self.mixed_precision == "bf16" or (
                self.mixed_precision == "auto" and has_native_bfloat16(self.use_cpu)
            )
            self.fp16 = self.mixed_precision == "fp16"
        super().__post_init__()


def has_native_bfloat16(use_cpu: bool = False) -> bool:
    """Whether this machine multiplies bfloat16 in hardware; emulating it would be slower than float32.

    Args:
        use_cpu (`bool`, *optional*, defaults to `False`): Whether to ask the CPU even where there is an accelerator.
    """
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not use_cpu and torch.accelerator.is_available():
        return False
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in ("amx_bf16", "avx512_bf16"))


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    vision_learning_rate: float | None = None,
    language_learning_rate: float | None = None,
    weight_decay: float = 0.01,
) -> list[dict]:
    """
    Trained weights in groups of one learning rate and one weight decay each, for any optimiser of PyTorch.

    Vectors (biases, norms) are not decayed. The Trainer takes the groups as
    `optimizer_cls_and_kwargs=(torch.optim.AdamW, {"params": parameter_groups(model, 5e-4), "lr": 5e-4})`.

    Args:
        model (`torch.nn.Module`): The model, or the `PeftModel` around it.
        learning_rate (`float`): For the new layers.
        vision_learning_rate, language_learning_rate (`float`, *optional*): For each encoder, or for the adapter in it;
            `learning_rate` by default.
        weight_decay (`float`, *optional*, defaults to 0.01): For matrices and convolutions.

    Returns:
        `list[dict]`: With `params`, `lr`, `weight_decay` and `name`; empty groups are left out.

    Raises:
        ValueError: If nothing is trained.
    """
    rates = dict(zip(ENCODERS, (vision_learning_rate, language_learning_rate), strict=True))
    groups: dict[tuple[str, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = next((encoder for encoder in ENCODERS if f".{encoder}." in f".{name}"), "new_layers")
        decays = parameter.ndim > 1
        rate = rates.get(part)
        group = groups.setdefault(
            (part, decays),
            {
                "params": [],
                "lr": learning_rate if rate is None else rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": part if decays else f"{part}_vectors",
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ValueError("`model` has no weight that is trained; call `prepare_for_training` first.")
    return list(groups.values())


__all__ = ["DepthTrainingArguments", "has_native_bfloat16", "parameter_groups"]
