"""What to know about a machine and a model before an answer can be given to a question about them."""

import os
import platform
import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

_PACKAGE = "llm-mde"
_CPUINFO = Path("/proc/cpuinfo")  # of Linux
# Settings that change what happens, of which none is a secret; of a token there is only whether one is set.
_VARIABLES = (
    "ACCELERATE_USE_CPU",
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "WORLD_SIZE",
)


def cpu_name() -> str:
    """The processor as it calls itself."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def describe_environment() -> dict[str, Any]:
    """
    The machine and what is installed on it: nothing of its user, and no secret.

    Returns:
        `dict`: `package` (version, Python, system), `machine` (processor, cores, threads, accelerators), `versions` of
        all packages that this one can use, `extras` with what each lacks, `variables` that are set, and `hub_token`,
        whether there is one.
    """
    import torch
    from huggingface_hub import get_token

    needed = defaultdict(list)  # by extra; under "" what is always needed
    for requirement in map(Requirement, requires(_PACKAGE) or []):
        marker = str(requirement.marker or "")
        needed[marker.partition("extra ==")[2].strip().strip("\"'")].append(requirement)
    versions = {each.name: _version(each.name) for group in needed.values() for each in group}
    lacking = {
        extra: [str(each.name) + str(each.specifier) for each in group if not _is_met(each, versions[each.name])]
        for extra, group in needed.items()
    }
    accelerators = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            accelerators.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.accelerator.current_accelerator(check_available=True) is not None:
        accelerators.append(str(torch.accelerator.current_accelerator()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "package": {
            "llm-mde": _version(_PACKAGE),
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "system": platform.platform(),
        },
        "machine": {
            "processor": cpu_name(),
            "cores": cores,
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "accelerators": accelerators,
            "cuda of torch": torch.version.cuda,
        },
        "versions": {name: found or "not installed" for name, found in sorted(versions.items())},
        "extras": {extra: missing for extra, missing in sorted(lacking.items()) if extra},
        "lacking": lacking.get("", []),
        "variables": {name: _without_user(os.environ[name]) for name in _VARIABLES if name in os.environ},
        "hub_token": get_token() is not None,
    }


def _without_user(value: str) -> str:
    """An address may have a name and a password in it."""
    return re.sub(r"//[^/@]*@", "//", value)


def describe_model(name_or_path: str, revision: str | None = None) -> dict[str, Any]:
    """
    What a model is and how it came about, without loading its weights or running code of its repository.

    Args:
        name_or_path (`str`): Folder or Hub id of a model or an adapter.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Returns:
        `dict`: Its kind, encoders, sizes, weights and digest; of an adapter also its base; and the record of its
        training, where `llm-mde train` has left one beside it.

    Raises:
        ValueError: If there is no such model, or its files are damaged.
    """
    from llm_mde import LLMMDEConfig
    from llm_mde.adapters_llm_mde import AdapterFiles
    from llm_mde.hub.loading import check_is_llm_mde, find_base, is_adapter
    from llm_mde.prediction_files import model_digest
    from llm_mde.public_names import without_place
    from llm_mde.training.record import RECORD_FILE, TrainingRecord

    base, base_revision, facts = name_or_path, revision, {}
    if is_adapter(name_or_path, revision):
        adapter = AdapterFiles.find(name_or_path, revision=revision)
        named = str(adapter.config.get("base_model_name_or_path") or "")
        base, base_revision = find_base(named, Path(name_or_path)), adapter.config.get("revision")
        facts = {
            "kind": f"adapter ({adapter.config.get('peft_type')})",
            "adapter weights": sum(_product(shape) for shape in adapter.shapes.values()),
            "base": without_place(named),
            "base revision": base_revision,
        }
    check_is_llm_mde(base, base_revision)
    config = LLMMDEConfig.from_pretrained(base, revision=base_revision)
    facts = {
        "name": without_place(name_or_path),
        "kind": "model",
        **facts,
        "vision encoder": config.vision_config.model_type,
        "language model": config.text_config.model_type,
        "depth": f"{config.depth_estimation_type}, {config.min_depth:g} to {config.max_depth:g} m",
        "prototypes": f"{config.num_prototypes} ({config.prototype_parametrization})",
        "language pooling": config.language_pooling,
        "format version": config.format_version,
        "digest": model_digest(name_or_path, revision, base),
    }
    place = Path(name_or_path).absolute()
    for folder in (place, *([place.parent] if place.name in ("adapter", "model") else [])):  # and not a run's base
        if place.is_dir() and (folder / RECORD_FILE).is_file():
            facts["training"] = TrainingRecord.read(folder / RECORD_FILE).to_dict()
            break
    return facts


def format_report(environment: dict[str, Any], model: dict[str, Any] | None = None) -> str:
    """Both as text, a fact a line."""
    lines = []
    for section in ("package", "machine", "versions"):
        lines += [f"{name}: {_in_words(value)}" for name, value in environment[section].items()]
        lines.append("")
    lines += [f"lacks: {each}" for each in environment["lacking"]]
    lines += [
        f"extra [{extra}]: {'complete' if not missing else 'lacks ' + ', '.join(missing)}"
        for extra, missing in environment["extras"].items()
    ]
    lines += ["", *(f"{name}={value}" for name, value in environment["variables"].items())]
    lines.append(f"Hub token: {'set' if environment['hub_token'] else 'none'}")
    if model is not None:
        training = model.get("training")
        lines += ["", *(f"{name}: {_in_words(value)}" for name, value in model.items() if name != "training")]
        if training is None:
            lines.append("training: no training.json beside it")
        else:
            data, steps = training["data"], training["optimisation"]
            changed = [
                f"{name} {then} (now {environment['versions'][name]})"
                for name, then in training["versions"].items()
                if environment["versions"].get(name, then) != then
            ]
            lines += [
                f"training: {training['method']}, {steps['steps']} steps, seed {steps['seed']}, "
                f"{training['precision']}",
                f"trained on: {data['name']} {data['split']}, {_in_words(data['num_frames'])} frames, {data['depth']}",
                f"trained by: {_in_words(training['command'])}",
                f"trained with other versions: {', '.join(changed) or 'none'}",
            ]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_met(requirement: Requirement, found: str | None) -> bool:
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


__all__ = ["cpu_name", "describe_environment", "describe_model", "format_report"]
