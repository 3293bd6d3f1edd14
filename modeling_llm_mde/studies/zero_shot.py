"""
The paper claims low losses across domains without adaptation (its zero-shot table). A model is measured as it is, or
trained here first, on its own evaluation frames and on other data sets. Beside it stand the median depth of the
training frames, each target's own median, which nobody without the target's depth can know (an oracle), and the same
model with its median aligned to each image's and clamped to the protocol's range, as is done with depth of unknown
scale: the error that remains then is shape, the rest was scale.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from llm_mde.evaluation import EvaluationProtocol, MedianDepthBaseline, get_protocol
from llm_mde.public_names import split_settings, without_place
from llm_mde.training.overlap import shared_frame
from llm_mde.training.run import check_protocol

from .arguments import MethodStudyArguments
from .run_log import Row, settings_of
from .runner import MEDIAN, Run, Study, Workbench

ALIGNED, ORACLE = "LLM-MDE, median aligned to each image", "median depth of the target (oracle)"


def _truth(word: str) -> bool:
    return {"true": True, "false": False}[word.lower()]


# What may follow a target: the name in the table, fields of `DataArguments`, and how it is measured.
TARGET_SETTINGS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("name", "split", "split_list", "dataset", "layout"), str),
    **dict.fromkeys(("image_column", "depth_column", "data_config", "data_revision"), str),
    "depth_scale": float,
    "kb_crop": _truth,
    "allow_implausible_depth": _truth,
    "protocol": str,
    "protocol_max_depth": float,
}
_FIELDS = {"split": "eval_split", "split_list": "eval_split_list"}  # other names than in `DataArguments`


@dataclass
class ZeroShotArguments(MethodStudyArguments):
    """Flags of the study."""

    fewest_steps: ClassVar[int] = 0

    max_steps: int = field(default=0, metadata={"help": "Steps of training on --dataset before; 0 for none."})
    targets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data sets to measure on: of index.csv by name (by default all others but versions of --dataset, "
            "such as nyu_v2_16bit of nyu_v2), folders or Hub ids. Each may bring its own settings, of which it takes "
            f"none from the source: folder:depth_scale=0.001,protocol=kitti-garg. Known: {', '.join(TARGET_SETTINGS)}."
        },
    )
    target_split: str = field(default="all", metadata={"help": "Part of the targets, where they do not say which."})

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps == 0 and self.model is None:
            raise ValueError("`max_steps` is 0 and `model` not given: nothing would be trained; give one of them.")
        for target in self.targets:
            parse_target(target)


@dataclass(frozen=True)
class Target:
    """A data set to measure on, as a part of it and how."""

    data: Any  # DataArguments
    protocol: EvaluationProtocol


def parse_target(target: str) -> tuple[str, dict[str, Any]]:
    """
    `"place:name=value,..."` as the place and its settings by name; without a colon there are none.

    Raises:
        ValueError: If a setting is unknown or its value cannot be read.
    """
    place, words = split_settings(target)
    settings = {}
    for word in words.split(",") if words else []:
        name, _, value = word.partition("=")
        if name not in TARGET_SETTINGS:
            raise ValueError(
                f"`targets` has {target!r} with the setting {name!r}; the known ones are {', '.join(TARGET_SETTINGS)}."
            )
        try:
            settings[name] = TARGET_SETTINGS[name](value)
        except (KeyError, ValueError):
            kind = "true or false" if TARGET_SETTINGS[name] is _truth else "a number"
            raise ValueError(f"`targets` has {target!r}, where `{name}` is {value!r}; write {kind}.") from None
    return place, settings


def plan(bench: Workbench) -> list[Run]:
    options = bench.options
    targets = _targets(bench)  # refuses unknown names before anything is trained
    _check_targets(bench, targets)
    exactly = [[name, settings_of(each.data), each.protocol.to_dict()] for name, each in targets.items()]
    digest = hashlib.sha256(json.dumps(exactly).encode()).hexdigest()[:8]
    listing = f"{', '.join(targets)} [{digest}]"  # folders of one name are not one folder
    seeds = options.seeds if options.max_steps else [None]
    runs = [Run(f"LLM-MDE on {listing}", seed, partial(_transfer, bench, seed)) for seed in seeds]
    return runs + [
        Run(f"medians on {listing}", seed, partial(_measure_medians, bench, seed)) for seed in bench.data_seeds
    ]


def _targets(bench: Workbench) -> dict[str, Target]:
    """Each data set to measure on, by its name in the table; first the one that was trained on."""
    data, options = bench.data, bench.options
    own = data.dataset or str(without_place(data.data))
    index = Path(data.data) / "index.csv"
    known: list[str] = []
    if index.is_file():
        with index.open(newline="", encoding="utf-8-sig") as lines:
            known = list(dict.fromkeys(row.get("dataset") for row in csv.DictReader(lines)))
    others = [name for name in known if not _are_versions(name, data.dataset)] if data.dataset else []
    found = {f"{own} (source)": Target(data, options.chosen_protocol())}
    blank = {each.name: each.default for each in fields(data)}
    for target in options.targets or others:
        place, settings = parse_target(target) if options.targets else (target, {})
        changes = {_FIELDS.get(name, name): value for name, value in settings.items() if name in TARGET_SETTINGS}
        if place in known:
            changes = {"data": data.data, "layout": data.layout, "dataset": place} | changes
        elif Path(place).exists() or "/" in place:
            changes = {"data": place} | changes
        else:
            raise ValueError(f"`targets` has {place!r}, which is no folder and not one of {', '.join(known)}.")
        changes = {"eval_split": options.target_split} | changes
        name = changes.pop("name", str(without_place(place)))
        if name in found:
            raise ValueError(
                f"`targets` has two data sets called {name!r}; give one another `name=`, or leave it out."
            )
        protocol = _protocol(options, changes.pop("protocol", None), changes.pop("protocol_max_depth", None))
        found[name] = Target(replace(data, **blank | changes), protocol)
    if len(found) == 1:
        raise ValueError(
            "`targets` is not given, and there is no index.csv with another data set than `dataset`; name some."
        )
    return found


def _are_versions(name: str, other: str) -> bool:
    """Whether two names are those of one data set in two versions, as nyu_v2 and nyu_v2_16bit: the images may be the
    same."""
    shorter, longer = sorted((name, other), key=len)
    return re.fullmatch(re.escape(shorter) + r"([_-].*)?", longer) is not None


def _protocol(options: ZeroShotArguments, name: str | None, max_depth: float | None) -> EvaluationProtocol:
    overrides = {} if max_depth is None else {"max_depth": max_depth}
    return get_protocol(options.chosen_protocol() if name is None else name, **overrides)


def _check_targets(bench: Workbench, targets: dict[str, Target]) -> None:
    """Refuses a target that its protocol does not fit, or of which a photograph may be trained on, so that it would
    measure memory."""
    trained = replace(bench.data, shots=None).load_train()
    for name, target in list(targets.items())[1:]:
        frames = target.data.load_eval()
        try:
            check_protocol(target.protocol, [frames[0], frames[-1]])
        except ValueError as error:
            raise ValueError(f"`targets` has {name!r}: {error} `{name}:protocol=plain` fits any frames.") from error
        shared = shared_frame(trained, bench.data, frames, target.data)
        if shared is not None:
            raise ValueError(
                f"`targets` has {name!r}, of which frames are trained on, such as {shared!r}; name the source with "
                "--dataset, leave the target out, or measure on a part of it that is not trained on (split=val)."
            )


def _transfer(bench: Workbench, seed: int | None) -> list[Row]:
    model, processor = bench.load(seed or 0)
    numbers = {}
    if bench.options.max_steps:
        model, numbers = bench.train(model, processor, seed)
    rows = []
    for name, target in _targets(bench).items():
        kinds = {"LLM-MDE": target.protocol}
        if target.protocol.alignment == "none":
            kinds[ALIGNED] = get_protocol(target.protocol, alignment="median", clamp=True)
        for kind, protocol in kinds.items():
            measured = bench.measure(model, processor, target.data.load_eval(), protocol)
            rows.append({"variant": kind, "at": name, **measured, **numbers})
    return rows


def _measure_medians(bench: Workbench, seed: int | None) -> list[Row]:
    of_source = MedianDepthBaseline.fit(bench.data_of(seed).load_train(), protocol=bench.options.chosen_protocol())
    rows = []
    for name, target in _targets(bench).items():
        frames, protocol = target.data.load_eval(), target.protocol
        medians = {MEDIAN: of_source, ORACLE: MedianDepthBaseline.fit(frames, protocol=protocol)}
        rows += [
            {"variant": variant, "at": name, **bench.measure(frames=frames, protocol=protocol, predict=median)}
            for variant, median in medians.items()
        ]
    return rows


def _conditions(bench: Workbench) -> dict[str, str]:
    """Of each target the part, and the protocol where it is not that of the study."""
    conditions = {}
    for name, target in _targets(bench).items():
        part = target.data.eval_split_list or target.data.eval_split
        words = [f"part {without_place(part)}"]
        if target.protocol != bench.options.chosen_protocol():
            words += [f"{of} {value}" for of, value in target.protocol.summary().items() if of != "average"]
        conditions[name] = "; ".join(words)
    return conditions


STUDY = Study(
    "zero-shot", __doc__, ZeroShotArguments, plan, at="target", columns=("num_images",), conditions=_conditions
)
