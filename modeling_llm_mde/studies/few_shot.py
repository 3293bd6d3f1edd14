"""
The paper claims accurate depth after adaptation with "minimal supervision" (its few-shot table). Here each number of
shots is adapted from the same base for the same number of steps and of frames seen (few frames come again in a batch,
each copy augmented on its own), with subsets that are nested within a seed: 5 shots lie inside 10. The rows to beat
come from the same few frames, without a photograph: their median and their mean maps; and the base model that has seen
none of them.
"""

from dataclasses import dataclass, field, replace
from functools import partial

from .arguments import MethodStudyArguments, check_positive
from .run_log import Row
from .runner import Run, Study, Workbench, measure_constants


@dataclass
class FewShotArguments(MethodStudyArguments):
    """Flags of the study."""

    shots_list: list[int] = field(
        default_factory=lambda: [2, 5, 10, 20], metadata={"help": "Numbers of frames to adapt to."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_positive("shots_list", self.shots_list)


def plan(bench: Workbench) -> list[Run]:
    options = bench.options
    if bench.data.shots is not None:
        raise ValueError(f"`shots` is {bench.data.shots!r}; this study takes several: pass --shots_list instead.")
    most, there = max(options.shots_list), len(replace(bench.data, shots=None).load_train())
    if most > there:
        raise ValueError(f"`shots_list` has {most}, but there are {there} training frames; take no more than these.")
    runs = bench.base_runs()
    for shots in options.shots_list:
        runs += [Run(f"{shots} shots", seed, partial(_adapt, bench, shots, seed)) for seed in options.seeds]
    return runs


def _adapt(bench: Workbench, shots: int, seed: int) -> list[Row]:
    few = bench.data_of(seed, shots)
    adapted = bench.train_and_measure(*bench.load(seed), seed, data=few)
    variant = f"LLM-MDE, {bench.options.method}"
    return [{"variant": variant, "at": shots, **adapted}, *measure_constants(bench, seed, at=shots, data=few)]


STUDY = Study(
    "few-shot", __doc__, FewShotArguments, plan, at="shots", columns=("frames_seen", "train_loss", "seconds")
)
