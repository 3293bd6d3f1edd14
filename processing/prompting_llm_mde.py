"""Adaptive prompt generation: what the pixels of a photograph say, put into words for the language model.

LLM-MDE (arXiv 2409.01133) tells its language model about the data set, the task, the range of the pixel values and a
depth class read off the brightness. Everything here is a pure function: image -> histogram -> statistics -> prompt.

The depth class follows the paper: dark values count as near and bright ones as far. That is a heuristic which gives
the language model a word to start from. It is not a measurement of depth, and a photograph may well contradict it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# From near to far; the vocabulary of DepthCLIP, which the paper uses too.
DEPTH_WORDS = ("giant", "extremely close", "close", "not in distance", "a little remote", "far", "unseen")
PERSPECTIVES = ("dataset", "task", "pixel", "class")
# How the sentences on pixels and depth class are worded: 26 and 12 wordpieces of BERT.
PROMPT_STYLES = ("full", "short")

DEFAULT_DATASET_PROMPT = "The photograph shows an everyday scene, indoors or outdoors, taken with an ordinary camera."
DEFAULT_TASK_PROMPT = (
    "Task: estimate the depth of every image patch, the distance in metres from the camera along its viewing "
    "direction."
)

_NUM_LEVELS = 256
# The last level of each depth class: 36, 73, 109, 146, 182, 219, 255. Level v belongs to class 7 * v // 256.
_LAST_LEVELS = [(_NUM_LEVELS * (index + 1) - 1) // len(DEPTH_WORDS) for index in range(len(DEPTH_WORDS))]


@dataclass(frozen=True)
class ImageStatistics:
    """What a prompt says about the pixels of one image.

    Args:
        minimum (`int`): Smallest value over all pixels and channels, 0 to 255.
        maximum (`int`): Largest value, 0 to 255.
        median (`int`): Lower median, 0 to 255.
        depth_word (`str`): One of `DEPTH_WORDS`, for the fullest seventh of the value range.
    """

    minimum: int
    maximum: int
    median: int
    depth_word: str


def image_histogram(images: Tensor) -> Tensor:
    """Counts of the 256 levels of every image, all channels together.

    Args:
        images (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Either uint8, or floating point
            in [0, 1], which is quantised by `round(255 * images)` and clipped.

    Returns:
        `torch.Tensor`: int64 of shape `(batch_size, 256)`, on the device of the images.

    Raises:
        ValueError: If `images` is not a batch, holds no pixels, or has another dtype.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"`images` has shape {tuple(images.shape)}; give a batch of shape (batch_size, channels, height, width) "
            "with at least one pixel."
        )
    if images.is_floating_point():
        images = (255 * images.float()).nan_to_num().round().clamp(0, 255)
    elif images.dtype != torch.uint8:
        raise ValueError(f"`images` is {images.dtype}; give uint8 levels, or floating point values from 0 to 1.")

    batch_size = len(images)
    # Image k counts into its own 256 bins, so that one `bincount` serves the batch.
    offsets = _NUM_LEVELS * torch.arange(batch_size, device=images.device)[:, None]
    bins = images.reshape(batch_size, -1).long() + offsets
    return torch.bincount(bins.flatten(), minlength=_NUM_LEVELS * batch_size).view(batch_size, _NUM_LEVELS)


def histogram_statistics(histogram: Tensor) -> Tensor:
    """Minimum, maximum, lower median and depth class of every image, from its histogram alone.

    The depth class is the fullest of seven equal bins of the range 0 to 255 (37 or 36 values each); between equally
    full bins the nearer one wins. All four are exact integers, whatever the device or the rest of the batch.

    Args:
        histogram (`torch.Tensor` of shape `(batch_size, 256)`): Counts as returned by `image_histogram`.

    Returns:
        `torch.Tensor`: int64 of shape `(batch_size, 4)`: minimum, maximum, median, index into `DEPTH_WORDS`.
    """
    cumulative = histogram.cumsum(dim=1)
    total = cumulative[:, -1:]
    # Each is the number of values that lie below it.
    minimum = (cumulative == 0).sum(dim=1)
    maximum = (cumulative < total).sum(dim=1)
    median = (2 * cumulative < total).sum(dim=1)
    class_counts = cumulative[:, _LAST_LEVELS].diff(dim=1, prepend=torch.zeros_like(total))
    return torch.stack([minimum, maximum, median, class_counts.argmax(dim=1)], dim=1)


