"""
The paper claims that prompts written from the pixels help, and leaves open how they cope with complex scenes (its
third open question). One trained model is measured with prompts that lack a sentence, say nothing of the image, are
missing, belong to another photograph, or name a wrong kind of scene. With `--max_steps` each variant is first
fine-tuned with its own prompts, so that what it lacks is not merely unfamiliar.

Complexity is the share of depth edges in the measured depth (`depth_complexity`). The half of the images with less of
it is "simple", the other half "complex"; between equal ones the earlier image counts as simpler.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BatchFeature

from llm_mde.evaluation import MedianDepthBaseline
from llm_mde.processing import DepthSample
from llm_mde.processing.prompting_llm_mde import PERSPECTIVES

from .arguments import MethodStudyArguments
from .run_log import Row
from .runner import MEAN_NOTE, MEDIAN, Run, Study, Workbench, without_nan

FULL, DEFAULT, NONE = "full", "the model's default prompt", "no prompt"
SHUFFLED, WRONG = "another photograph's prompt", "wrong domain sentence"
WITHOUT = {f"without the {perspective} sentence": perspective for perspective in PERSPECTIVES}
VARIANTS = (FULL, *WITHOUT, DEFAULT, NONE, SHUFFLED, WRONG)
_COLUMNS = 80
_JUMP = 1.1


@dataclass
class PromptsArguments(MethodStudyArguments):
    """Flags of the study."""

    fewest_steps: ClassVar[int] = 0

    max_steps: int = field(default=0, metadata={"help": "Steps of fine-tuning with each kind of prompt; 0 for none."})
    wrong_domain: str = field(
        default="The photograph shows the sea floor from above, taken through a microscope.",
        metadata={"help": "Sentence that is wrong about the data."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps == 0 and self.model is None:
            raise ValueError("`max_steps` is 0 and `model` not given: nothing would be trained; give one of them.")


def plan(bench: Workbench) -> list[Run]:
    options = bench.options
    runs = []
    for variant in VARIANTS:
        seeds = options.seeds if options.max_steps or variant == SHUFFLED else [None]
        runs += [Run(variant, seed, partial(_measure_variant, bench, variant, seed)) for seed in seeds]
    return [*runs, *(Run("constants", seed, partial(_measure_median, bench, seed)) for seed in bench.data_seeds)]


class OtherPrompts:
    """A processor for photographs that carry their prompt in `image.info["prompt"]`."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, images, **kwargs) -> BatchFeature:
        return self.processor(images=images, prompt=[image.info["prompt"] for image in images], **kwargs)


