"""What a training run tells its user: pictures of fixed frames, metres in the progress bar, and a learning curve."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llm_mde.processing import DepthSample, LLMMDEProcessor

if TYPE_CHECKING:
    from PIL import Image

CURVE_COLUMNS = ("step", "epoch", "loss", "learning_rate", "eval_loss", "eval_abs_rel", "eval_rmse", "eval_delta1")


class PanelCallback(TrainerCallback):
    """
    After each evaluation, a picture of the same few frames: photograph, prediction, measured depth, relative error.

    Pictures go to `panels/` in the output folder, and to TensorBoard where `report_to` names it. Every process
    predicts, since sharded weights (FSDP) are gathered by all of them together; the main one writes.

    Args:
        frames (`list[DepthSample]`): Frames to show, two to four.
        processor ([`LLMMDEProcessor`]): The model's.
    """

    def __init__(self, frames: list[DepthSample], processor: LLMMDEProcessor):
        self.frames = frames
        self.processor = processor
        self._writer = None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model=None, **kwargs
    ) -> None:
        picture = draw_panel(model, self.processor, self.frames)
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / "panels"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"step_{state.global_step:06d}.png")
        if "tensorboard" in args.report_to:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(Path(args.output_dir) / "runs" / "panels")
            self._writer.add_image("frames", np.asarray(picture), state.global_step, dataformats="HWC")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@torch.no_grad()
def draw_panel(model, processor: LLMMDEProcessor, frames: list[DepthSample], height: int = 160) -> "Image.Image":
    """
    One row for each frame: photograph, prediction and measured depth in one colour scale, relative error.

    Args:
        model: The model, or a `PeftModel` around it; stays in the mode it was in.
        processor ([`LLMMDEProcessor`]): Its processor.
        frames (`list[DepthSample]`): What to show.
        height (`int`, *optional*, defaults to 160): Of one row's pictures in pixels.
    """
    from llm_mde.processing.colours import colourise, depth_limits, side_by_side, stack_rows

    was_training = model.training
    model.eval()
    rows = []
    for frame in frames:
        inputs = processor(images=frame.image, return_tensors="pt").to(model.device)
        (result,) = processor.post_process_depth_estimation(model(**inputs), target_sizes=[frame.depth.shape])
        predicted = result["predicted_depth"].cpu().numpy()
        measured = frame.depth > 0
        error = np.where(measured, np.abs(predicted - frame.depth) / np.where(measured, frame.depth, 1), 0)
        near, far = depth_limits(predicted, frame.depth)
        abs_rel = error[measured].mean() if measured.any() else float("nan")
        panels = [
            (frame.name[-30:], frame.image),
            ("prediction", colourise(predicted, near, far)),
            ("measured", colourise(frame.depth, near, far)),
            # A pixel without error would count as unmeasured: it gets the least error there is.
            (f"error {100 * abs_rel:.0f} %, red is 50 %", colourise(np.where(measured, error + 1e-6, 0), 0, 0.5)),
        ]
        rows.append(side_by_side(panels, near, far, height=height))
    model.train(was_training)
    return stack_rows(rows)


class MetresCallback(TrainerCallback):
    """One line after each evaluation, with the errors in the units people think in."""

    def on_evaluate(
        self, args, state: TrainerState, control, metrics: dict[str, float] | None = None, **kwargs
    ) -> None:
        if state.is_world_process_zero and metrics and "eval_abs_rel" in metrics:
            print(
                f"step {state.global_step}: off by {100 * metrics['eval_abs_rel']:.1f} % "
                f"(rmse {metrics['eval_rmse']:.2f} m), {100 * metrics['eval_delta1']:.0f} % within a quarter",
                flush=True,
            )


class RelativeErrorCallback(TrainerCallback):
    """
    Lets the relative error (`relative_weight` of the configuration) count only late in a training.

    SILog alone learns faster while predictions are far off. So the weight is 0 up to a share `start` of all steps, and
    then rises to its full value in `NUM_LEVELS` equal steps: each new value is a constant to `torch.compile`, which
    compiles anew for it. Between two steps, so for evaluating and saving, the configuration has its full weight.

    Args:
        start (`float`): Share of all steps, from 0 to below 1.

    Raises:
        ValueError: If `start` is out of range.
    """

    NUM_LEVELS = 5

    def __init__(self, start: float):
        if not 0 <= start < 1:
            raise ValueError(f"`relative_start` is {start}; pass a share of the training from 0 to below 1.")
        self.start = start
        self._full_weight = 0.0

    def share(self, progress: float) -> float:
        """How much of the weight counts, 0 to 1, after this share of the training."""
        if progress < self.start:
            return 0.0
        level = self.NUM_LEVELS * (progress - self.start) / (1 - self.start)
        return (1 + int(level + 1e-6)) / self.NUM_LEVELS  # 0.6 - 0.5 is a little less than 0.1

    def on_step_begin(self, args, state: TrainerState, control, model=None, **kwargs) -> None:
        self._full_weight = model.config.relative_weight
        model.config.relative_weight = self._full_weight * self.share(state.global_step / state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        model.config.relative_weight = self._full_weight


def learning_curve(log_history: list[dict]) -> str:
    """The Trainer's log as CSV, one row for each step that reported something; see `CURVE_COLUMNS`."""
    rows: dict[int, dict] = {}
    for entry in log_history:
        reported = {name: entry[name] for name in CURVE_COLUMNS if name in entry}
        if len(reported) > 2:
            rows.setdefault(entry["step"], {}).update(reported)
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for _, row in sorted(rows.items()):
        writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
    return text.getvalue()


__all__ = ["MetresCallback", "PanelCallback", "RelativeErrorCallback", "draw_panel", "learning_curve"]
