"""
The paper claims that LoRA keeps accuracy at a fraction of the resources, with one rank, and leaves its limits open
(its second open question). Each rank (in both encoders, alpha twice the rank), full fine-tuning and frozen encoders
start from the same base and train for the same number of steps with the learning rates of their recipes. Every run has
a process of its own, so that its time and its peak memory (resident on a CPU, of tensors on a GPU) are its own.
`trained_megabytes` is what a finished adapter weighs.
"""

from dataclasses import dataclass, field
from functools import partial

from .arguments import TrainingStudyArguments, check_positive
from .run_log import Row
from .runner import Run, Study, Workbench


@dataclass
class LoraArguments(TrainingStudyArguments):
    """Flags of the study."""

    ranks: list[int] = field(default_factory=lambda: [1, 4, 16, 64], metadata={"help": "Ranks of LoRA."})

    def __post_init__(self):
        super().__post_init__()
        check_positive("ranks", self.ranks)
        if self.from_scratch:
            raise ValueError("`from_scratch` is true, but LoRA and frozen encoders need weights that know something.")


def plan(bench: Workbench) -> list[Run]:
    methods = [("lora", rank) for rank in bench.options.ranks] + [("full", None), ("frozen", None)]
    runs = [
        Run(method if rank is None else f"{method} {rank}", seed, partial(_train, bench, method, rank, seed), True)
        for method, rank in methods
        for seed in bench.options.seeds
    ]
    return [*runs, *bench.base_runs(), *bench.constant_runs()]


def _train(bench: Workbench, method: str, rank: int | None, seed: int) -> list[Row]:
    model, processor = bench.load(seed)
    variant = {"lora": "LoRA", "full": "full fine-tuning", "frozen": "frozen encoders"}[method]
    measured = bench.train_and_measure(model, processor, seed, method=method, rank=rank)
    return [{"variant": variant, "at": rank, **measured}]


STUDY = Study(
    "lora",
    __doc__,
    LoraArguments,
    plan,
    at="rank",
    columns=("trained_parameters", "trained_megabytes", "seconds", "peak_memory_mb"),
)
