"""One runner for all studies: base model, frames, training, measuring, and the loop over runs that can be resumed."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from llm_mde.evaluation import EvaluationResult, evaluate_depth, fit_baselines
from llm_mde.evaluation.report import make_folder
from llm_mde.processing import DepthAugmentation, DepthCollator
from llm_mde.training.adapters import count_parameters, lora_config, prepare_for_training
from llm_mde.training.overlap import shared_frame
from llm_mde.training.run import MODEL_FIELDS, check_protocol, load_base

from .frames import RepeatedFrames
from .memory import in_fresh_process, is_fresh_process, peak_memory_mb
from .run_log import Row, RunLog, settings_of
from .surgery import PassThrough

_OPTIMISER_FIELDS = (
    *("learning_rate", "vision_learning_rate", "language_learning_rate", "weight_decay"),
    *("warmup_steps", "lr_scheduler_type", "max_grad_norm", "optim"),
)
_BYTES_PER_PIXEL = 7  # a photograph's three and a depth map's four
_MOST_KEPT = 4e9  # bytes of training frames in memory; larger sets are decoded anew in each epoch, by workers
_NUM_WORKERS = min(4, os.cpu_count() or 1)
MEAN_NOTE = "Mean ± standard deviation over runs with different seeds, where there are several that differ."
MEDIAN, BASE = "median depth of the training frames", "zero-shot base"


@dataclass(frozen=True)
class Run:
    """The unit that is resumed: `work()` gives rows of the table; seed `None` where nothing is drawn.

    With `alone` it runs in a fresh process, whose peak memory is that of this run.
    """

    name: str
    seed: int | None
    work: Callable[[], list[Row]]
    alone: bool = False


@dataclass(frozen=True)
class Study:
    """A question with its plan.

    Args:
        name (`str`): As on the command line.
        about (`str`): Which claim or open question it tests, and how: the docstring of its module.
        arguments (`type`): Dataclass of its flags.
        plan (`Callable`): From a [`Workbench`] to the runs, in the order of the table.
        at (`str`, *optional*): What distinguishes rows of one variant, such as "shots".
        columns (`tuple[str, ...]`): Numbers beside the metrics that `table.md` shows; `table.csv` has all.
        plot (`str`): What `plot.png` shows.
        note (`str`): Below the table: what its numbers are.
        needs_data (`bool`): Whether it takes the flags of `DataArguments`.
        conditions (`Callable`, *optional*): From a [`Workbench`] to more conditions by name, for the table's foot.
    """

    name: str
    about: str
    arguments: type
    plan: Callable[["Workbench"], list[Run]]
    at: str | None = None
    columns: tuple[str, ...] = ()
    plot: str = "abs_rel"
    note: str = MEAN_NOTE
    needs_data: bool = True
    conditions: Callable[["Workbench"], dict[str, str]] | None = None


class Workbench:
    """
    What the runs of a study share. Only the arguments are pickled, so that a run can move to a fresh process.

    Args:
        options (`StudyArguments`): Of the study.
        data (`DataArguments`, *optional*): Where frames come from.

    Raises:
        ValueError: If the data is not given, or a stream, which cannot be read again and again.
    """

    def __init__(self, options: Any, data: Any = None):
        if data is not None and data.data is None:
            raise ValueError("`data` is not given; pass `--data` with a folder of RGB-D frames or a Hub data set.")
        if data is not None and data.streaming:
            raise ValueError("`streaming` is on, but a study reads its frames many times; leave it out.")
        self.options, self.data = options, data
        self._kept: tuple[Any, Any] = (None, None)  # the training frames that were read last, small

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options, "data": self.data, "_kept": (None, None)}

    @property
    def device(self) -> torch.device:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None or self.options.use_cpu else accelerator

    def load(self, seed: int = 0, preset: str | None = None):
        """The base model and its processor; what is random in it is drawn from the seed.

        Args:
            seed (`int`, *optional*, defaults to 0): Of random weights.
            preset (`str`, *optional*): Of a model that is composed anew; that of the options by default.

        Raises:
            ValueError: If it does not load.
        """
        set_seed(seed)
        arguments = self.options.model_arguments()
        try:
            return load_base(arguments if preset is None else replace(arguments, preset=preset), Path())
        except OSError as error:  # an encoder that is neither a folder nor on the Hub
            raise ValueError(f"the base model does not load: {' '.join(str(error).split())}") from error

    def data_of(self, seed: int | None, shots: int | None = None) -> Any:
        """The data arguments of a seed, which draws the few shots where `--shots` (or here) some are asked for."""
        shots = self.data.shots if shots is None else str(shots)
        if shots is None:
            return self.data
        return replace(self.data, shots=shots, shots_seed=(self.data.shots_seed or 0) + (seed or 0))

    @property
    def data_seeds(self) -> list[int | None]:
        """The seeds that draw training frames: those of `--seeds` with `--shots`, otherwise none does."""
        return [None] if self.data.shots is None else self.options.seeds

    def constant_runs(self) -> list["Run"]:
        """What every table is read against: predictors that see no photograph."""
        return [Run("constants", seed, partial(measure_constants, self, seed)) for seed in self.data_seeds]

    def base_runs(self) -> list["Run"]:
        """The base model as it came, where there is a trained one."""
        return [] if self.options.model is None else [Run(BASE, None, partial(measure_base, self))]

    def train(
        self,
        model,
        processor,
        seed: int,
        *,
        method: str | None = None,
        rank: int | None = None,
        optimise_as: str | None = None,
        data: Any = None,
        collate_with: Callable | None = None,
        wrap: Callable | None = None,
    ):
        """
        Trains for `max_steps` with the recipe of the method (`from-scratch` for random weights), the stock Trainer,
        no evaluation and no checkpoint on the way.

        Frames are repeated, each copy augmented on its own, until they fill whole batches: runs of one study see the
        same number of frames, however few of them are different ones.

        Args:
            model, processor: As [`Workbench.load`] gives them; the model is changed.
            seed (`int`): Of order, augmentation, dropout and adapter.
            method (`str`, *optional*): `options.method` by default.
            rank (`int`, *optional*): Of LoRA in both encoders, with twice as much alpha; else the default preset.
            optimise_as (`str`, *optional*): A recipe for all but the loss, which is that of the study in every run:
                learning rates, weight decay, schedule, clipping, optimiser and augmentation.
            data (`DataArguments`, *optional*): The study's by default.
            collate_with (`Callable`, *optional*): The processor for batches, where it differs from `processor`.
            wrap (`Callable`, *optional*): Changes the augmented frames; called with them and with the number of
                different ones, which repeat in this order.

        Returns:
            The trained model with any adapter merged, and what training took: the `loss` in words, `train_loss`,
            `num_train_frames`, `frames_seen` (with repetitions), `trained_parameters`, `trained_megabytes`, `seconds`,
            and in a fresh process `peak_memory_mb`.
        """
        from transformers.trainer_callback import PrinterCallback

        from llm_mde.training import AugmentedFrames, DepthTrainer, DepthTrainingArguments, FramesInMemory

        options, method = self.options, method or self.options.method
        recipe = read_recipe("from-scratch" if options.from_scratch else method)
        for name in recipe.keys() & MODEL_FIELDS:
            setattr(model.config, name, recipe[name])
        relative_start = recipe.get("relative_start", 0.0)
        loss_in_words = describe_loss(model.config, relative_start)
        if optimise_as is not None:
            recipe = read_recipe(optimise_as)
        model = _prepare(model, method, rank)
        counted = count_parameters(model)[-1]

        frames = self._training_frames(data or self.data_of(seed), processor)
        num_frames, num_workers = len(frames), 0 if isinstance(frames, FramesInMemory) else _NUM_WORKERS
        chosen = {name: recipe[name] for name in _OPTIMISER_FIELDS if name in recipe}
        if options.learning_rate is not None:
            chosen["learning_rate"] = options.learning_rate
        with tempfile.TemporaryDirectory() as scratch:
            arguments = DepthTrainingArguments(
                output_dir=scratch,
                max_steps=options.max_steps,
                per_device_train_batch_size=options.batch_size,
                mixed_precision=options.mixed_precision,
                use_cpu=options.use_cpu,
                seed=seed,
                dataloader_num_workers=num_workers,
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                load_best_model_at_end=False,
                report_to="none",
                disable_tqdm=True,
                relative_start=relative_start,
                **chosen,
            )
            frames = RepeatedFrames(frames, arguments.train_batch_size)
            augmentation = options.augmentation or recipe["augmentation"]
            if augmentation != "none":
                kind = DepthAugmentation.strong() if augmentation == "strong" else DepthAugmentation()
                frames = AugmentedFrames(frames, kind, seed)
            trainer = DepthTrainer(
                model=model,
                args=arguments,
                train_dataset=frames if wrap is None else wrap(frames, num_frames),
                data_collator=DepthCollator(collate_with or processor),
            )
            trainer.remove_callback(PrinterCallback)
            started = time.perf_counter()
            loss = trainer.train().training_loss
            seconds = time.perf_counter() - started
        numbers = {
            "loss": loss_in_words,
            "train_loss": loss,
            "num_train_frames": num_frames,
            "frames_seen": options.max_steps * arguments.train_batch_size,
            "trained_parameters": counted.trainable,
            "trained_megabytes": counted.trainable_bytes / 1e6,
            "seconds": seconds,
        }
        if is_fresh_process():  # else it would be the peak of all runs so far
            numbers["peak_memory_mb"] = peak_memory_mb(self.device)
        return (model.merge_and_unload() if hasattr(model, "merge_and_unload") else model), numbers

    def evaluate(
        self, model=None, processor=None, frames=None, protocol=None, predict=None, on_image=None
    ) -> EvaluationResult:
        """`evaluate_depth` on the evaluation frames (or others), at the resolution of the measured depth."""
        return evaluate_depth(
            model,
            processor,
            self.data.load_eval() if frames is None else frames,
            protocol=protocol or self.options.chosen_protocol(),
            batch_size=self.options.batch_size,
            device=self.device,
            with_boundaries=self.options.boundaries,
            on_image=on_image,
            progress=False,
            predict=predict,
        )

    def measure(self, *evaluated: Any, **options: Any) -> dict[str, Any]:
        """The means of [`Workbench.evaluate`]; NaN becomes `None`."""
        return without_nan(self.evaluate(*evaluated, **options).metrics)

    def train_and_measure(self, model, processor, seed: int, **training: Any) -> dict[str, Any]:
        """[`Workbench.train`], then [`Workbench.measure`]."""
        model, numbers = self.train(model, processor, seed, **training)
        return self.measure(model, processor) | numbers

    def _training_frames(self, data: Any, processor):
        """The training frames: decoded once for the runs that share them, at twice the model's size, if they fit."""
        from llm_mde.training import FramesInMemory

        size = processor.image_processor.size
        key = (data, size["height"], size["width"])
        if self._kept[0] != key:
            frames = data.load_train()
            if len(frames) * 4 * size["height"] * size["width"] * _BYTES_PER_PIXEL <= _MOST_KEPT:
                frames = FramesInMemory(frames, 2 * size["height"], 2 * size["width"])
                for index in range(len(frames)):
                    _ = frames[index]  # now, and not while the clock of the first run is running
            self._kept = (key, frames)
        return self._kept[1]


