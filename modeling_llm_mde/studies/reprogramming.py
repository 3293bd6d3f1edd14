"""
The paper's first open question. Four variants of one model, trained alike: as it is, with patches projected linearly
to the word embedding space instead of reading prototypes, with the language model and so the prompt removed
(reprogrammed patches go straight to the head), and with neither. Whatever lies between and behind the encoders is
drawn anew in all of them, also where a trained base is given, and the depth head starts from the same weights for
equal seeds; the encoders keep what they know. A CNN under the same head, trained for as many steps, says what the
encoders are worth. `--shots` makes the supervision minimal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from transformers import set_seed

from .arguments import MethodStudyArguments
from .cnn import CNNForDepthEstimation
from .run_log import Row
from .runner import Run, Study, Workbench, read_recipe
from .surgery import project_linearly, reinitialise, remove_language_model


@dataclass
class ReprogrammingArguments(MethodStudyArguments):
    """Flags of the study."""

    cnn: str = field(default="resnet18", metadata={"help": "CNN of timm for comparison."})
    pretrained_cnn: bool = field(default=False, metadata={"help": "Whether timm loads its weights from the Hub."})


VARIANTS: dict[str, tuple[Callable, ...]] = {
    "LLM-MDE": (),
    "linear projection instead of reprogramming": (project_linearly,),
    "no language model": (remove_language_model,),
    "neither reprogramming nor language model": (project_linearly, remove_language_model),
}


def plan(bench: Workbench) -> list[Run]:
    seeds = bench.options.seeds
    runs = [Run(name, seed, partial(_train_variant, bench, name, seed)) for name in VARIANTS for seed in seeds]
    runs += [Run("CNN", seed, partial(_train_cnn, bench, seed)) for seed in seeds]
    return [*runs, *bench.constant_runs()]


def _train_variant(bench: Workbench, variant: str, seed: int) -> list[Row]:
    model, processor = bench.load(seed)
    set_seed(seed)
    reinitialise(model)
    for operation in VARIANTS[variant]:
        operation(model)
    return [{"variant": variant, "at": None, **bench.train_and_measure(model, processor, seed)}]


def _train_cnn(bench: Workbench, seed: int) -> list[Row]:
    options = bench.options
    base, processor = bench.load(seed)
    set_seed(seed)
    model = CNNForDepthEstimation(base.config, options.cnn, options.pretrained_cnn)
    rates = None
    if not options.pretrained_cnn:  # random weights learn as fast as they do elsewhere
        names = ("learning_rate", "vision_learning_rate")
        rates = dict.fromkeys(names, read_recipe("from-scratch")["learning_rate"])
    variant = f"CNN ({options.cnn}, {'pretrained' if options.pretrained_cnn else 'random weights'}), same head"
    return [{"variant": variant, "at": None, **bench.train_and_measure(model, processor, seed, rates=rates)}]


STUDY = Study(
    "reprogramming", __doc__, ReprogrammingArguments, plan, columns=("train_loss", "trained_parameters", "seconds")
)
