"""A training run from its arguments: base, adapter, data, Trainer, final measurement, and the folder to keep."""

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from .adapters import (
    NEW_LAYERS,
    count_parameters,
    format_parameter_table,
    lora_config,
    prepare_for_training,
)
from .arguments import DepthTrainingArguments
from .encoders import compose_from_encoders
from .model_arguments import ADAPTER_FIELDS, MAX_DEPTH, FrameArguments, ModelArguments
from .recording import describe_data, record_run

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
    from llm_mde.evaluation import EvaluationProtocol

logger = logging.get_logger(__name__)

MODEL_FIELDS = ("variance_focus", "relative_weight", "encoder_dropout")  # of the configuration, which recipes set
RESULT_FOLDERS = ("base", "adapter", "model")  # what a run leaves in its output folder


def load_base(
    arguments: ModelArguments, output_dir: Path, resume: bool = False, is_main_process: bool = True
) -> tuple["LLMMDEForDepthEstimation", "LLMMDEProcessor"]:
    """
    The model to train, and its processor, in float32 whatever it was saved in: in shorter types updates round away.

    An adapter is of no use without its base. So where the model under it is nowhere saved whole (it is composed here,
    or is an adapter itself, merged), it is written to `output_dir/base` first. With several processes, the main one
    goes first.

    Raises:
        ValueError: If the arguments contradict each other, or quantisation is asked for without a GPU.
    """
    from llm_mde.hub import load_model_and_processor

    changes = {name: getattr(arguments, name) for name in MODEL_FIELDS if getattr(arguments, name) is not None}
    _check_base(arguments)
    if arguments.model is None and arguments.method != "lora":
        model, processor = _compose(arguments, changes)
    else:
        name, revision = _saved_base(arguments, changes, output_dir, resume, is_main_process)
        if arguments.quantization is not None:
            model, processor = _load_quantised(arguments.quantization, name, revision)
        else:
            model, processor = load_model_and_processor(name, revision, device="cpu", dtype="float32")
    for name, value in changes.items():
        setattr(model.config, name, value)
    for name in ("dataset_prompt", "camera_prompt"):
        if getattr(arguments, name) is not None:
            setattr(processor, name, getattr(arguments, name))
    return model, processor


def _check_base(arguments: ModelArguments) -> None:
    import torch

    if arguments.quantization is not None:
        if arguments.model is None:
            raise ValueError(f"`quantization` is {arguments.quantization!r}, which needs a saved `model` to load.")
        if not torch.cuda.is_available():
            raise ValueError(
                f"`quantization` is {arguments.quantization!r}, which needs a CUDA GPU (bitsandbytes), and this "
                "machine has none; leave it out."
            )
        if arguments.method != "lora":
            raise ValueError(f"`method` is {arguments.method!r}; a quantised base is frozen: pass --method lora.")
    if arguments.method != "lora":
        for each in fields(ModelArguments):
            value = getattr(arguments, each.name)
            if each.name in ADAPTER_FIELDS and value != each.default:
                raise ValueError(
                    f"`{each.name}` is {value!r}, but `method` is {arguments.method!r}, which makes no adapter; leave "
                    f"out --{each.name}, or pass --method lora."
                )
    if arguments.from_scratch and arguments.method != "full":
        raise ValueError(
            f"`from_scratch` is true but `method` is {arguments.method!r}; random weights have to be trained: pass "
            "--method full."
        )
    for name in ("preset", "image_height", "image_width", "max_depth"):
        value = getattr(arguments, name)
        if arguments.model is not None and value is not None:
            raise ValueError(
                f"`{name}` is {value!r}, but `model` is {arguments.model!r}, which has its own; leave out --{name}, "
                "or --model, so that a new model is composed."
            )


def _compose(arguments: ModelArguments, changes: dict) -> tuple["LLMMDEForDepthEstimation", "LLMMDEProcessor"]:
    from .small_model import compose_small_model

    height, width, preset = arguments.image_height, arguments.image_width, arguments.preset
    max_depth = MAX_DEPTH if arguments.max_depth is None else arguments.max_depth
    if arguments.from_scratch:
        return compose_small_model(height or 96, width or 128, max_depth, preset, **changes)
    return compose_from_encoders(
        arguments.vision_model, arguments.language_model, height, width, preset, max_depth=max_depth, **changes
    )


