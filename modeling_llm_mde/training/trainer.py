"""What the stock Trainer lacks for depth: groups of learning rates, and metrics that keep sums instead of maps."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, sort_checkpoints
from transformers.utils import logging

from llm_mde.evaluation import DepthMetrics, get_protocol
from llm_mde.hub.folders import is_of_disk

from .arguments import DepthTrainingArguments, parameter_groups
from .callbacks import RelativeErrorCallback
from .diagnostics import DiagnosticsCallback
from .frames import EpochCallback
from .publishing import PublishingTrainer

logger = logging.get_logger(__name__)

MAX_SKIPPED_STEPS = 50  # in a row; then it is no bad batch but the training
_UNFINISHED = ".unfinished-checkpoint"


class StreamingDepthMetrics:
    """
    `compute_metrics` for a Trainer with `batch_eval_metrics=True`: each batch is added to running sums and forgotten.

    The Trainer has gathered the batch over all processes by then, so nothing is gathered here. Metrics are those of
    [`DepthMetrics`] at the resolution of the labels in the batch, which is the processor's; for figures to report, use
    `llm_mde.evaluation.evaluate_depth`, which measures at the resolution of the measured depth.

    Args:
        max_depth (`float`, *optional*, defaults to 10.0): Metres; farther labels do not count.
        alignment (`str`, *optional*, defaults to `"none"`): As of an [`EvaluationProtocol`]; `"median"` for models of
            relative depth. What is aligned is clamped to the range, too.
    """

    def __init__(self, max_depth: float = 10.0, alignment: str = "none"):
        protocol = get_protocol("plain", max_depth=max_depth, alignment=alignment, clamp=alignment != "none")
        self.metrics = DepthMetrics(protocol=protocol)

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

    A step whose gradients are not finite changes no weight, so that one bad batch costs no more than its turn. A
    checkpoint appears in `output_dir` when it is complete and goes from there at once, whatever ends the process, and
    none is saved that holds NaN.

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

    _saving_to: Path | None = None
    _num_skipped = 0  # steps in a row

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

    def _get_grad_norm(self, model, grad_norm=None):
        """As in the stock Trainer, which calls it before each step; one of NaN or infinity is made to do nothing.

        A scaler of float16 begins with several of these, fewer than `MAX_SKIPPED_STEPS`.

        Raises:
            ValueError: If that were `MAX_SKIPPED_STEPS` in a row.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if grad_norm is None or self.is_deepspeed_enabled:  # which looks after overflows itself
            return grad_norm
        if math.isfinite(grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm):
            self._num_skipped = 0
            return grad_norm
        self._num_skipped += 1
        is_scaled = self.accelerator.scaler is not None  # it skips the step itself, and lowers its scale
        if not is_scaled:
            model.zero_grad()  # to None, which no optimiser touches
        if self._num_skipped == 1 and not is_scaled:
            logger.warning(
                f"The gradients of step {self.state.global_step + 1} are not finite: it changes no weight. If that "
                "happens often, look at the frames of these steps, or lower the learning rate."
            )
        if self._num_skipped == MAX_SKIPPED_STEPS:
            raise ValueError(
                f"`learning_rate` is {self.args.learning_rate:g}, and the gradients of {MAX_SKIPPED_STEPS} steps in a "
                "row were not finite, so that nothing is learned; lower it, train in float32, or go back to the last "
                "checkpoint."
            )
        return grad_norm

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save_checkpoint(self, model, trial) -> None:
        """As in the stock Trainer, but the checkpoint is written beside its place and renamed.

        Raises:
            OSError: If the disk is full or may not be written to; the checkpoints that are there stay whole.
        """
        run_dir = Path(super()._get_output_dir(trial))
        name, unfinished = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", run_dir / _UNFINISHED
        if self.args.should_save:
            for left in run_dir.glob(f"{_UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving_to = unfinished
        try:
            super()._save_checkpoint(model, trial)
            self.state.best_model_checkpoint = self._best_checkpoint(run_dir)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(unfinished / name / TRAINER_STATE_NAME)  # with where the best one will be
                if (run_dir / name).exists():
                    (run_dir / name).rename(unfinished / "replaced")
                (unfinished / name).rename(run_dir / name)
                self._remove_old_checkpoints(run_dir)
            self.accelerator.wait_for_everyone()
        except Exception as error:
            if not is_of_disk(error):
                raise
            raise OSError(
                f"`output_dir` is {self.args.output_dir!r}, where {name} could not be saved "
                f"({' '.join(str(error).split())[:200]}); the checkpoints that are there are whole: free some space, "
                "and go on with --resume_from_checkpoint true."
            ) from error
        finally:
            self._saving_to = None
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _best_checkpoint(self, run_dir: Path) -> str | None:
        """Where the best checkpoint is, once the one that is being saved is in its place."""
        step = self.state.best_global_step
        is_compared = self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH, SaveStrategy.BEST)
        path = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        is_there = step == self.state.global_step or path.is_dir()
        return str(path) if step and is_compared and is_there else self.state.best_model_checkpoint

    def _remove_old_checkpoints(self, run_dir: Path) -> None:
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if not limit or limit < 0:
            return
        checkpoints = sort_checkpoints(str(run_dir), use_mtime=True, best_model_checkpoint=best)
        is_best_another = best in checkpoints and best != checkpoints[-1]  # then it is the last but one
        for path in map(Path, checkpoints[: -max(limit, 1 + is_best_another)]):
            gone = path.with_name(f"{_UNFINISHED}-{path.name}")
            path.rename(gone)  # a process killed now leaves no half of it in sight
            shutil.rmtree(gone, ignore_errors=True)

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