def without_nan(numbers: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON can hold them."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def measure_constants(bench: Workbench, seed: int | None, at: Any = None, data: Any = None) -> list[Row]:
    """Rows of the predictors that see no photograph, fitted to the training frames of a seed (or to `data`)."""
    frames = (data or bench.data_of(seed)).load_train()
    protocol = bench.options.chosen_protocol()
    median, *maps = fit_baselines(frames, protocol)
    baselines = {MEDIAN: median} | {each.name: each for each in maps}
    return [
        {"variant": name, "at": at, **bench.measure(predict=baseline), "num_train_frames": len(frames)}
        for name, baseline in baselines.items()
    ]


def measure_base(bench: Workbench) -> list[Row]:
    """The row of the base model as it came."""
    return [{"variant": BASE, "at": None, **bench.measure(*bench.load())}]


def run_study(
    study: Study, options: Any, data: Any, command: str, on_progress: Callable[[str], None] | None = None
) -> Path:
    """
    Does the runs that `runs.jsonl` does not have yet, and writes the tables and the plot.

    Args:
        study ([`Study`]): From `find_study`.
        options (`StudyArguments`): Of the kind `study.arguments`.
        data (`DataArguments`, *optional*): For studies that need data.
        command (`str`): The command line, for `table.md`.
        on_progress (`Callable`, *optional*): Called with a line of text after each run.

    Returns:
        `Path`: The folder with `runs.jsonl`, `study.json`, `table.csv`, `table.md` and `plot.png`.

    Raises:
        ValueError: If the folder holds runs with other settings, frames are trained on and measured with, the
            protocol does not fit them, a process was killed, or for the reasons of the data and the model.
    """
    from .report import write_report

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "a study is one process, which starts others where it needs them; start it without a launcher."
        )
    bench = Workbench(options, data)
    runs = study.plan(bench)
    if data is not None:
        _check_frames(bench)
    output = make_folder(options.output or f"outputs/studies/{study.name}")
    log = RunLog(output, study.name, settings_of(options, *([] if data is None else [data])))
    for number, run in enumerate(runs, start=1):
        label = run.name if run.seed is None else f"{run.name}, seed {run.seed}"
        if (run.name, run.seed) in log.records:
            outcome = "done before"
        else:
            started = time.monotonic()
            log.append(run.name, run.seed, in_fresh_process(run.work) if run.alone else run.work(), options.use_cpu)
            outcome = f"{time.monotonic() - started:.0f} s"
        if on_progress is not None:
            on_progress(f"[{number}/{len(runs)}] {label}: {outcome}")
    write_report(output, study, bench, command, [log.records[run.name, run.seed] for run in runs])
    return output