def _saved_base(
    arguments: ModelArguments, changes: dict, output_dir: Path, resume: bool, is_main_process: bool
) -> tuple[str, str | None]:
    """Name and revision of the whole model to load; one that is not saved yet becomes `output_dir/base`."""
    from llm_mde.hub import load_model_and_processor, write_model_folder
    from llm_mde.hub.loading import is_adapter

    name, revision = arguments.model, arguments.model_revision
    if name is None or (arguments.method == "lora" and is_adapter(name, revision)):
        folder = output_dir / "base"
        if is_main_process and not (resume and folder.is_dir()):
            if name is None:
                model, processor = _compose(arguments, changes)
            else:
                model, processor = load_model_and_processor(name, revision, device="cpu", dtype="float32")
            shutil.rmtree(folder, ignore_errors=True)
            write_model_folder(folder, model, processor)
        name, revision = str(folder), None
    # An adapter notes this name, and is read from other folders than this one.
    return (os.path.abspath(name) if Path(name).is_dir() else name), revision


def _load_quantised(
    quantization: str, name: str, revision: str | None
) -> tuple["LLMMDEForDepthEstimation", "LLMMDEProcessor"]:
    import torch
    from transformers import BitsAndBytesConfig

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

    settings = BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*NEW_LAYERS, "word_basis"],
    )
    model = LLMMDEForDepthEstimation.from_pretrained(
        name, revision=revision, quantization_config=settings, dtype=torch.float32
    )
    return model, LLMMDEProcessor.from_pretrained(name, revision=revision)


