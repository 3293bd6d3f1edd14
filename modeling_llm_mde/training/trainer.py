"""What the stock Trainer lacks for depth: groups of learning rates, and metrics that keep sums instead of maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.utils import logging

from llm_mde.evaluation import DepthMetrics

from .arguments import DepthTrainingArguments, parameter_groups
from .callbacks import RelativeErrorCallback
from .diagnostics import DiagnosticsCallback
from .frames import EpochCallback
from .publishing import PublishingTrainer

logger = logging.get_logger(__name__)


class StreamingDepthMetrics:
    """
    `compute_metrics` for a Trainer with `batch_eval_metrics=True`: each batch is added to running sums and forgotten.

    The Trainer has gathered the batch over all processes by then, so nothing is gathered here. Metrics are those of
    [`DepthMetrics`] at the resolution of the labels in the batch, which is the processor's; for figures to report, use
    `llm_mde.evaluation.evaluate_depth`, which measures at the resolution of the measured depth.

    Args:
        max_depth (`float`, *optional*, defaults to 10.0): Metres; farther labels do not count.
    """

    def __init__(self, max_depth: float = 10.0):
        self.metrics = DepthMetrics(max_depth=max_depth)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = False) -> dict[str, float]:
        predicted_depth = prediction.predictions
        if isinstance(predicted_depth, (tuple, list)):
            predicted_depth = predicted_depth[0]
        self.metrics.update(torch.as_tensor(predicted_depth).float(), torch.as_tensor(prediction.label_ids).float())
        if not compute_result:
            return {}
        result = self.metrics.compute(gather=False)
        self.metrics.reset()
        return result


class DepthTrainer(PublishingTrainer):
    """The stock Trainer with [`DepthTrainingArguments`]: each encoder its own learning rate.

    [`EpochCallback`] always takes part, [`RelativeErrorCallback`] where `relative_start` is above 0. Labels stay in
    the type they come in, and what a [`DiagnosticsCallback`] measures reaches every reporter. Several processes
    (DDP) may train a model of which an encoder has weights that depth does not read, also with checkpointing. With
    `push_to_hub`, see [`PublishingTrainer`], what is pushed loads at every moment.

    Raises:
        ValueError: If `relative_start` is out of range, weights are to be sharded (FSDP) that can not be, or what is
            to be pushed could not be loaded.
    """

    def __init__(self, model=None, args: TrainingArguments | None = None, **kwargs):
        if args is not None and args.ddp_find_unused_parameters is None and not _is_reentrant(args):
            # Masks and pooling heads of vision encoders never get a gradient, for which DDP would wait. The stock
            # Trainer looks for them except with checkpointing, of whose two kinds only the reentrant one forbids it.
            args.ddp_find_unused_parameters = True
        super().__init__(model, args, **kwargs)
        config = getattr(self.model, "config", None)
        if self.is_fsdp_enabled and getattr(config, "prototype_parametrization", None) == "vocabulary":
            raise ValueError(
                "`prototype_parametrization` is 'vocabulary', which multiplies all word embeddings, and FSDP shards "
                "them; call `model.convert_prototypes('compact')` first, which does not change the prototypes."
            )
        self.add_callback(EpochCallback())
        relative_start = getattr(self.args, "relative_start", 0.0)
        if relative_start != 0:
            self.add_callback(RelativeErrorCallback(relative_start))
            if getattr(config, "relative_weight", None) == 0 and self.is_world_process_zero():
                logger.warning(
                    f"`relative_start` is {relative_start} but the model's `relative_weight` is 0, so that the "
                    "relative error never counts; set `model.config.relative_weight`, or leave `relative_start` at 0."
                )

    def train(self, *args, **kwargs):
        """As in the stock Trainer; an interrupted step leaves the full `relative_weight` in the configuration."""
        config = getattr(self.model, "config", None)
        relative_weight = getattr(config, "relative_weight", None)
        try:
            return super().train(*args, **kwargs)
        finally:
            if relative_weight is not None:
                config.relative_weight = relative_weight

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, DiagnosticsCallback):
                callback.log = self.log
        return super().evaluate(*args, **kwargs)

    def _prepare_input(self, data):
        """As in the stock Trainer, which under DeepSpeed casts all floats; bfloat16 would round metres to 0.4 %."""
        prepared = super()._prepare_input(data)
        if self.is_deepspeed_enabled and isinstance(data, Mapping) and isinstance(data.get("labels"), torch.Tensor):
            prepared["labels"] = data["labels"].to(self.args.device)
        return prepared

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: TrainingArguments, model: nn.Module | None = None
    ) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if isinstance(args, DepthTrainingArguments) and model is not None:
            groups = parameter_groups(
                model, args.learning_rate, args.vision_learning_rate, args.language_learning_rate, args.weight_decay
            )
            options = {**options, "params": groups}
        return optimizer_class, options


def _is_reentrant(args: TrainingArguments) -> bool:
    options = getattr(args, "activation_checkpointing_kwargs", None)  # the newer name
    options = options or getattr(args, "gradient_checkpointing_kwargs", None) or {}
    return bool(options.get("use_reentrant", False))


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """
    The checkpoint with the most steps that was written to its end, or `None`.

    The Trainer writes `trainer_state.json` last; a process killed while saving leaves a folder without it.
    """
    complete = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        try:
            complete.append((TrainerState.load_from_json(folder / "trainer_state.json").global_step, folder))
        except (OSError, ValueError, TypeError):
            continue
    return max(complete)[1] if complete else None


__all__ = ["DepthTrainer", "StreamingDepthMetrics", "last_complete_checkpoint"]