class NoPrompts:
    """A processor that hands on no prompt: the model reads its default one."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, images, **kwargs) -> BatchFeature:
        inputs = self.processor(images=images, **kwargs)
        return BatchFeature({name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")})


class ShuffledPrompts(Dataset):
    """
    Frames that carry the prompt of another one: the places are moved around one random circle, so that none keeps its
    own and every prompt is used once.

    Args:
        frames (`Sequence[DepthSample]`): A map-style dataset.
        num_distinct (`int`, *optional*): After how many frames the same ones come again, as in `RepeatedFrames`; by
            default all are different.
        processor ([`LLMMDEProcessor`]): Writes the prompts.
        seed (`int`): Of the circle.

    Raises:
        ValueError: If there are fewer than two different frames.
    """

    def __init__(self, frames, num_distinct: int | None = None, *, processor, seed: int):
        self.frames, self.processor = frames, processor
        self.num_distinct = len(frames) if num_distinct is None else num_distinct
        if self.num_distinct < 2:
            raise ValueError(f"`frames` has {self.num_distinct} frames; exchanging prompts takes two.")
        circle = torch.randperm(self.num_distinct, generator=torch.Generator().manual_seed(seed)).tolist()
        self.other = dict(zip(circle, circle[1:] + circle[:1], strict=True))

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.frames, "set_epoch"):
            self.frames.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> DepthSample:
        place = index % self.num_distinct
        frame, other = self.frames[index], self.frames[index - place + self.other[place]]
        image = frame.image.copy()
        (image.info["prompt"],) = self.processor(images=[other.image], return_prompt=True)["prompt"]
        return replace(frame, image=image)


def altered_processor(variant: str, processor, wrong_domain: str) -> Callable[..., BatchFeature]:
    """The processor that writes the prompts of a variant; the given one stays as it is."""
    if variant == DEFAULT:
        return NoPrompts(processor)
    if variant == SHUFFLED:
        return OtherPrompts(processor)
    altered = copy.copy(processor)
    if variant == WRONG:
        altered.dataset_prompt = wrong_domain
    elif variant in WITHOUT:
        altered.perspectives = tuple(each for each in processor.perspectives if each != WITHOUT[variant])
    return altered


def depth_complexity(depth: np.ndarray) -> float:
    """
    How broken up a scene is: among neighbours of a depth map that was thinned to about 80 columns, to the side and
    below, the share whose depths differ by more than 10 %. 0 for a map `(height, width)` in metres without measured
    neighbours; 0 there marks missing depth.
    """
    step = max(1, depth.shape[1] // _COLUMNS)
    thin = depth[step // 2 :: step, step // 2 :: step]
    jumps, pairs = 0, 0
    for first, second in ((thin[:, :-1], thin[:, 1:]), (thin[:-1], thin[1:])):
        near, far = np.minimum(first, second), np.maximum(first, second)
        pairs += int((near > 0).sum())
        jumps += int(((near > 0) & (far > _JUMP * near)).sum())
    return jumps / max(1, pairs)


def measure_halves(bench: Workbench, *evaluated: Any, **options: Any) -> dict[str, float | None]:
    """Metrics of all images, and with the endings `_simple` and `_complex` those of each half."""

    def note_complexity(sample: DepthSample, matched, row: dict[str, Any]) -> None:
        row["complexity"] = depth_complexity(sample.depth)

    result = bench.evaluate(*evaluated, on_image=note_complexity, **options)
    numbers = result.metrics
    rows = sorted((row for row in result.per_image if row["num_pixels"]), key=lambda row: row["complexity"])
    middle = (len(rows) + 1) // 2
    for ending, half in (("simple", rows[:middle]), ("complex", rows[middle:])):
        if half:
            metrics = replace(result, per_image=half).metrics
            numbers |= {f"{name}_{ending}": metrics[name] for name in result.metric_names}
            numbers[f"complexity_{ending}"] = sum(row["complexity"] for row in half) / len(half)
    return without_nan(numbers)


def _measure_variant(bench: Workbench, variant: str, seed: int | None) -> list[Row]:
    options = bench.options
    model, processor = bench.load(seed or 0)
    altered = altered_processor(variant, processor, options.wrong_domain)
    model.config.use_prompt = model.config.use_prompt and variant != NONE
    shuffle = partial(ShuffledPrompts, processor=processor, seed=seed or 0) if variant == SHUFFLED else None
    numbers = {}
    if options.max_steps:
        model, numbers = bench.train(model, processor, seed, collate_with=altered, wrap=shuffle)
    frames = bench.data.load_eval()
    measured = measure_halves(bench, model, altered, frames if shuffle is None else shuffle(frames))
    return [{"variant": variant, "at": None, **measured, **numbers}]


def _measure_median(bench: Workbench, seed: int | None) -> list[Row]:
    median = MedianDepthBaseline.fit(bench.data_of(seed).load_train(), protocol=bench.options.chosen_protocol())
    return [{"variant": MEDIAN, "at": None, **measure_halves(bench, predict=median)}]


STUDY = Study(
    "prompts",
    __doc__,
    PromptsArguments,
    plan,
    columns=("abs_rel_simple", "abs_rel_complex", "complexity_simple", "complexity_complex"),
    note=f"{MEAN_NOTE} Simple and complex: the halves of the images with less and more depth edges (share of "
    "neighbours in a map thinned to 80 columns whose depths differ by over 10 %).",
)
