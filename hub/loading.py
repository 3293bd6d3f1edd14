"""From a name to a model that predicts: a folder or a Hub repository, with all weights or with an adapter alone."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.adapters_llm_mde import AdapterFiles

logger = logging.get_logger(__name__)


def load_model_and_processor(
    name_or_path: str | Path,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> tuple[LLMMDEForDepthEstimation, LLMMDEProcessor]:
    """
    Loads a model or an adapter, and the processor that belongs to it, with the classes of this package: no code of the
    repository is run.

    An adapter (whatever holds an `adapter_config.json`) is put on the base that it names, at the revision that it
    names, and merged into it, so that the result is an ordinary model either way. A base folder that is not where the
    adapter says is looked for beside the adapter: a relative name from its folder and from the one above, and the
    `base` that a training has written next to it, so that both can be moved together.

    Args:
        name_or_path (`str` or `Path`): Model folder, adapter folder, or Hub id of either.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id; defaults to its main branch.
        device (`str` or `torch.device`, *optional*): Where the model goes; defaults to the accelerator if there is
            one, else the CPU.
        dtype (`torch.dtype` or `str`, *optional*): Type of the weights, such as `"bfloat16"`; defaults to the type
            they were saved in. Depth is float32 in any case.

    Returns:
        `tuple[LLMMDEForDepthEstimation, LLMMDEProcessor]`: The model in evaluation mode. The processor is the
        adapter's if it was saved beside it, else the base's.

    Raises:
        ValueError: If there is no such folder or repository, it holds another kind of model, weights are missing or
            pickled, the adapter's base cannot be found or is another than it was made for, or there is no such device.
        ImportError: If `name_or_path` is an adapter and PEFT is not installed.
    """
    name, device = str(name_or_path), _device(device)
    if not is_adapter(name, revision):
        model = _load_whole(name, revision, dtype)
        processor = _load_processor(name, revision)
    else:
        model, processor = _load_adapter(name, revision, dtype)
    return model.to(device).eval(), processor


def is_adapter(name_or_path: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository holds an adapter, not a whole model; also `False` where there is neither."""
    return _find(str(name_or_path), "adapter_config.json", revision) is not None


def check_is_llm_mde(name: str, revision: str | None = None) -> None:
    """
    Raises:
        ValueError: If there is no such folder or repository, or it holds another kind of model.
    """
    try:
        config, _ = LLMMDEConfig.get_config_dict(name, revision=revision)
        kind = config.get("model_type")
    except Exception as error:  # of JSON that is no object, or nested without end, whatever Python runs into
        reason = f"{type(error).__name__}: {_one_line(error)}"
        if _find(name, "config.json", revision) is not None:
            raise ValueError(f"`name_or_path` is {name!r}, whose config.json cannot be read: {reason}") from error
        raise ValueError(
            f"`name_or_path` is {name!r}: there is no such folder, and no such Hub repository can be reached: {reason}"
        ) from error
    if kind != LLMMDEConfig.model_type:
        found = f"holds a {kind!r} model" if kind is not None else "has no config.json"
        raise ValueError(
            f"`name_or_path` is {name!r}, which {found}; give a folder or Hub id that `LLMMDEForDepthEstimation` was "
            "saved to, or an adapter on one."
        )


def _load_whole(name: str, revision: str | None, dtype: torch.dtype | str | None) -> LLMMDEForDepthEstimation:
    check_is_llm_mde(name, revision)
    _check_weights(name, revision)
    options = {} if dtype is None else {"dtype": dtype}
    try:
        model, report = LLMMDEForDepthEstimation.from_pretrained(
            name, revision=revision, output_loading_info=True, **options
        )
    except OSError as error:
        raise ValueError(f"`name_or_path` is {name!r}, whose weights do not load: {_one_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"`name_or_path` is {name!r}, where {len(missing)} weights are missing, the first {missing[0]!r}; save "
            "the whole model with `save_pretrained`."
        )
    return model


