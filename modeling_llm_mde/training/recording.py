"""From a run to its record: what was really loaded, trained and measured, in names without folders."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_callback import TrainerState

from llm_mde.evaluation.report import library_versions, name_of_source
from llm_mde.public_names import without_place

from .adapters import ParameterCount
from .arguments import DepthTrainingArguments
from .record import (
    AdaptedPartRecord,
    AdapterRecord,
    BestRecord,
    DataRecord,
    OptimisationRecord,
    PartRecord,
    StartRecord,
    TrainingRecord,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Trainer

    from llm_mde import LLMMDEProcessor

    from .model_arguments import FrameArguments, ModelArguments

# Flags of the data that have a place of their own in the record.
_NAMED_FLAGS = {
    *("data", "dataset", "data_revision", "train_split", "train_split_list", "eval_split", "eval_split_list"),
    *("shots", "shots_seed"),
}


def describe_data(frames: Any, arguments: Any, part: str) -> DataRecord:
    """
    Frames that were loaded.

    Args:
        frames ([`DepthDataset`] or [`StreamingDepthDataset`]): With the `report` that loading leaves.
        arguments (`DataArguments`): What they were loaded by.
        part (`str`): `"train"` or `"eval"`.
    """
    split = getattr(arguments, f"{part}_split_list") or getattr(arguments, f"{part}_split")
    is_few = part == "train" and arguments.shots is not None
    flags = {
        flag.name: without_place(getattr(arguments, flag.name))
        for flag in fields(arguments)
        if flag.name not in _NAMED_FLAGS and getattr(arguments, flag.name) != flag.default
    }
    return DataRecord(
        name=name_of_source(arguments.data),
        is_on_hub=not Path(arguments.data).exists(),
        dataset=arguments.dataset,
        split=without_place(split),
        revision=arguments.data_revision,
        num_frames=len(frames) if hasattr(frames, "__len__") else None,
        shots=arguments.shots if is_few else None,
        shots_seed=arguments.shots_seed if is_few else None,
        depth=str(frames.report),
        flags=flags,
    )


def describe_adapter(model: "PeftModel") -> AdapterRecord:
    """The active adapter of a model, as its layers are and not as somebody meant them to be."""
    adapter = model.active_adapters[0]
    config = model.peft_config[adapter]
    base, layers = model.get_base_model(), {}
    for name in model.targeted_module_names:
        layers.setdefault(name.partition(".")[0], []).append(base.get_submodule(name))
    parts = [
        AdaptedPartRecord(
            part,
            num_layers=len(modules),
            ranks=sorted({int(module.r[adapter]) for module in modules if hasattr(module, "r")}),
            alphas=sorted({float(module.lora_alpha[adapter]) for module in modules if hasattr(module, "lora_alpha")}),
        )
        for part, modules in layers.items()
    ]
    kind = "DoRA" if getattr(config, "use_dora", False) else str(getattr(config.peft_type, "value", config.peft_type))
    kind = {"LORA": "LoRA"}.get(kind, kind) + (", rsLoRA's scale" if getattr(config, "use_rslora", False) else "")
    return AdapterRecord(kind, parts, list(getattr(config, "modules_to_save", None) or []))


def record_run(
    trainer: "Trainer",
    model_arguments: "ModelArguments",
    frame_arguments: "FrameArguments",
    *,
    data: DataRecord,
    eval_data: DataRecord,
    parameters: Sequence[ParameterCount],
    processor: "LLMMDEProcessor",
    seconds: float,
    checkpoint: Path | None = None,
    command: str | None = None,
    recipe: str | None = None,
) -> TrainingRecord:
    """
    The record of a finished run.

    Args:
        trainer (`transformers.Trainer`): With [`DepthTrainingArguments`], after `train()`.
        model_arguments ([`ModelArguments`]), frame_arguments ([`FrameArguments`]): What it was started with.
        data, eval_data ([`DataRecord`]): From [`describe_data`].
        parameters (`Sequence[ParameterCount]`): From `count_parameters` before the training, which may shard them.
        processor ([`LLMMDEProcessor`]): The model's.
        seconds (`float`): How long it took.
        checkpoint (`Path`, *optional*): What it went on from.
        command (`str`, *optional*): The command line, without folders and secrets.
        recipe (`str`, *optional*): The recipe that the arguments come from.
    """
    arguments, trained = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    is_adapted = model_arguments.method == "lora"
    return TrainingRecord(
        command=command,
        recipe=recipe,
        method=model_arguments.method,
        start=_describe_start(model_arguments),
        data=data,
        eval_data=eval_data,
        parts=[PartRecord(row.part, row.total, row.trainable) for row in parameters if row.part != "all"],
        adapter=describe_adapter(trained) if is_adapted else None,
        optimisation=_describe_optimisation(arguments, trainer, checkpoint),
        loss=_describe_loss(arguments, trained.config),
        augmentation=_describe_augmentation(frame_arguments, trained.config.encoder_dropout),
        prompts=_describe_prompts(processor),
        precision=_describe_precision(arguments, model_arguments.quantization),
        seconds=round(seconds, 1),
        device=_describe_device(arguments.device),
        best=_describe_best(arguments, trainer),
        versions=library_versions(),
    )


def _describe_start(arguments: "ModelArguments") -> StartRecord:
    """What a run with these arguments starts from; call it when that has been loaded, and so is in the cache."""
    from llm_mde.hub.folders import commit_in_cache
    from llm_mde.hub.loading import is_adapter

    if arguments.from_scratch:
        return StartRecord("random", names=[], hub_ids=[], revision=None)
    if arguments.model is None:
        kind, names, revision = "encoders", [arguments.vision_model, arguments.language_model], None
    else:
        names, revision = [arguments.model], arguments.model_revision
        kind = "adapter" if is_adapter(arguments.model, revision) else "model"
        revision = commit_in_cache(arguments.model, revision) or revision
    hub_ids = [name for name in names if not Path(name).exists()]
    return StartRecord(kind, [name_of_source(name) for name in names], hub_ids, revision if hub_ids else None)


def _describe_optimisation(
    arguments: DepthTrainingArguments, trainer: "Trainer", checkpoint: Path | None
) -> OptimisationRecord:
    """How long and how fast a finished run was trained."""
    rates = (arguments.learning_rate, arguments.vision_learning_rate, arguments.language_learning_rate)
    rate, vision_rate, language_rate = (arguments.learning_rate if rate is None else rate for rate in rates)
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return OptimisationRecord(
        epochs=round(trainer.state.epoch or 0.0, 3),
        steps=trainer.state.global_step,
        resumed_at_step=None if checkpoint is None else _step_of(checkpoint),
        effective_batch_size=batch_size,
        num_processes=arguments.world_size,
        optimiser=_value(arguments.optim),
        learning_rate=rate,
        vision_learning_rate=vision_rate,
        language_learning_rate=language_rate,
        weight_decay=arguments.weight_decay,
        schedule=_value(arguments.lr_scheduler_type),
        warmup_steps=arguments.warmup_steps,
        max_grad_norm=arguments.max_grad_norm,
        seed=arguments.seed,
    )


def _describe_loss(arguments: DepthTrainingArguments, config: Any) -> dict[str, Any]:
    """Fields of the loss, and when the relative error began to count, if it did."""
    values = {name: getattr(config, name) for name in ("loss_reduction", "variance_focus", "relative_weight")}
    if config.depth_estimation_type == "relative":  # of which no scale is learnt, whatever the configuration says
        values |= {"variance_focus": 1.0, "relative_weight": 0.0}
    return values | ({"relative_start": arguments.relative_start} if values["relative_weight"] > 0 else {})


def _describe_augmentation(arguments: "FrameArguments", encoder_dropout: bool) -> str:
    """The augmentation in words."""
    cut_depth = f", CutDepth with probability {arguments.cut_depth:g}" if arguments.cut_depth else ""
    return f"{arguments.augmentation}{cut_depth}{'' if encoder_dropout else ', no dropout in the encoders'}"


def _describe_precision(arguments: DepthTrainingArguments, quantization: str | None) -> str:
    """The arithmetic in words; weights that are trained are float32 in any case."""
    mixed = "bfloat16 (mixed)" if arguments.bf16 else "float16 (mixed)" if arguments.fp16 else "float32"
    return mixed if quantization is None else f"{mixed}, base in {quantization}"


def _describe_device(device: torch.device) -> str:
    """What computed, without the name of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}" if device.type == "cpu" else device.type


def _describe_best(arguments: DepthTrainingArguments, trainer: "Trainer") -> BestRecord | None:
    """By which metric the weights were chosen; none where the last ones were kept."""
    if not arguments.load_best_model_at_end or trainer.state.best_metric is None:
        return None
    metric = (arguments.metric_for_best_model or "loss").removeprefix("eval_")
    return BestRecord(metric, float(trainer.state.best_metric), trainer.state.best_global_step)


def _describe_prompts(processor: "LLMMDEProcessor") -> dict[str, str]:
    """Sentences that every prompt has, where the processor has its own."""
    prompts = {name: getattr(processor, name) for name in ("dataset_prompt", "camera_prompt")}
    return {name: prompt for name, prompt in prompts.items() if prompt}


def _step_of(checkpoint: Path) -> int | None:
    """How far a checkpoint had come; the Trainer does without its state, too."""
    try:
        return TrainerState.load_from_json(checkpoint / "trainer_state.json").global_step
    except (OSError, ValueError, TypeError):
        return None


def _value(option: Any) -> str:
    return str(getattr(option, "value", option))


__all__ = ["describe_adapter", "describe_data", "record_run"]
