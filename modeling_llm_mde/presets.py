"""Sizes of LLM-MDE to choose from: what the paper has, and one that spends less on the language model."""

from dataclasses import dataclass, field
from typing import Any

from .configuration_llm_mde import SHORT_DEFAULT_PROMPT


@dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Args:
        about (`str`): What it is, in one sentence.
        config (`dict`): Fields of [`LLMMDEConfig`].
        processor (`dict`): Arguments of [`LLMMDEProcessor`].
    """

    about: str
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)


_SHORT = {"dataset_prompt": "An everyday scene.", "task_prompt": "Depth in metres."}
_SHORT_LENGTH = 48  # tokens: a sentence of one's own about the scene still fits

PRESETS = {
    "paper": Preset("Every patch and the full prompt go through the language model."),
    "fast": Preset(
        "The language model reads patches averaged two by two, a quarter as many, and a third of the prompt.",
        config={
            "language_pooling": 2,
            "max_prompt_length": _SHORT_LENGTH,
            "default_prompt": SHORT_DEFAULT_PROMPT,
        },
        processor={"prompt_style": "short", "max_prompt_length": _SHORT_LENGTH, **_SHORT},
    ),
}


def find_preset(name: str | None) -> Preset:
    """
    The preset of this name; `None` is the paper's.

    Raises:
        ValueError: If there is none.
    """
    if name is not None and name not in PRESETS:
        raise ValueError(f"`preset` is {name!r}; choose one of {', '.join(map(repr, PRESETS))}.")
    return PRESETS[name or "paper"]


__all__ = ["PRESETS", "Preset", "find_preset"]
