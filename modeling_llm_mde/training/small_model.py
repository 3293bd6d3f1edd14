"""LLM-MDE in small: every part of the paper at a size that two CPU cores train from random weights in minutes."""

import string
from typing import TYPE_CHECKING

from llm_mde.presets import Preset, find_preset
from llm_mde.processing import DEPTH_WORDS, ImageStatistics, LLMMDEImageProcessor, LLMMDEProcessor, write_prompt

if TYPE_CHECKING:
    from transformers import BertTokenizer

    from llm_mde import LLMMDEForDepthEstimation


def build_tokenizer(preset: Preset | None = None) -> "BertTokenizer":
    """A WordPiece tokenizer with every word that a preset's prompts are written in (the paper's by default); other
    words are spelled letter by letter."""
    from transformers import BertTokenizer

    texts = find_preset(None).processor if preset is None else preset.processor
    names = {"dataset_prompt": "dataset", "task_prompt": "task", "prompt_style": "style"}
    wording = {argument: texts[name] for name, argument in names.items() if name in texts}
    prompts = " ".join(write_prompt(ImageStatistics(0, 0, 0, word), **wording) for word in DEPTH_WORDS).lower()
    words = "".join(letter if letter.isalnum() else " " for letter in prompts).split()
    letters = string.ascii_lowercase + string.digits
    vocabulary = [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *dict.fromkeys([*letters, *string.punctuation, *(f"##{letter}" for letter in letters)]),
        *(str(level) for level in range(10, 256)),
        *sorted({word for word in words if len(word) > 1 and not word.isdigit()}),
    ]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=512)


def compose_small_model(
    height: int = 96, width: int = 128, max_depth: float = 10.0, preset: str | None = None, **overrides
) -> tuple["LLMMDEForDepthEstimation", LLMMDEProcessor]:
    """
    A ViT of six layers, a BERT of three, 100 prototypes and the depth head, all random, with their processor.

    Args:
        height, width (`int`, *optional*, defaults to 96 and 128): Pixels the model reads; multiples of 16.
        max_depth (`float`, *optional*, defaults to 10.0): Farthest depth it can say, in metres.
        preset (`str`, *optional*): One of `PRESETS`; the paper's by default.
        overrides: Other fields of [`LLMMDEConfig`].

    Returns:
        `tuple[LLMMDEForDepthEstimation, LLMMDEProcessor]`: 4.4 M weights.
    """
    from transformers import BertConfig, ViTConfig

    from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation

    chosen = find_preset(preset)
    images = LLMMDEImageProcessor(size={"height": height, "width": width})
    processor = LLMMDEProcessor(images, build_tokenizer(chosen), **chosen.processor)
    config = LLMMDEConfig(
        vision_config=ViTConfig(
            image_size=max(height, width),
            patch_size=16,
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=3,
            intermediate_size=576,
        ),
        text_config=BertConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=192,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=576,
            hidden_dropout_prob=0.0,  # of a few words, so often seen that there is nothing to learn by heart
            attention_probs_dropout_prob=0.0,
        ),
        max_depth=max_depth,
        default_prompt_ids=processor.default_prompt_ids(),
        **{"num_prototypes": 100, "head_hidden_sizes": [96, 64, 48, 24, 8], **chosen.config, **overrides},
    )
    return LLMMDEForDepthEstimation(config), processor


__all__ = ["build_tokenizer", "compose_small_model"]