def read_statistics(table: Tensor) -> list[ImageStatistics]:
    """The rows of `histogram_statistics` as dataclasses; the only transfer from the device to the host."""
    return [ImageStatistics(*values, DEPTH_WORDS[index]) for *values, index in table.tolist()]


def image_statistics(images: Tensor) -> list[ImageStatistics]:
    """Statistics of every image in a batch; see `image_histogram` for what it accepts and refuses."""
    return read_statistics(histogram_statistics(image_histogram(images)))


def write_prompt(
    statistics: ImageStatistics | None,
    dataset: str = DEFAULT_DATASET_PROMPT,
    task: str = DEFAULT_TASK_PROMPT,
    camera: str | None = None,
    perspectives: Sequence[str] = PERSPECTIVES,
    style: str = "full",
) -> str:
    """One sentence per perspective, in the order of `perspectives`, and the camera's after them.

    The texts are inserted as they are: braces and percent signs mean nothing here. A text without a full stop gets
    one, a blank text is left out.

    Args:
        statistics (`ImageStatistics` or `None`): What the pixels say. `None` leaves out the sentences on pixels and
            depth class, which gives the prompt of a model called without a photograph's statistics.
        dataset (`str`, *optional*): What kind of scenes the photographs show.
        task (`str`, *optional*): What is to be predicted; also written when nothing else would be left to read.
        camera (`str`, *optional*): A hint such as `"Taken with a focal length of 35 mm."`.
        perspectives (`Sequence[str]`, *optional*): Which of "dataset", "task", "pixel" and "class" to write.
        style (`str`, *optional*, defaults to `"full"`): `"short"` says the same of pixels and depth class in half the
            words; the other texts are the caller's.

    Returns:
        `str`: The prompt, about 65 wordpieces of BERT with the default texts.

    Raises:
        ValueError: If `perspectives` is empty or names something else, `style` is unknown, or every sentence is blank.
    """
    if style not in PROMPT_STYLES:
        raise ValueError(f"`style` is {style!r}; choose 'full' or 'short'.")
    unknown = [perspective for perspective in perspectives if perspective not in PERSPECTIVES]
    if unknown or not perspectives:
        raise ValueError(f"`perspectives` is {perspectives!r}; name one or more of {', '.join(PERSPECTIVES)}.")

    sentences = {"dataset": dataset, "task": task}
    if statistics is not None and style == "full":
        sentences["pixel"] = (
            f"Pixel values range from {statistics.minimum} to {statistics.maximum} "
            f"with a median of {statistics.median}."
        )
        sentences["class"] = f"Judged by brightness, the most common depth class is {statistics.depth_word}."
    elif statistics is not None:
        sentences["pixel"] = f"Pixels {statistics.minimum} to {statistics.maximum}, median {statistics.median}."
        sentences["class"] = f"Mostly {statistics.depth_word}."
    written = [sentences[perspective] for perspective in perspectives if perspective in sentences]
    written = [sentence for sentence in [*written, camera] if sentence and not sentence.isspace()] or [task]
    prompt = " ".join(
        sentence if sentence.rstrip().endswith((".", "!", "?")) else f"{sentence}." for sentence in written
    )
    if not prompt.strip(" ."):
        raise ValueError("`task` is blank and no other sentence is left for the prompt; give it a text.")
    return prompt


__all__ = [
    "DEFAULT_DATASET_PROMPT",
    "DEFAULT_TASK_PROMPT",
    "DEPTH_WORDS",
    "PERSPECTIVES",
    "PROMPT_STYLES",
    "ImageStatistics",
    "histogram_statistics",
    "image_histogram",
    "image_statistics",
    "read_statistics",
    "write_prompt",
]
