"""Folders ready to publish: everything the other side needs, written without a network."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

ADAPTER_DTYPES = ("float32", "bfloat16", "float16")


def write_model_folder(
    folder: str | Path,
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
) -> Path:
    """
    Writes weights (safetensors), configuration, processor, tokenizer and the code that travels into one folder, which
    `AutoModelForDepthEstimation`, `AutoProcessor` and `pipeline` then load, with or without this package.

    The folder appears whole or not at all: it is written beside its place and renamed.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model ([`LLMMDEForDepthEstimation`]): The model.
        processor ([`LLMMDEProcessor`]): Its processor.
        state_dict (`Mapping[str, torch.Tensor]`, *optional*): Whole weights under the model's own names, for a model
            whose weights are sharded over processes: `accelerator.get_state_dict(model)`, called by all of them.
            By default `model.state_dict()`.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, or the processor allows longer prompts than the model.
    """
    if processor.max_prompt_length > model.config.max_prompt_length:
        raise ValueError(
            f"`processor.max_prompt_length` is {processor.max_prompt_length} but the model reads prompts of at most "
            f"{model.config.max_prompt_length} tokens; build the processor with that `max_prompt_length`."
        )
    with _appearing_whole(folder) as unfinished:
        with _without_shards(model):
            model.save_pretrained(unfinished, state_dict=None if state_dict is None else dict(state_dict))
        processor.save_pretrained(unfinished)
    return Path(folder)


def write_adapter_folder(
    folder: str | Path,
    model: "PeftModel",
    processor: "LLMMDEProcessor",
    dtype: str = "float32",
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
) -> Path:
    """
    Writes an adapter (safetensors), its configuration and the processor into one folder, whole or not at all.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model (`peft.PeftModel`): The adapted model; its active adapter is written.
        processor ([`LLMMDEProcessor`]): Its processor.
        dtype (`str`, *optional*, defaults to `"float32"`): Type of the stored weights; `"bfloat16"` halves the file.
        state_dict (`Mapping[str, torch.Tensor]`, *optional*): Whole weights under the names of the `PeftModel`, as for
            [`write_model_folder`]; those of the base are passed over.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, or `dtype` is not one of `ADAPTER_DTYPES`.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if dtype not in ADAPTER_DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; choose one of {', '.join(ADAPTER_DTYPES)}.")
    adapter = model.active_adapters[0]
    with _appearing_whole(folder) as unfinished:
        weights = get_peft_model_state_dict(model, state_dict, adapter_name=adapter, save_embedding_layers=False)
        weights = {
            name: weight.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, weight in weights.items()
        }
        save_file(weights, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        config = model.peft_config[adapter]
        trained, config.inference_mode = config.inference_mode, True
        config.base_model_name_or_path = config.base_model_name_or_path or model.get_base_model().name_or_path
        config.save_pretrained(unfinished)
        config.inference_mode = trained
        processor.save_pretrained(unfinished)
    return Path(folder)


@contextmanager
def _without_shards(model: "torch.nn.Module") -> Iterator[None]:
    """Gives a sharded model its own class back for a while: the code of FSDP's would be written in its place."""
    from torch import distributed

    current = own = type(model)
    if distributed.is_available() and distributed.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            own = current.__mro__[current.__mro__.index(FSDPModule) + 1]
    try:
        model.__class__ = own
        yield
    finally:
        model.__class__ = current


@contextmanager
def _appearing_whole(folder: str | Path) -> Iterator[Path]:
    """A folder to write into, beside its place; renamed at the end, removed after a failure."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`folder` is {str(folder)!r}, which exists and is not empty; give a new one, or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


__all__ = ["ADAPTER_DTYPES", "write_adapter_folder", "write_model_folder"]
