"""
The paper claims low losses across domains without adaptation (its zero-shot table). A model is measured as it is, or
trained here first, on its own evaluation frames and on every other data set. Beside it stand the median depth of the
training frames, each target's own median, which nobody without the target's depth can know (an oracle), and the same
model with its median aligned to each image's: the error that remains then is shape, the rest was scale.
"""

import csv
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from llm_mde.evaluation import MedianDepthBaseline, get_protocol

from .arguments import MethodStudyArguments
from .run_log import Row, without_place
from .runner import MEDIAN, Run, Study, Workbench


@dataclass
class ZeroShotArguments(MethodStudyArguments):
    """Flags of the study."""

    fewest_steps: ClassVar[int] = 0

    max_steps: int = field(default=0, metadata={"help": "Steps of training on --dataset before; 0 for none."})
    targets: list[str] = field(
        default_factory=list,
        metadata={"help": "Data sets to measure on: of index.csv by name (all others by default), or folders."},
    )
    target_split: str = field(default="all", metadata={"help": "Part of the targets; nothing of them was trained on."})

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps == 0 and self.model is None:
            raise ValueError("`max_steps` is 0 and `model` not given: nothing would be trained; give one of them.")


def plan(bench: Workbench) -> list[Run]:
    options = bench.options
    listing = ", ".join(_targets(bench))  # refuses unknown names before anything is trained
    seeds = options.seeds if options.max_steps else [None]
    runs = [Run(f"LLM-MDE on {listing}", seed, partial(_transfer, bench, seed)) for seed in seeds]
    return [*runs, Run(f"medians on {listing}", None, partial(_measure_medians, bench))]


def _targets(bench: Workbench) -> dict[str, object]:
    """The data arguments of each data set to measure on, by name; first the one that was trained on."""
    data = bench.data
    own = data.dataset or str(without_place(data.data))
    index = Path(data.data or "") / "index.csv"
    known: list[str] = []
    if index.is_file():
        with index.open(newline="", encoding="utf-8-sig") as lines:
            known = list(dict.fromkeys(row.get("dataset") for row in csv.DictReader(lines)))
    others = [name for name in known if name != data.dataset] if data.dataset else []
    found = {f"{own} (source)": data}
    for target in bench.options.targets or others:
        if target in known:
            changes = {"dataset": target}
        elif Path(target).exists() or "/" in target:
            changes = {"data": target, "dataset": None, "layout": None, "eval_split_list": None}
        else:
            raise ValueError(f"`targets` has {target!r}, which is no folder and not one of {', '.join(known)}.")
        name = str(without_place(target))
        if name in found:
            raise ValueError(f"`targets` has two data sets called {name!r}; rename a folder, or leave one out.")
        found[name] = replace(data, eval_split=bench.options.target_split, **changes)
    if len(found) == 1:
        raise ValueError(
            "`targets` is not given, and there is no index.csv with another data set than `dataset`; name some."
        )
    return found


def _transfer(bench: Workbench, seed: int | None) -> list[Row]:
    model, processor = bench.load(seed or 0)
    numbers = {}
    if bench.options.max_steps:
        model, numbers = bench.train(model, processor, seed)
    protocol = bench.options.chosen_protocol()
    kinds = {"LLM-MDE": protocol}
    if protocol.alignment == "none":
        kinds["LLM-MDE, median aligned to each image"] = get_protocol(protocol, alignment="median")
    return [
        {"variant": kind, "at": name, **bench.measure(model, processor, data.load_eval(), each), **numbers}
        for name, data in _targets(bench).items()
        for kind, each in kinds.items()
    ]


def _measure_medians(bench: Workbench) -> list[Row]:
    of_source = MedianDepthBaseline.fit(bench.data.load_train())
    rows = []
    for name, data in _targets(bench).items():
        frames = data.load_eval()
        medians = {MEDIAN: of_source, "median depth of the target (oracle)": MedianDepthBaseline.fit(frames)}
        rows += [{"variant": v, "at": name, **bench.measure(frames=frames, predict=m)} for v, m in medians.items()]
    return rows


STUDY = Study("zero-shot", __doc__, ZeroShotArguments, plan, at="target", columns=("num_images",))
