"""
The mechanism the paper rests on is that prototypes made of words carry depth cues; it uses a thousand of all words and
tests no other. Here everything between and behind the encoders is drawn anew for each variant, with the same depth
head for equal seeds: other numbers of prototypes; prototypes of words of depth and geometry alone, and of as many
random words, at the base's number; and the paper's map from the whole vocabulary instead of the compact one, which
starts from the very same prototypes and differs only in what AdamW makes of them. So `--counts` should have the base's
number (100 with `--from_scratch`, 1000 in the paper).
"""

from dataclasses import dataclass, field
from functools import partial

from transformers import set_seed

from .arguments import MethodStudyArguments, check_positive
from .run_log import Row
from .runner import Run, Study, Workbench
from .surgery import depth_word_ids, random_word_ids, reinitialise, resize_prototypes, restrict_prototypes


@dataclass
class PrototypesArguments(MethodStudyArguments):
    """Flags of the study."""

    counts: list[int] = field(
        default_factory=lambda: [10, 30, 100, 300, 1000, 2000],
        metadata={"help": "Numbers of prototypes, the base's among them."},
    )

    def __post_init__(self):
        super().__post_init__()
        check_positive("counts", self.counts)


ALL_WORDS, DEPTH_WORDS, RANDOM_WORDS = "all words", "depth and geometry words only", "as many random words"
VOCABULARY = "all words, vocabulary instead of compact"


def plan(bench: Workbench) -> list[Run]:
    seeds = bench.options.seeds
    runs = [
        Run(f"{count} of {ALL_WORDS}", seed, partial(_train, bench, ALL_WORDS, seed, count))
        for count in bench.options.counts
        for seed in seeds
    ]
    words = (VOCABULARY, DEPTH_WORDS, RANDOM_WORDS)
    runs += [Run(name, seed, partial(_train, bench, name, seed)) for name in words for seed in seeds]
    return [*runs, *bench.constant_runs()]


def _train(bench: Workbench, words: str, seed: int, count: int | None = None) -> list[Row]:
    model, processor = bench.load(seed)
    model.convert_prototypes("compact")
    set_seed(seed)
    reinitialise(model)
    if words in (DEPTH_WORDS, RANDOM_WORDS):
        ids = depth_word_ids(processor.tokenizer)
        if words == RANDOM_WORDS:
            ids = random_word_ids(processor.tokenizer, model.text_prototypes.vocab_size, len(ids), seed)
        restrict_prototypes(model, ids)
    else:
        resize_prototypes(model, count or model.config.num_prototypes)
        model.convert_prototypes("vocabulary" if words == VOCABULARY else "compact")
    row = {"variant": words, "at": model.config.num_prototypes, "num_words": model.text_prototypes.vocab_size}
    return [row | bench.train_and_measure(model, processor, seed)]


STUDY = Study(
    "prototypes",
    __doc__,
    PrototypesArguments,
    plan,
    at="prototypes",
    columns=("num_words", "trained_parameters", "seconds"),
)