def _check_frames(bench: Workbench) -> None:
    """Refuses what would make all numbers of a study worthless, or fail after its first training."""
    trained, measured = replace(bench.data, shots=None).load_train(), bench.data.load_eval()
    shared = shared_frame(trained, bench.data, measured, bench.data)
    if shared is not None:
        raise ValueError(
            f"`train_split` is {bench.data.train_split!r} and `eval_split` {bench.data.eval_split!r}, which share "
            f"frames, such as {shared!r}; choose two that do not."
        )
    check_protocol(bench.options.chosen_protocol(), [measured[0]])


def describe_loss(config: Any, relative_start: float = 0.0) -> str:
    """The training loss of a configuration in words.

    Args:
        config (`LLMMDEConfig`): With the fields of the loss.
        relative_start (`float`, *optional*, defaults to 0.0): Share of all steps before the relative error counts.
    """
    is_relative = config.depth_estimation_type == "relative"
    words = f"SILog (lambda {1 if is_relative else config.variance_focus:g}, reduction {config.loss_reduction})"
    if is_relative or config.relative_weight == 0:
        return words
    start = f", which counts after {relative_start:.0%} of the steps" if relative_start else ""
    return f"{words} + {config.relative_weight:g} x relative error{start}"


def _prepare(model, method: str, rank: int | None):
    """Marks what is trained, also of a model after surgery."""
    if not hasattr(model, "language_model"):
        return model  # a CNN is trained whole
    config = None
    if method == "lora":
        language_rank = 0 if isinstance(model.language_model, PassThrough) else rank
        config = lora_config(model, vision_rank=rank, language_rank=language_rank)
    model = prepare_for_training(model, method, config)
    for module in model.modules():
        if isinstance(module, PassThrough):
            module.requires_grad_(False)
    return model


def read_recipe(name: str) -> dict[str, Any]:
    """What `llm-mde train --recipe NAME` starts from."""
    import yaml

    return yaml.safe_load((files("llm_mde.training") / "recipes" / f"{name}.yaml").read_text())


__all__ = [
    "Run",
    "Study",
    "Workbench",
    "describe_loss",
    "measure_base",
    "measure_constants",
    "read_recipe",
    "run_study",
    "without_nan",
]
