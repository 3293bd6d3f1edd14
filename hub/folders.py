"""Folders ready to publish: everything the other side needs, written without a network."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor


def write_model_folder(folder: str | Path, model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor") -> Path:
    """
    Writes weights (safetensors), configuration, processor, tokenizer and the code that travels into one folder, which
    `AutoModelForDepthEstimation`, `AutoProcessor` and `pipeline` then load, with or without this package.

    The folder appears whole or not at all: it is written beside its place and renamed.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model ([`LLMMDEForDepthEstimation`]): The model.
        processor ([`LLMMDEProcessor`]): Its processor.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, or the processor allows longer prompts than the model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`folder` is {str(folder)!r}, which exists and is not empty; give a new one, or remove it.")
    if processor.max_prompt_length > model.config.max_prompt_length:
        raise ValueError(
            f"`processor.max_prompt_length` is {processor.max_prompt_length} but the model reads prompts of at most "
            f"{model.config.max_prompt_length} tokens; build the processor with that `max_prompt_length`."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


__all__ = ["write_model_folder"]
