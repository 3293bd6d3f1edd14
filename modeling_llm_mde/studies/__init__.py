"""Studies: what the paper claims or leaves open, put as a question, measured, and written down with its conditions."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runner import Study

# Each is a module of this package with a `STUDY`, imported when it is asked for.
STUDIES = {
    "few-shot": "how far do a few frames of a new domain lead?",
    "zero-shot": "what is left of a model on data sets it was not trained on?",
    "reprogramming": "do reprogramming and the language model help under minimal supervision?",
    "prompts": "which sentences of the prompt matter, and where the scene is complex?",
    "prototypes": "how many text prototypes are needed, and made of which words?",
    "lora": "what does the rank of LoRA cost and bring, against full fine-tuning and frozen encoders?",
    "presets": "what do the presets cost in accuracy, and save in arithmetic?",
    "resources": "what does LLM-MDE cost in time, memory and arithmetic, against a CNN with the same head?",
}


def find_study(name: str) -> "Study":
    """
    The study of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; choose one of {', '.join(STUDIES)}.")
    return importlib.import_module(f".{name.replace('-', '_')}", __name__).STUDY


__all__ = ["STUDIES", "find_study"]