def train(
    model_arguments: ModelArguments,
    frame_arguments: FrameArguments,
    data_arguments,
    arguments: DepthTrainingArguments,
    eval_data_arguments=None,
    command: str | None = None,
    recipe: str | None = None,
    protocol: str = "plain",
    protocol_max_depth: float | None = None,
) -> Path:
    """
    Trains, and leaves an adapter or a model in `arguments.output_dir`, with its learning curve and a record of how it
    came about (`training.json`, see [`TrainingRecord`]).

    Args:
        model_arguments ([`ModelArguments`]), frame_arguments ([`FrameArguments`]): As `llm-mde train` takes them.
        data_arguments (`DataArguments`): With `load_train(seed)` and `load_eval()`.
        arguments ([`DepthTrainingArguments`]): The Trainer's.
        eval_data_arguments (`DataArguments`, *optional*): With the `load_eval()` of another set to measure with.
        command (`str`, *optional*): The command line that led here, for the record.
        recipe (`str`, *optional*): The recipe that the arguments come from, for the record.
        protocol (`str`, *optional*, defaults to `"plain"`): How the result is going to be measured, which is not done
            here: whether the evaluation frames fit it is looked at before anything is trained.
        protocol_max_depth (`float`, *optional*): As in [`protocol_for_model`].

    Returns:
        `Path`: The folder of the adapter (`adapter/`) or of the model (`model/`), loadable by `pipeline`.

    Raises:
        ValueError: If the output folder holds checkpoints and `resume_from_checkpoint` is not given, or results and
            no checkpoint to go on from, the best model is chosen by an unknown metric, the evaluation frames do not
            fit the protocol, or for the reasons of [`load_base`] and the data.
        OSError: If the output folder cannot be made.
    """
    from torch.utils.data import IterableDataset
    from transformers import EarlyStoppingCallback, set_seed

    from llm_mde.evaluation import protocol_for_model
    from llm_mde.hub import write_adapter_folder, write_model_folder
    from llm_mde.hub.cards import CardFacts
    from llm_mde.hub.folders import commit_in_cache
    from llm_mde.processing import DepthCollator

    from .callbacks import MetresCallback, PanelCallback, learning_curve
    from .diagnostics import DiagnosticsCallback
    from .frames import AugmentedFrames, AugmentedStream, FramesInMemory
    from .overlap import shared_frame
    from .trainer import DepthTrainer, StreamingDepthMetrics

    output_dir = Path(arguments.output_dir)
    checkpoint = _checkpoint_to_resume(arguments)
    _check_metric(arguments)
    if arguments.process_index == 0:  # alone: it writes the base while others may still be on their way here
        _refuse_to_overwrite(output_dir, checkpoint, arguments.resume_from_checkpoint, model_arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
    set_seed(arguments.seed)
    train_frames = data_arguments.load_train(arguments.seed)
    eval_data_arguments = eval_data_arguments or data_arguments
    eval_frames = eval_data_arguments.load_eval()
    data = describe_data(train_frames, data_arguments, "train")
    eval_data = describe_data(eval_frames, eval_data_arguments, "eval")
    with arguments.main_process_first(local=False, desc="loading the base model"):
        is_main_process = arguments.process_index == 0
        model, processor = load_base(model_arguments, output_dir, checkpoint is not None, is_main_process)
    few_eval_frames = _some(eval_frames, 8)
    check_protocol(protocol_for_model(model.config, protocol, protocol_max_depth), few_eval_frames)
    set_seed(arguments.seed)  # the main process may have drawn a base: an adapter begins alike on all of them
    config = None
    if model_arguments.method == "lora":
        config = lora_config(
            model,
            model_arguments.lora_preset,
            vision_rank=model_arguments.vision_rank,
            vision_alpha=model_arguments.vision_alpha,
            language_rank=model_arguments.language_rank,
            language_alpha=model_arguments.language_alpha,
            targets=model_arguments.lora_targets,
            dropout=model_arguments.lora_dropout,
            use_dora=model_arguments.use_dora,
            use_rslora=model_arguments.use_rslora,
        )
        revision = model_arguments.model_revision
        if not Path(model.name_or_path).is_dir():
            config.revision = commit_in_cache(model.name_or_path, revision) or revision
    model = prepare_for_training(model, model_arguments.method, config)
    parameters = count_parameters(model)  # now: later they may be sharded
    if arguments.process_index == 0:
        shared = shared_frame(train_frames, data_arguments, eval_frames, eval_data_arguments)
        if shared is not None:
            logger.warning(
                f"Frames are trained on and measured with, such as {shared!r}: the errors will say what was learnt by "
                "heart. Other splits (--train_split, --eval_split), or --eval_data, keep the two apart."
            )
        if arguments.load_best_model_at_end and eval_data.split.startswith("test"):
            logger.warning(
                f"The best checkpoint is chosen by the errors on {eval_data.split!r}: what is reported of it then is "
                "no test any more. Pass --load_best_model_at_end false, and --eval_strategy no, to measure once."
            )
        print(f"train: {train_frames.report}\neval: {eval_frames.report}")
        print(format_parameter_table(parameters), flush=True)

    size = processor.image_processor.size
    few_frames, panel_frames = _some(train_frames, 8), _some(eval_frames, frame_arguments.num_panel_frames)
    if arguments.process_index == 0:
        _warn_of_far_pixels(few_frames, model.config)
    callbacks = [
        MetresCallback(),
        DiagnosticsCallback(processor, few_frames, few_eval_frames),
        *([PanelCallback(panel_frames, processor)] if panel_frames else []),
    ]
    if arguments.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    is_stream = isinstance(train_frames, IterableDataset)  # which has a `__getitem__`, too
    if is_stream and arguments.accelerator_config.dispatch_batches is None:
        # Each process reads its own batches. Accelerate's default, one process that deals out to all, joins batches
        # first, which prompts padded to different lengths do not allow.
        arguments.accelerator_config.dispatch_batches = False
    if frame_arguments.keep_in_memory:
        if is_stream:
            raise ValueError("`keep_in_memory` is on, but `streaming` is too: a stream is not kept; drop one of them.")
        train_frames = FramesInMemory(train_frames, 2 * size["height"], 2 * size["width"])
        eval_frames = FramesInMemory(eval_frames, 2 * size["height"], 2 * size["width"])
        if arguments.dataloader_num_workers > 0:
            train_frames.fill()
            eval_frames.fill()
    augmentation = _augmentation(frame_arguments, model.config.max_depth)
    if augmentation is not None:
        augmented = AugmentedStream if is_stream else AugmentedFrames
        train_frames = augmented(train_frames, augmentation, arguments.seed)
    trainer = DepthTrainer(
        model=model,
        args=arguments,
        train_dataset=train_frames,
        eval_dataset=eval_frames,
        data_collator=DepthCollator(processor),
        processing_class=processor,
        compute_metrics=StreamingDepthMetrics(
            model.config.max_depth, "median" if model.config.depth_estimation_type == "relative" else "none"
        ),
        callbacks=callbacks,
    )
    output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    folder = output_dir / ("adapter" if config is not None else "model")
    state_dict = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # weights lie in pieces: all processes join in
        state_dict = trainer.accelerator.get_state_dict(trainer.deepspeed or trainer.model)
    if trainer.is_world_process_zero():
        (output_dir / "learning_curve.csv").write_text(learning_curve(trainer.state.log_history))
        (output_dir / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        record = record_run(
            trainer,
            model_arguments,
            frame_arguments,
            data=data,
            eval_data=eval_data,
            parameters=parameters,
            processor=processor,
            seconds=output.metrics["train_runtime"],
            checkpoint=checkpoint,
            command=command,
            recipe=recipe,
        )
        record.write(output_dir)
        card = CardFacts(training=record)
        if config is not None:
            write_adapter_folder(folder, trained, processor, model_arguments.adapter_dtype, state_dict, card)
        else:
            write_model_folder(folder, trained, processor, state_dict, card)
    trainer.accelerator.wait_for_everyone()
    return folder


def check_protocol(protocol: "EvaluationProtocol", frames: list) -> None:
    """
    Refuses a protocol that would count nothing of some evaluation frames, before anything is trained.

    Raises:
        ValueError: If it counts nothing of them, or its crop is made for another size.
    """
    import torch

    from llm_mde.evaluation.matching import counted_pixels

    counted = 0
    for frame in frames:
        try:
            counted += int(counted_pixels(torch.tensor(frame.depth), protocol).sum())
        except ValueError as error:
            raise ValueError(f"`protocol` is {protocol.name!r}, which does not fit {frame.name!r}: {error}") from error
    if frames and not counted:
        raise ValueError(
            f"`protocol` is {protocol.name!r}, and none of {len(frames)} evaluation frames has measured depth where "
            f"it counts, between {protocol.min_depth:g} and {protocol.max_depth:g} m; pass another one, "
            "--protocol_max_depth, or for a new model --max_depth."
        )


def _checkpoint_to_resume(arguments: DepthTrainingArguments) -> Path | None:
    from .trainer import last_complete_checkpoint

    asked, last = arguments.resume_from_checkpoint, last_complete_checkpoint(arguments.output_dir)
    if asked is None or asked.lower() in ("false", "no"):
        if last is not None:
            raise ValueError(
                f"`output_dir` is {arguments.output_dir!r}, which holds {last.name} of an earlier run; pass "
                "--resume_from_checkpoint true to go on from it, or another folder."
            )
        return None
    if asked.lower() in ("true", "yes", "last"):
        if last is None:
            logger.warning(f"{arguments.output_dir!r} holds no complete checkpoint to resume from: starting anew.")
        return last
    if not Path(asked).is_dir():
        raise ValueError(f"`resume_from_checkpoint` is {asked!r}, which is no folder; pass one, or true for the last.")
    return Path(asked)


def _check_metric(arguments: DepthTrainingArguments) -> None:
    from llm_mde.evaluation.metrics import METRIC_NAMES

    name, known = arguments.metric_for_best_model, (*METRIC_NAMES, "loss")
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(f"`metric_for_best_model` is {name!r}; choose one of {', '.join(known)}.")


def _refuse_to_overwrite(
    output_dir: Path, checkpoint: Path | None, asked: str | None, arguments: ModelArguments
) -> None:
    """Refuses to replace what an earlier run has left, and in any case the model that this one starts from.

    A base alone is of a run that was to be resumed before it had a checkpoint: it starts anew, with the same base.
    """
    is_asked = asked is not None and asked.lower() not in ("false", "no")
    replaced = RESULT_FOLDERS if checkpoint is not None else ("base",) if is_asked else ()
    for folder in (output_dir / name for name in RESULT_FOLDERS):
        if arguments.model is not None and folder.is_dir() and folder.resolve() == Path(arguments.model).resolve():
            raise ValueError(
                f"`output_dir` is {str(output_dir)!r}, which holds `model`, {arguments.model!r}, itself; give another "
                "--output_dir, so that it is kept."
            )
        if folder.exists() and folder.name not in replaced:
            without = " and no checkpoint to go on from" if is_asked else ""
            raise ValueError(
                f"`output_dir` is {str(output_dir)!r}, which holds {folder.name}/ of an earlier run{without}; give "
                f"another --output_dir, or remove {str(folder)!r} if you do not need it."
            )


def _warn_of_far_pixels(frames: list, config) -> None:
    """Warns where more than a tenth of what was measured counts for nothing, being farther than the model can say."""
    measured = sum(int((frame.depth > 0).sum()) for frame in frames)
    far = sum(int((frame.depth > config.max_depth).sum()) for frame in frames)
    if config.depth_estimation_type == "metric" and far > 0.1 * measured:
        farthest = max(float(frame.depth.max()) for frame in frames)
        logger.warning(
            f"{far / measured:.0%} of the measured pixels in {len(frames)} training frames are farther than the "
            f"model's `max_depth`, {config.max_depth:g} m, and teach it nothing; the farthest is at {farthest:.0f} m. "
            "Compose a new model with --max_depth (80 for streets) and without --model."
        )


def _augmentation(arguments: FrameArguments, max_depth: float):
    from dataclasses import replace

    from llm_mde.processing import DepthAugmentation

    if arguments.augmentation == "none":
        if arguments.cut_depth:
            raise ValueError(f"`cut_depth` is {arguments.cut_depth} but `augmentation` is 'none'; pass 'mild'.")
        return None
    augmentation = DepthAugmentation.strong() if arguments.augmentation == "strong" else DepthAugmentation()
    return replace(augmentation, cut_depth=arguments.cut_depth, max_depth=max_depth)


def _some(frames, count: int) -> list:
    """Evenly spaced frames of a map-style dataset, the first ones of a stream."""
    from itertools import islice

    if not hasattr(frames, "__len__"):
        return list(islice(frames, count))
    count = min(count, len(frames))
    return [frames[index * len(frames) // count] for index in range(count)]


__all__ = ["MODEL_FIELDS", "check_protocol", "load_base", "train"]