def _check_weights(name: str, revision: str | None) -> None:
    """Compares the shapes that the weights have with those that config.json asks for, before anything is allocated.

    By the names that both have: Transformers reads some weights under the names of its earlier versions, too.

    Raises:
        ValueError: If a file is damaged, a shape differs, or no model can be built as config.json says.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(name, revision):
        try:
            with safe_open(file, "pt") as weights:
                shapes |= {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors has one of its own, which is derived from nothing narrower
            raise ValueError(
                f"`name_or_path` is {name!r}, whose {Path(file).name} is cut short or no safetensors file "
                f"({_one_line(error)}); download it again (`git lfs pull` where it was cloned), or save the model "
                "again with `save_pretrained`."
            ) from error
    if not shapes:
        return  # `from_pretrained` says what is missing
    no_model = f"`name_or_path` is {name!r}, whose config.json describes no model that can be built"
    try:
        config = LLMMDEConfig.from_pretrained(name, revision=revision)
    except ValueError:  # says itself which field it is about
        raise
    except Exception as error:  # a field may have any name, also one that Python has taken
        raise ValueError(f"{no_model}: {type(error).__name__}: {_one_line(error)}") from error
    num_layers = sum(getattr(each, "num_hidden_layers", 0) for each in (config.vision_config, config.text_config))
    if num_layers > len(shapes):
        raise ValueError(f"{no_model}: it has {num_layers} layers, but there are {len(shapes)} weights.")
    try:
        with torch.device("meta"):
            expected = {key: tuple(each.shape) for key, each in LLMMDEForDepthEstimation(config).state_dict().items()}
    except Exception as error:
        raise ValueError(f"{no_model}: {type(error).__name__}: {_one_line(error)}") from error
    for key in sorted(shapes.keys() & expected.keys()):
        if shapes[key] != expected[key]:
            raise ValueError(
                f"`name_or_path` is {name!r}, where {key!r} is {shapes[key]} in the weights and {expected[key]} in "
                "config.json; the two are of different models."
            )


def _weight_files(name: str, revision: str | None) -> list[str]:
    whole = _find(name, SAFE_WEIGHTS_NAME, revision)
    if whole is not None:
        return [whole]
    index = _find(name, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        return []
    try:
        files = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
        # Names that lead elsewhere are none of the folder's.
        return [file for each in files if (file := _find(name, Path(each).name, revision)) is not None]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`name_or_path` is {name!r}, whose {SAFE_WEIGHTS_INDEX_NAME} cannot be used: {type(error).__name__}: "
            f"{_one_line(error)}; download it again, or save the model again."
        ) from error


def _load_adapter(
    name: str, revision: str | None, dtype: torch.dtype | str | None
) -> tuple[LLMMDEForDepthEstimation, LLMMDEProcessor]:
    adapter = AdapterFiles.find(name, revision=revision)  # refuses without PEFT

    from peft import PeftModel

    base, base_revision = adapter.config.get("base_model_name_or_path"), adapter.config.get("revision")
    if not base:
        raise ValueError(
            f"`name_or_path` is {name!r}, an adapter whose adapter_config.json has no `base_model_name_or_path`; "
            "write the folder or the Hub id of its base there."
        )
    base = find_base(base, Path(name))
    try:
        model = _load_whole(base, base_revision, dtype)
    except ValueError as error:
        raise ValueError(
            f"`name_or_path` is {name!r}, an adapter on the base {base!r} (`base_model_name_or_path` in its "
            f"adapter_config.json), which does not load: {error}"
        ) from error
    adapter.check_fits(model)
    adapted = PeftModel.from_pretrained(model, str(adapter.folder))
    has_processor = _find(name, "processor_config.json", revision) is not None
    processor = _load_processor(name, revision) if has_processor else _load_processor(base, base_revision)
    # What the adapter saved whole is float32 or what it was trained in; the merged model has one type.
    return adapted.merge_and_unload().to(model.dtype), processor


def find_base(base: str, adapter: Path) -> str:
    """Where the base of an adapter lies now: as named, or beside the adapter."""
    if Path(base).is_dir():
        return base
    if not Path(base).is_absolute():
        places = [adapter / base, adapter.parent / base]
    else:
        places = [adapter.parent / "base"] if Path(base).name == "base" else []
    for place in places:
        if (place / "config.json").is_file():
            logger.warning(f"The base {base!r} of the adapter {str(adapter)!r} is not there; taking {str(place)!r}.")
            return str(place)
    return base


def _load_processor(name: str, revision: str | None) -> LLMMDEProcessor:
    try:
        return LLMMDEProcessor.from_pretrained(name, revision=revision)
    except Exception as error:  # of damaged files whatever the tokenizer or Python runs into
        raise ValueError(
            f"`name_or_path` is {name!r}, which has a model but no processor that loads; save one beside it with "
            f"`LLMMDEProcessor.save_pretrained`: {type(error).__name__}: {_one_line(error)[:500]}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _find(name: str, file: str, revision: str | None) -> str | None:
    try:
        return cached_file(name, file, revision=revision)
    except OSError:
        return None


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`device` is {str(device)!r}, which this machine does not have: {reason}") from error


__all__ = ["check_is_llm_mde", "find_base", "is_adapter", "load_model_and_processor"]
