"""The paper's failure signatures as measured numbers, and a warning in plain words where one of them fits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.utils import logging

from llm_mde.processing import DepthCollator, DepthSample, LLMMDEProcessor

from .adapters import count_parameters

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Signature:
    """A number of [`DiagnosticsCallback`] out of its healthy range, and what that suggests."""

    name: str
    lowest: float
    highest: float
    advice: str


SIGNATURES = (
    Signature(
        "prototype_entropy",
        0.0,
        0.995,
        "Poor alignment: patches attend to all text prototypes alike, so reprogramming passes on their mean. Train "
        "longer, raise the learning rate of the new layers, or use fewer prototypes.",
    ),
    Signature(
        "prototype_usage",
        0.02,
        1.0,
        "Poor alignment: nearly all patches read the same few text prototypes. Lower the learning rate, or use fewer "
        "prototypes.",
    ),
    Signature(
        "valid_share",
        0.01,
        1.0,
        "Hardly any pixel has a label. Check the depth scale, the invalid values and `max_depth`.",
    ),
    Signature(
        "distinct_prompts",
        0.25,
        1.0,
        "Different photographs get the same prompt. Check `perspectives` and the photographs.",
    ),
    Signature(
        "unknown_words",
        0.0,
        0.1,
        "The language model's tokenizer does not know the words of the prompt. Use the tokenizer it was trained with.",
    ),
    Signature(
        "cut_prompts",
        0.0,
        0.0,
        "Prompts are cut because they are longer than `max_prompt_length`. Shorten the texts or raise it.",
    ),
    Signature(
        "patch_border_ratio",
        0.0,
        1.5,
        "Artefacts: depth jumps at the borders of patches more than inside them. Train longer, or give the depth head "
        "wider high-resolution stages (`head_hidden_sizes`).",
    ),
    Signature(
        "lora_gradient_norm",
        1e-8,
        1e3,
        "The gradients of the low-rank updates vanish or explode, so the encoders do not adapt. Check the learning "
        "rates, the precision and the rank.",
    ),
    Signature(
        "scale_bias",
        1 / 1.25,
        1.25,
        "Inconsistent domains: predictions of evaluation frames are off by one common factor. The frames come from "
        "another camera or another range of depth than the training frames; add some of them, or state the camera in "
        "the prompt.",
    ),
    Signature(
        "trained_share",
        0.0,
        0.5,
        "High use of resources: more than half of all weights are trained by an adapter. Lower the rank.",
    ),
)


class DiagnosticsCallback(TrainerCallback):
    """
    Logs, at each evaluation, whether the parts do what the paper says they do, and warns once for each signature.

    Measured on a few fixed frames: `prototype_entropy` (mean entropy of a patch's attention over the text prototypes,
    1 is uniform), `prototype_usage` (effective number of prototypes read, the exponential of the entropy of the mean
    attention, as a share of all), `distinct_prompts`, `unknown_words` and `cut_prompts` (shares), `valid_share` (of
    label pixels that count), `patch_border_ratio` (mean jump of log depth across patch borders over that inside
    patches), `scale_bias` (geometric mean of the median ratio of prediction to label on evaluation frames), and, for
    adapters, `lora_gradient_norm` (of the last optimiser step before) and `trained_share`. The numbers appear in the
    log as `health_...`.

    [`DepthTrainer`] passes them to its reporters (console, TensorBoard, ...). A stock Trainer does not show itself to
    its callbacks: give this one `callback.log = trainer.log`, or find the numbers in `trainer.state.log_history`.

    Args:
        processor ([`LLMMDEProcessor`]): The model's.
        train_frames, eval_frames (`Sequence[DepthSample]`): A few fixed frames of each.
        patience (`int`, *optional*, defaults to 2): Evaluations that a number may be out of range before the warning:
            a model that has just begun fits several signatures.
    """

    def __init__(
        self,
        processor: LLMMDEProcessor,
        train_frames: Sequence[DepthSample],
        eval_frames: Sequence[DepthSample],
        patience: int = 2,
    ):
        self.processor = processor
        self.train_frames = list(train_frames)
        self.eval_frames = list(eval_frames)
        self.patience = patience
        self.log: Callable[[dict[str, float]], None] | None = None
        self.values: dict[str, float] = {}
        self.warned: list[str] = []
        self._lora_gradient_norm: float | None = None
        self._times_out: dict[str, int] = {}

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control, model=None, **kwargs):
        if state.global_step % max(1, int(args.logging_steps)) == 0:
            gradients = [p.grad for name, p in model.named_parameters() if "lora_" in name and p.grad is not None]
            if gradients:
                norms = torch.stack([gradient.detach().float().norm() for gradient in gradients])
                self._lora_gradient_norm = norms.norm().item()

    def on_evaluate(self, args, state: TrainerState, control, model=None, **kwargs) -> None:
        self.values = measure_health(model, self.processor, self.train_frames, self.eval_frames)
        if self._lora_gradient_norm is not None:
            self.values["lora_gradient_norm"] = self._lora_gradient_norm
        logs = {f"health_{name}": value for name, value in self.values.items()}
        if self.log is not None:
            self.log(logs)  # in every process, as the Trainer does; reporters are quiet in all but the main one
        else:
            state.log_history.append({"step": state.global_step} | logs)
        if not state.is_world_process_zero:
            return
        for signature in SIGNATURES:
            value = self.values.get(signature.name)
            if value is None:
                continue
            is_out = not signature.lowest <= value <= signature.highest  # also for NaN
            self._times_out[signature.name] = self._times_out.get(signature.name, 0) + 1 if is_out else 0
            if self._times_out[signature.name] == self.patience and signature.name not in self.warned:
                self.warned.append(signature.name)
                logger.warning(f"`{signature.name}` is {value:.3g}. {signature.advice}")


@torch.no_grad()
def measure_health(
    model, processor: LLMMDEProcessor, train_frames: list[DepthSample], eval_frames: list[DepthSample]
) -> dict[str, float]:
    """
    The numbers of [`DiagnosticsCallback`] for a model, or a `PeftModel` around it, on a few frames.

    Raises:
        ValueError: If there are no frames to measure with.
    """
    if not train_frames or not eval_frames:
        raise ValueError("`train_frames` or `eval_frames` is empty; pass a few of each.")
    was_training = model.training
    model.eval()
    batch = DepthCollator(processor)(train_frames).to(model.device)
    outputs = model(**batch, output_prototype_attentions=True)
    health: dict[str, Any] = attention_health(outputs.prototype_attentions.float())
    config = model.config
    labels = batch["labels"]
    farthest = config.max_depth if config.depth_estimation_type == "metric" else math.inf
    health["valid_share"] = (labels.isfinite() & (labels > 0) & (labels <= farthest)).float().mean().item()
    health |= _prompt_health(processor, train_frames)
    patch = _patch_size(model)
    health["patch_border_ratio"] = border_ratio(outputs.predicted_depth.float(), patch)

    batch = DepthCollator(processor)(eval_frames).to(model.device)
    predicted, labels = model(**{**batch, "labels": None}).predicted_depth.float(), batch["labels"]
    ratios = [
        (each[label > 0] / label[label > 0]).median().log()
        for each, label in zip(predicted, labels, strict=True)
        if (label > 0).any()
    ]
    if ratios:
        health["scale_bias"] = torch.stack(ratios).mean().exp().item()
    if hasattr(model, "peft_config"):
        total = count_parameters(model)[-1]
        health["trained_share"] = total.trainable / total.total
    model.train(was_training)
    return health


def attention_health(attentions: Tensor) -> dict[str, float]:
    """`prototype_entropy` and `prototype_usage` of attentions `(batch_size, heads, num_patches, num_prototypes)`."""
    num_prototypes = attentions.shape[-1]

    def entropy(distribution: Tensor) -> Tensor:
        return -torch.xlogy(distribution, distribution).sum(-1)

    largest = math.log(num_prototypes) if num_prototypes > 1 else 1.0
    used = entropy(attentions.mean(dim=(0, 1, 2))).exp() / num_prototypes
    return {
        "prototype_entropy": (entropy(attentions).mean() / largest).item(),
        "prototype_usage": used.item(),
    }


def border_ratio(predicted_depth: Tensor, patch: tuple[int, int]) -> float:
    """Mean jump of log depth `(batch_size, height, width)` across patch borders, over that inside patches."""
    logs = predicted_depth.log()
    across, inside = [], []
    for dim, side in ((-2, patch[0]), (-1, patch[1])):
        jumps = logs.diff(dim=dim).abs()
        is_border = (torch.arange(jumps.shape[dim], device=jumps.device) + 1) % side == 0
        jumps = jumps.movedim(dim, 0)
        across.append(jumps[is_border].flatten())
        inside.append(jumps[~is_border].flatten())
    across, inside = torch.cat(across), torch.cat(inside)
    if across.numel() == 0 or inside.numel() == 0:
        return 1.0
    return (across.mean() / inside.mean().clamp_min(1e-12)).item()


def _prompt_health(processor: LLMMDEProcessor, frames: list[DepthSample]) -> dict[str, float]:
    inputs = processor(images=[frame.image for frame in frames], return_prompt=True, return_tensors="pt")
    tokenizer, prompts = processor.tokenizer, inputs["prompt"]
    mask = inputs["attention_mask"].bool()
    unknown = tokenizer.unk_token_id
    words = inputs["input_ids"][mask]
    whole = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    return {
        "distinct_prompts": len(set(prompts)) / len(prompts),
        "unknown_words": 0.0 if unknown is None else (words == unknown).float().mean().item(),
        "cut_prompts": sum(length > kept for length, kept in zip(whole, mask.sum(1).tolist(), strict=True))
        / len(prompts),
    }


def _patch_size(model) -> tuple[int, int]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.vision_layout.patch_height, base.vision_layout.patch_width


__all__ = ["SIGNATURES", "DiagnosticsCallback", "Signature", "attention_health", "border_ratio", "measure_health"]
