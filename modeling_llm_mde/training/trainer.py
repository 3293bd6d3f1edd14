"""What the stock Trainer lacks for depth: groups of learning rates, and metrics that keep sums instead of maps."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerState

from llm_mde.evaluation import DepthMetrics

from .arguments import DepthTrainingArguments, parameter_groups
from .callbacks import RelativeErrorCallback
from .frames import EpochCallback


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


class DepthTrainer(Trainer):
    """The stock Trainer with [`DepthTrainingArguments`]: each encoder its own learning rate.

    [`EpochCallback`] always takes part, [`RelativeErrorCallback`] where `relative_start` is above 0.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(EpochCallback())
        relative_start = getattr(self.args, "relative_start", 0.0)
        if relative_start != 0:
            self.add_callback(RelativeErrorCallback(relative_start))

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
