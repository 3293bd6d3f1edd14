"""The demonstration model: a small LLM-MDE that is rendered its data, composed and trained from nothing in minutes."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
    from llm_mde.evaluation import EvaluationReport
    from llm_mde.processing import RGBDFolder
    from llm_mde.training import DepthTrainer
    from llm_mde.training.record import TrainingRecord

NUM_ROOMS = 200
HEIGHT, WIDTH = 96, 128  # pixels that the model reads
MAX_DEPTH = 10.0
BATCH_SIZE = 8
STEPS = 600
DATA_NAME = "rendered_rooms"
MARK = "demonstration.txt"  # lies in its model folder, so that it is still called what it is when it is shown


@dataclass(frozen=True)
class Demonstration:
    """A demonstration model, how it came about, and what it does on the frames it has not seen.

    Attributes:
        folder (`Path`): The model folder.
        record ([`TrainingRecord`]): How it was trained.
        report ([`EvaluationReport`]): Its errors on the validation frames, beside those of the median depth.
        median_depth (`float`): Metres; of the training frames.
    """

    folder: Path
    record: "TrainingRecord"
    report: "EvaluationReport"
    median_depth: float


def train_demonstration_model(
    folder: str | Path,
    data: str | Path | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    on_message: Callable[[str], None] | None = None,
) -> Demonstration:
    """
    Composes a small LLM-MDE of random weights, trains it, measures it, and writes its folder: some five minutes on two
    CPU cores. It shows that every part works and in metres; it is not a good depth model.

    Args:
        folder (`str` or `Path`): Where the model goes; must not exist, or be empty.
        data (`str` or `Path`, *optional*): RGB-D frames for [`RGBDFolder`], with both splits; by default rooms that
            are rendered for it and removed afterwards.
        steps (`int`, *optional*, defaults to 600): Training steps of `BATCH_SIZE` frames.
        seed (`int`, *optional*, defaults to 0): Of rooms, weights and order.
        on_message (`Callable[[str], None]`, *optional*): Told what comes next.

    Returns:
        [`Demonstration`]: Where it is, how it was trained, and its errors beside those of the median depth.

    Raises:
        ValueError: If `folder` is not empty, `steps` is not positive, or the data are not what `RGBDFolder` reads.
        ImportError: If something that training or rendering needs is not installed.
    """
    from transformers import set_seed

    from llm_mde.evaluation import EvaluationReport, EvaluationSetting, MedianDepthBaseline, evaluate_depth
    from llm_mde.evaluation.report import name_of_source
    from llm_mde.hub import write_model_folder
    from llm_mde.hub.cards import CardFacts
    from llm_mde.processing import RGBDFolder, median_depth
    from llm_mde.training import compose_small_model

    folder = Path(folder)
    if steps < 1:
        raise ValueError(f"`steps` is {steps}; give at least 1.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):  # said before minutes of training
        raise ValueError(f"`folder` is {str(folder)!r}, which exists and is not empty; give a new one, or remove it.")
    say = on_message or (lambda message: None)
    with tempfile.TemporaryDirectory() as scratch:
        if data is None:
            data = render_rooms(Path(scratch, DATA_NAME), seed)
        train_frames, val_frames = RGBDFolder(data, split="train"), RGBDFolder(data, split="val")
        say(f"{len(train_frames)} frames to train on and {len(val_frames)} to measure with, from {data}")

        set_seed(seed)
        model, processor = compose_small_model(HEIGHT, WIDTH, MAX_DEPTH)
        say(f"A small LLM-MDE of {model.num_parameters() / 1e6:.1f} M weights, random so far. Training:")
        started = time.monotonic()
        trainer = train(model, processor, train_frames, steps, seed)
        seconds = time.monotonic() - started
        data_name = name_of_source(str(data))
        record = _record(trainer, processor, (train_frames, val_frames), data_name, seconds)

        baseline = MedianDepthBaseline(median_depth(train_frames))
        options = {"with_boundaries": False, "progress": False}
        result = evaluate_depth(model, processor, val_frames, **options)
        of_baseline = evaluate_depth(None, None, val_frames, predict=baseline, **options)
    setting = EvaluationSetting.of(model, processor, "demonstration", data_name, split="val")
    report = EvaluationReport(setting, result, {baseline.name: of_baseline})
    write_model_folder(folder, model, processor, card=CardFacts(training=record, evaluations=[report]))
    (folder / MARK).write_text("A demonstration of LLM-MDE, trained for minutes: not a good depth model.\n")
    return Demonstration(folder, record, report, baseline.depth)


def render_rooms(root: Path, seed: int, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Rooms to train on, rendered with exact depth into a folder, or found there whole; half a set is done again."""
    from llm_mde.processing.rendered_scenes import render_scenes

    if (root / "index.csv").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    return render_scenes(root, NUM_ROOMS, seed=seed, on_progress=on_progress)


def train(
    model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor", frames: "RGBDFolder", steps: int, seed: int
) -> "DepthTrainer":
    """The Trainer on augmented frames: AdamW with the paper's cosine schedule."""
    from llm_mde.processing import DepthAugmentation, DepthCollator
    from llm_mde.training import AugmentedFrames, DepthTrainer, DepthTrainingArguments, FramesInMemory

    size = processor.image_processor.size
    frames = FramesInMemory(frames, 2 * size["height"], 2 * size["width"])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DepthTrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=1e-3,
            weight_decay=0.05,
            logging_steps=max(1, steps // 10),
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            seed=seed,
        )
        trainer = DepthTrainer(
            model=model,
            args=arguments,
            train_dataset=AugmentedFrames(frames, DepthAugmentation(), seed),
            data_collator=DepthCollator(processor),
        )
        trainer.train()
    model.eval()
    return trainer


def _record(
    trainer: "DepthTrainer",
    processor: "LLMMDEProcessor",
    frames: "tuple[RGBDFolder, RGBDFolder]",
    data: str,
    seconds: float,
) -> "TrainingRecord":
    """What `llm-mde train` would note of such a run."""
    from llm_mde.processing import depth_report
    from llm_mde.training import count_parameters
    from llm_mde.training.model_arguments import FrameArguments, ModelArguments
    from llm_mde.training.record import DataRecord
    from llm_mde.training.recording import record_run

    none = {"is_on_hub": False, "dataset": None, "revision": None, "shots": None, "shots_seed": None, "flags": {}}
    records = [
        DataRecord(name=data, split=split, num_frames=len(part), depth=str(depth_report(part)), **none)
        for split, part in zip(("train", "val"), frames, strict=True)
    ]
    return record_run(
        trainer,
        ModelArguments(from_scratch=True, method="full"),
        FrameArguments(augmentation="mild"),
        data=records[0],
        eval_data=records[1],
        parameters=count_parameters(trainer.model),
        processor=processor,
        seconds=seconds,
    )


__all__ = ["MARK", "Demonstration", "render_rooms", "train", "train_demonstration_model"]
