"""
The paper's first open question. Four variants of one model, trained alike: as it is, with patches projected linearly
to the word embedding space instead of reading prototypes, with the language model and so the prompt removed
(reprogrammed patches go straight to the head), and with neither. Whatever lies between and behind the encoders is
drawn anew in all of them, also where a trained base is given, and the depth head starts from the same weights for
equal seeds; the encoders keep what they know. A CNN under the same head, trained for as many steps with the same
loss, says what the encoders are worth; with random weights it has the learning rates, weight decay and schedule of the
recipe from-scratch. `--shots` makes the supervision minimal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from transformers import set_seed

from .arguments import MethodStudyArguments
from .cnn import CNNForDepthEstimation
from .run_log import Row
from .runner import Run, Study, Workbench
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
    images = processor.image_processor
    normalised_with = (images.image_mean, images.image_std) if options.pretrained_cnn else None
    model = CNNForDepthEstimation(base.config, options.cnn, options.pretrained_cnn, normalised_with)
    optimise_as = None if options.pretrained_cnn else "from-scratch"
    variant = f"CNN ({options.cnn}, {'pretrained' if options.pretrained_cnn else 'random weights'}), same head"
    numbers = bench.train_and_measure(model, processor, seed, optimise_as=optimise_as)
    return [{"variant": variant, "at": None, **numbers}]


STUDY = Study(
    "reprogramming", __doc__, ReprogrammingArguments, plan, columns=("train_loss", "trained_parameters", "seconds")
)
