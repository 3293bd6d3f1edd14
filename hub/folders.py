"""Folders ready to publish: everything the other side needs, written without a network."""

import copy
import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import HFValidationError
from safetensors import SafetensorError

from llm_mde.adapters_llm_mde import ADAPTER_WEIGHTS_NAME, FINGERPRINT_KEY, base_fingerprint
from llm_mde.finite_weights_llm_mde import refuse_undefined

from .cards import CardFacts, adapter_card, model_card
from .sample_pictures import write_sample

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

ADAPTER_DTYPES = ("float32", "bfloat16", "float16")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def write_model_folder(
    folder: str | Path,
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
    card: CardFacts | None = None,
) -> Path:
    """
    Writes weights (safetensors), configuration, processor, tokenizer, the code that travels and a card (README.md)
    into one folder, which `AutoModelForDepthEstimation`, `AutoProcessor` and `pipeline` then load, with or without
    this package.

    The folder appears whole or not at all: it is written beside its place and renamed.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model ([`LLMMDEForDepthEstimation`]): The model.
        processor ([`LLMMDEProcessor`]): Its processor.
        state_dict (`Mapping[str, torch.Tensor]`, *optional*): Whole weights under the model's own names, for a model
            whose weights are sharded over processes: `accelerator.get_state_dict(model)`, called by all of them.
            By default `model.state_dict()`.
        card ([`CardFacts`], *optional*): What the card says beyond what the model itself tells; it then has a sample
            picture, too, made by the model.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, the model has adapters in it or weights that are not finite,
            the processor allows longer prompts than the model, or the photograph of the card cannot be read.
        ImportError: If the card brings a photograph, and matplotlib, which colours depth, is not installed.
        OSError: If the disk is full, or nothing may be written there.
    """
    if any(".base_layer." in name or ".original_module." in name for name, _ in model.named_parameters()):
        raise ValueError(
            "`model` has layers of an adapter in it, without which its own weights would be no model; merge them: "
            "`load_model_and_processor(adapter)` gives a merged model, and so does "
            "`PeftModel.from_pretrained(base, adapter).merge_and_unload()`."
        )
    if processor.max_prompt_length > model.config.max_prompt_length:
        raise ValueError(
            f"`processor.max_prompt_length` is {processor.max_prompt_length} but the model reads prompts of at most "
            f"{model.config.max_prompt_length} tokens; build the processor with that `max_prompt_length`."
        )
    with appearing_whole(folder) as unfinished:
        with without_shards(model):
            model.save_pretrained(unfinished, state_dict=None if state_dict is None else dict(state_dict))
        processor.save_pretrained(unfinished)
        has_sample = card is not None and _write_sample(unfinished, model, processor, state_dict, card)
        model_card(model, processor, card or CardFacts(), has_sample).save(unfinished / "README.md")
    return Path(folder)


