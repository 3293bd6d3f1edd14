"""What a processor does, as data: everything that a program without it must know to read a photograph alike."""

from typing import TYPE_CHECKING, Any

import torch
from transformers.image_utils import PILImageResampling

from llm_mde.processing import DEPTH_WORDS, ImageStatistics
from llm_mde.processing.depth_image_processing_llm_mde import resized_size

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

_STATISTICS = ("minimum", "maximum", "median", "depth_word")
_MARK = "\0"  # around the names of statistics in a prompt that is taken to pieces; no text has it


def describe_images(model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor") -> dict[str, Any]:
    """
    How photographs become pixel values: `height`, `width`, `mean` and `std` (of each channel), `rescale_factor`.

    Raises:
        ValueError: If they do not all become RGB of one size, resized bilinearly, that the model takes.
    """
    image_processor = processor.image_processor
    for name, wanted in {"do_resize": True, "do_convert_rgb": True, "keep_aspect_ratio": False}.items():
        if getattr(image_processor, name) != wanted:
            raise ValueError(
                f"`processor.image_processor.{name}` is {getattr(image_processor, name)!r}, but an exported network "
                f"takes RGB of one size; set it to {wanted}."
            )
    if image_processor.resample != PILImageResampling.BILINEAR:
        raise ValueError(
            f"`processor.image_processor.resample` is {image_processor.resample!r}, and what is exported resizes "
            f"bilinearly; set it to {int(PILImageResampling.BILINEAR)}."
        )
    size = (image_processor.size["height"], image_processor.size["width"])
    height, width = resized_size(size, size, False, image_processor.ensure_multiple_of)
    model.vision_layout.grid(torch.empty(1, 3, height, width))  # refuses what does not fit
    mean, std = ([0.0] * 3, [1.0] * 3)
    if image_processor.do_normalize:
        mean, std = (
            [float(value) for value in torch.as_tensor(values, dtype=torch.float64).expand(3)]
            for values in (image_processor.image_mean, image_processor.image_std)
        )
    rescale_factor = image_processor.rescale_factor if image_processor.do_rescale else 1.0
    return {"height": height, "width": width, "mean": mean, "std": std, "rescale_factor": rescale_factor}


def describe_prompts(model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor") -> dict[str, Any] | None:
    """
    How prompts are written: `parts`, texts and at every second place the name of a statistic; `depth_words`, from near
    to far. `None` for a model that reads none.

    Raises:
        ValueError: If the tokenizer cannot be written to a file, or would have to cut some of the prompts.
    """
    if not model.config.use_prompt:
        return None
    if not processor.tokenizer.is_fast:
        raise ValueError(
            f"`processor.tokenizer` is a {type(processor.tokenizer).__name__}, which has no tokenizer.json; load it "
            "with `AutoTokenizer`, which converts it."
        )
    names = ImageStatistics(*(f"{_MARK}{name}{_MARK}" for name in _STATISTICS))
    longest, limit = _longest_prompt(processor), min(processor.max_prompt_length, model.config.max_prompt_length)
    if longest > limit:
        raise ValueError(
            f"`processor` writes prompts of up to {longest} tokens and cuts them at {limit} (`max_prompt_length`), "
            "which what is exported does not; shorten `dataset_prompt` or `task_prompt`."
        )
    return {"parts": _prompt(processor, names).split(_MARK), "depth_words": list(DEPTH_WORDS)}


def _longest_prompt(processor: "LLMMDEProcessor") -> int:
    """Tokens of the longest prompt about any photograph, each statistic being what takes most."""
    middle = {"minimum": 0, "maximum": 255, "median": 128, "depth_word": DEPTH_WORDS[0]}
    values = {name: DEPTH_WORDS if name == "depth_word" else range(256) for name in _STATISTICS}
    prompts = [
        _prompt(processor, ImageStatistics(**{**middle, name: value})) for name in values for value in values[name]
    ]
    lengths = iter([len(ids) for ids in processor.tokenizer(prompts, verbose=False)["input_ids"]])
    usual = len(processor.tokenizer(_prompt(processor, ImageStatistics(**middle)), verbose=False)["input_ids"])
    return usual + sum(max(next(lengths) - usual for _ in values[name]) for name in _STATISTICS)


def _prompt(processor: "LLMMDEProcessor", statistics: ImageStatistics) -> str:
    return processor._draft(statistics, processor.dataset_prompt, processor.camera_prompt).prompt


__all__ = ["describe_images", "describe_prompts"]
