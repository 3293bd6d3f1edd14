"""`llm-mde evaluate`: measure a model with a named protocol, beside predictors that have not seen the photograph."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from llm_mde.evaluation import (
    PROTOCOLS,
    EvaluationProtocol,
    EvaluationReport,
    EvaluationSetting,
    MeanDepthMapBaseline,
    MedianDepthBaseline,
    WorstCases,
    evaluate_depth,
    fit_baselines,
    get_protocol,
    protocol_for_model,
)
from llm_mde.evaluation.processes import join_processes
from llm_mde.evaluation.protocols import ALIGNMENTS, CROPS
from llm_mde.evaluation.report import make_folder

from .arguments import parse_arguments
from .data_arguments import DataArguments


@dataclass
class EvaluateArguments:
    """What to measure, and how."""

    model: str = field(metadata={"help": "folder or Hub id of a model, or of an adapter"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the model on the Hub"})
    output: str = field(default="outputs/evaluation", metadata={"help": "folder for the results"})
    protocol: str = field(default="plain", metadata={"help": f"one of {', '.join(PROTOCOLS)}"})
    min_depth: float | None = field(default=None, metadata={"help": "metres; replaces the protocol's"})
    max_depth: float | None = field(default=None, metadata={"help": "metres; replaces the protocol's"})
    crop: str | None = field(default=None, metadata={"help": f"replaces the protocol's: none, {', '.join(CROPS)}"})
    alignment: str | None = field(
        default=None,
        metadata={"help": f"replaces the protocol's: {', '.join(ALIGNMENTS[:-1])}; scale-shift clamps, too"},
    )
    flip_averaging: bool = field(
        default=False, metadata={"help": "whether to average with the mirrored photograph; twice the time"}
    )
    batch_size: int = field(default=8, metadata={"help": "photographs at once"})
    device: str | None = field(default=None, metadata={"help": "such as cpu or cuda:1; else the accelerator"})
    dtype: str | None = field(default=None, metadata={"help": "such as bfloat16; else as the weights were saved"})
    boundaries: bool = field(default=True, metadata={"help": "whether to measure boundary_f1"})
    baselines: bool = field(
        default=True, metadata={"help": "whether to fit median and mean depth to the training set, for comparison"}
    )
    train_data: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub id whose --train_split the baselines are fitted to, instead of --data; its layout "
            "is recognised, and --layout, --dataset, --depth_scale, columns, configuration and revision are not its"
        },
    )
    train_depth_scale: float | None = field(
        default=None, metadata={"help": "metres per stored unit of --train_data, where it does not state it"}
    )
    num_worst: int = field(default=8, metadata={"help": "images in worst.png; 0 for no picture"})
    num_resamples: int = field(default=1000, metadata={"help": "of the bootstrap intervals"})
    bootstrap_seed: int = field(default=0, metadata={"help": "of the bootstrap intervals"})

    def __post_init__(self):
        self.chosen_protocol()  # refused now, and not when everything has been measured
        for name, least in (("batch_size", 1), ("num_worst", 0), ("num_resamples", 1), ("bootstrap_seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; pass {least} or more.")
        if self.train_data is not None and not self.baselines:
            raise ValueError(
                f"`train_data` is {self.train_data!r} with `baselines` off, and nothing else is fitted to it; leave "
                "one of them out."
            )
        if self.train_depth_scale is not None and self.train_data is None:
            raise ValueError(
                f"`train_depth_scale` is {self.train_depth_scale} without `train_data`; `--data` has `--depth_scale`."
            )

    def chosen_protocol(self) -> EvaluationProtocol:
        """The protocol with what the flags replace.

        Raises:
            ValueError: If a name or a value does not fit.
        """
        overrides = {
            name: getattr(self, name)
            for name in ("min_depth", "max_depth", "alignment")
            if getattr(self, name) is not None
        }
        if self.crop is not None:
            overrides["crop"] = None if self.crop == "none" else self.crop
        if (overrides.get("alignment") or "").startswith("scale-shift"):
            overrides["clamp"] = True
        if self.flip_averaging:
            overrides["flip_averaging"] = True
        return get_protocol(self.protocol, **overrides)


def run(arguments: Sequence[str]) -> None:
    """`llm-mde evaluate`: read the arguments, measure."""
    options, data_options = parse_arguments(
        "evaluate",
        [EvaluateArguments, DataArguments],
        arguments,
        "Measures a model on photographs with measured depth, beside the median and the mean depth of the training "
        "set, and writes metrics.json, per_image.csv, table.md, model-index.yaml and worst.png. Start it through "
        "`accelerate launch -m llm_mde.cli evaluate ...` for several processes.",
    )
    from llm_mde.public_names import public_command

    evaluate(options, data_options, public_command(["llm-mde", "evaluate", *arguments]))


def evaluate(
    options: EvaluateArguments, data_options: DataArguments, command: str | None = None, after_training: bool = False
) -> EvaluationReport:
    """Load, measure the model and the baselines, print the table, write the folder.

    Args:
        options (`EvaluateArguments`): What to measure.
        data_options (`DataArguments`): On what.
        command (`str`, *optional*): The command line, for `metrics.json`.
        after_training (`bool`, *optional*, defaults to `False`): Whether the protocol is fitted to the model, as
            `llm-mde train` does ([`protocol_for_model`]).

    Raises:
        ValueError: If the protocol, the data, the model or the output folder is not what it should be.
        ImportError: If the picture is wanted and matplotlib is not installed.
    """
    protocol = options.chosen_protocol()
    make_folder(options.output)
    worst = WorstCases(options.num_worst) if options.num_worst else None
    if worst is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("worst.png needs matplotlib: pip install matplotlib, or pass --num_worst 0.")

    from llm_mde.hub import load_model_and_processor

    rank, _ = join_processes()
    frames = data_options.load_eval()
    train_options = data_options
    if options.train_data is not None:
        train_options = data_options.of_another_set(options.train_data, depth_scale=options.train_depth_scale)
    model, processor = load_model_and_processor(
        options.model, revision=options.revision, device=options.device, dtype=options.dtype
    )
    if after_training:
        protocol = protocol_for_model(model.config, options.protocol, options.max_depth)
    fitted = _fit_baselines(train_options, protocol) if options.baselines else []
    if rank == 0:
        print(f"eval: {frames.report}", flush=True)
    measure = {"protocol": protocol, "batch_size": options.batch_size, "with_boundaries": options.boundaries}
    result = evaluate_depth(model, processor, frames, on_image=worst, **measure)
    baselines = {baseline.name: evaluate_depth(None, None, frames, predict=baseline, **measure) for baseline in fitted}
    if worst is not None:
        worst.gather()

    of_baselines = {
        "train_data": train_options.data,
        "train_dataset": train_options.dataset,
        "train_split": train_options.train_split_list or train_options.train_split,
    }
    setting = EvaluationSetting.of(
        model,
        processor,
        name=options.model,
        revision=_commit(options.model, options.revision) or options.revision,
        data=data_options.data,
        data_revision=data_options.data_revision,
        dataset=data_options.dataset,
        split=data_options.eval_split_list or data_options.eval_split,
        num_without_depth=frames.num_without_depth,
        data_flags=_data_flags(options, data_options),
        **(of_baselines if fitted else {}),
    )
    report = EvaluationReport(setting, result, baselines, options.bootstrap_seed, options.num_resamples, command)
    if rank == 0:
        print(f"\n{report.markdown()}")
        if protocol.alignment != "min-max" and model.config.max_depth > protocol.max_depth:
            print(
                f"The model predicts up to {model.config.max_depth:g} m, but nothing measured beyond "
                f"{protocol.max_depth:g} m counted; --{'protocol_' if after_training else ''}max_depth changes that.\n"
            )
        written = report.write(options.output, None if worst is None else worst.sheet())
        print("Written:", *(f"  {path}" for path in written), sep="\n")
    return report


def _fit_baselines(
    train_options: DataArguments, protocol: EvaluationProtocol
) -> list[MedianDepthBaseline | MeanDepthMapBaseline]:
    try:
        return fit_baselines(train_options.load_train(), protocol)
    except ValueError as error:
        raise ValueError(f"the baselines need a training set (--train_data, or --baselines false): {error}") from error


def _data_flags(options: EvaluateArguments, data_options: DataArguments) -> dict[str, Any]:
    """Flags of the data that differ from their defaults, but for those that the setting has a place for."""
    named = {"data", "data_revision", "dataset", "eval_split", "eval_split_list", "train_split", "train_split_list"}
    if not options.baselines or data_options.shots is None:
        named |= {"shots", "shots_seed"}  # which then chose nothing that was measured
    changed = {
        flag.name: getattr(data_options, flag.name)
        for flag in fields(data_options)
        if flag.name not in named and getattr(data_options, flag.name) != flag.default
    }
    scale = {} if options.train_depth_scale is None else {"train_depth_scale": options.train_depth_scale}
    return changed | scale


def _commit(model: str, revision: str | None) -> str | None:
    """The commit that was loaded from the Hub; none for a folder."""
    if Path(model).exists():
        return None
    for name in ("adapter_config.json", "config.json"):
        file = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(file, str):
            return Path(file).parent.name  # models--user--name/snapshots/<commit>/config.json
    return None


__all__ = ["EvaluateArguments", "evaluate", "run"]