def write_adapter_folder(
    folder: str | Path,
    model: "PeftModel",
    processor: "LLMMDEProcessor",
    dtype: str = "float32",
    state_dict: "Mapping[str, torch.Tensor] | None" = None,
    card: CardFacts | None = None,
) -> Path:
    """
    Writes an adapter (safetensors), its configuration, the processor and a card (README.md) into one folder, whole or
    not at all.

    The configuration names the base of the card, if it has one, else what the base was loaded from, a Hub repository
    with its commit. The file of the weights notes which weights the base has (see `base_fingerprint`).

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model (`peft.PeftModel`): The adapted model; its active adapter is written.
        processor ([`LLMMDEProcessor`]): Its processor.
        dtype (`str`, *optional*, defaults to `"float32"`): Type of the stored weights; `"bfloat16"` halves the file.
        state_dict (`Mapping[str, torch.Tensor]`, *optional*): Whole weights under the names of the `PeftModel`, as for
            [`write_model_folder`]; those of the base are passed over.
        card ([`CardFacts`], *optional*): As for [`write_model_folder`].

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If `folder` exists and is not empty, `dtype` is not one of `ADAPTER_DTYPES`, a weight is not
            finite, or the photograph of the card cannot be read.
        ImportError: If the card brings a photograph, and matplotlib, which colours depth, is not installed.
        OSError: If the disk is full, or nothing may be written there.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if dtype not in ADAPTER_DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; choose one of {', '.join(ADAPTER_DTYPES)}.")
    adapter = model.active_adapters[0]
    with appearing_whole(folder) as unfinished:
        weights = get_peft_model_state_dict(model, state_dict, adapter_name=adapter, save_embedding_layers=False)
        weights = {
            name: weight.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, weight in weights.items()
        }
        refuse_undefined(weights)
        metadata, whole = {"format": "pt"}, model.state_dict() if state_dict is None else state_dict
        fingerprint = base_fingerprint(whole, weights)
        if fingerprint is not None:
            metadata[FINGERPRINT_KEY] = fingerprint
        save_file(weights, unfinished / ADAPTER_WEIGHTS_NAME, metadata=metadata)
        config, base = model.peft_config[adapter], model.get_base_model()
        config.base_model_name_or_path = config.base_model_name_or_path or base.name_or_path
        if config.base_model_name_or_path == base.name_or_path:  # else it is none that was loaded here
            config.revision = _commit_of(base, config.revision) or config.revision
        stored = copy.copy(config)
        stored.inference_mode = True
        if card is not None and card.base is not None:
            stored.base_model_name_or_path, stored.revision = card.base, card.base_revision
        stored.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        has_sample = card is not None and _write_sample(unfinished, model, processor, state_dict, card)
        adapter_card(model, processor, card or CardFacts(), has_sample).save(unfinished / "README.md")
    return Path(folder)


def _commit_of(base: "LLMMDEForDepthEstimation", revision: str | None) -> str | None:
    """The commit that a base was loaded at; none where that cannot be told."""
    commit = getattr(base.config, "_commit_hash", None)  # noted by Transformers before 5.23
    if commit is None:
        commit = commit_in_cache(base.name_or_path, revision)
        if revision is None and commit is not None:
            # It may have been loaded at a revision that nobody told PEFT, which then lies in the cache as well.
            folder = Path(try_to_load_from_cache(base.name_or_path, "config.json")).parents[1]
            commit = commit if len(list(folder.iterdir())) == 1 else None
    return commit


def commit_in_cache(name: str, revision: str | None = None) -> str | None:
    """The commit that a revision of a Hub repository, by default its main branch, had when it was loaded here last."""
    if Path(name).exists():
        return None
    for file in ("adapter_config.json", "config.json"):
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent.name  # models--user--name/snapshots/<commit>/config.json
    return None


def _write_sample(
    folder: Path,
    model: "LLMMDEForDepthEstimation | PeftModel",
    processor: "LLMMDEProcessor",
    state_dict: "Mapping[str, torch.Tensor] | None",
    card: CardFacts,
) -> bool:
    if state_dict is not None:  # a forward pass of sharded weights would wait for the other processes
        from .loading import load_model_and_processor

        model, processor = load_model_and_processor(folder, device="cpu")
    return write_sample(folder, model, processor, card.photograph)


@contextmanager
def without_shards(model: "torch.nn.Module") -> Iterator[None]:
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
def appearing_whole(folder: str | Path) -> Iterator[Path]:
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
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_of_disk(error):
            raise OSError(
                f"{str(folder)!r} could not be written, and nothing of it was kept: {' '.join(str(error).split())}; "
                "free some space, or choose another folder."
            ) from error
        raise


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk that is full or may not be written to is behind an error, which PyTorch and safetensors wrap."""
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    wrapped = {SafetensorError: ("No space left", "os error"), RuntimeError: ("inline_container", "iostream error")}
    return any(isinstance(error, kind) and any(map(str(error).__contains__, signs)) for kind, signs in wrapped.items())


__all__ = [
    "ADAPTER_DTYPES",
    "appearing_whole",
    "commit_in_cache",
    "is_of_disk",
    "without_shards",
    "write_adapter_folder",
    "write_model_folder",
]
