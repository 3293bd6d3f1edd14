"""A new model from two pretrained encoders, with the processor that fits them."""

from typing import TYPE_CHECKING

from transformers.utils import logging

from llm_mde.presets import find_preset

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

logger = logging.get_logger(__name__)


def compose_from_encoders(
    vision: str,
    language: str,
    height: int | None = None,
    width: int | None = None,
    preset: str | None = None,
    **overrides,
) -> tuple["LLMMDEForDepthEstimation", "LLMMDEProcessor"]:
    """
    A new model out of two pretrained encoders, with a processor that normalises as the vision encoder was trained.

    Args:
        vision, language (`str`): Folders or Hub ids.
        height, width (`int`, *optional*): Pixels the model reads; by default the vision encoder's own.
        preset (`str`, *optional*): One of `PRESETS`; the paper's by default.
        overrides: Fields of [`LLMMDEConfig`].

    Raises:
        ValueError: If one of the encoders cannot be loaded, or the language model has no tokenizer that knows words.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEImageProcessor, LLMMDEProcessor

    chosen = find_preset(preset)
    try:
        model = LLMMDEForDepthEstimation.from_vision_text_pretrained(vision, language, **(chosen.config | overrides))
    except OSError as error:
        raise ValueError(
            f"`vision_model` is {vision!r} and `language_model` {language!r}, of which one is no folder and cannot be "
            f"had from the Hub: {' '.join(str(error).split())} Without any, train with --recipe from-scratch."
        ) from error
    options = {}
    try:
        of_encoder = AutoImageProcessor.from_pretrained(vision)
        described = getattr(of_encoder, "data_config", None) or vars(of_encoder)
        mean, std = (described.get(f"image_{name}", described.get(name)) for name in ("mean", "std"))
        if mean is not None and std is not None:
            options = {"image_mean": list(mean), "image_std": list(std)}
    except (OSError, ValueError, KeyError):
        logger.warning(f"{vision!r} has no image processor; colours are normalised to -1 ... 1.")
    own_size = getattr(model.config.vision_config, "image_size", 224)
    own_height, own_width = (own_size, own_size) if isinstance(own_size, int) else own_size
    image_processor = LLMMDEImageProcessor(
        size={"height": height or own_height, "width": width or own_width}, **options
    )
    way_out = "save its tokenizer there with `tokenizer.save_pretrained`, or name another language model."
    try:
        tokenizer = AutoTokenizer.from_pretrained(language)
    except (OSError, ValueError) as error:
        raise ValueError(f"`language_model` is {language!r}, whose tokenizer does not load; {way_out}") from error
    wording = {**chosen.processor, "max_prompt_length": model.config.max_prompt_length}
    processor = LLMMDEProcessor(image_processor, tokenizer, **wording)
    # Where a folder has no tokenizer, Transformers 5.23 makes one up that knows special tokens alone.
    if not set(processor.default_prompt_ids()) - set(tokenizer.all_special_ids):
        raise ValueError(
            f"`language_model` is {language!r}, whose tokenizer ({len(tokenizer)} tokens) knows no word of the "
            f"prompt; {way_out}"
        )
    return model, processor


__all__ = ["compose_from_encoders"]
