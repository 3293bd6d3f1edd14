"""A model becomes a folder for machines without PyTorch: a network, a tokenizer, settings, and a short program."""

import json
import logging
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tokenizers import Tokenizer

from llm_mde import __version__
from llm_mde.hub.folders import appearing_whole
from llm_mde.public_names import without_place

from .description import describe_images, describe_prompts
from .exported import SETTINGS_FILE, TOKENIZER_FILE, ExportedModel
from .formats import ExportFormat, find_format
from .int8 import LEFT_IN_FLOAT32
from .network import OUTPUT, TracedNetwork, trace
from .parity import Parity, check_parity
from .photographs import example_photographs

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

FORMAT_VERSION = 1
_MOST_TO_COMPARE = 8  # photographs
_STANDALONE = Path(__file__).parent / "standalone"


def export_model(
    folder: str | Path,
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    format: str = "onnx",
    int8: bool = False,
    photographs: Sequence[Image.Image] | None = None,
) -> Path:
    """
    Writes a model as a network that needs neither this package nor, but for `torch`, PyTorch.

    The folder has the network (any batch, any prompt, the processor's size; metres out, float32), `tokenizer.json`,
    `export.json` with all that reading a photograph takes, and `predict.py`, which does it. Before it appears, the
    network is run on photographs and compared with the model.

    Args:
        folder (`str` or `Path`): Where to write; must not exist, or be empty.
        model ([`LLMMDEForDepthEstimation`]): A metric model, float32 and on the CPU, without adapters in it.
        processor ([`LLMMDEProcessor`]): Its processor, with one size for all photographs.
        format (`str`, *optional*, defaults to `"onnx"`): `"onnx"`, `"openvino"` or `"torch"` (a `torch.export`
            program).
        int8 (`bool`, *optional*, defaults to `False`): Whether to quantise the products of matrices and weights.
        photographs (`Sequence[PIL.Image.Image]`, *optional*): By default those that came with the package. Up to
            eight of them are compared on; the others are what OpenVINO's 8 bits are found by.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If the folder exists and is not empty, the model or the processor is of a kind that cannot be
            exported, there are too few photographs, or the result differs from the model by too much.
        ImportError: If a package that the format needs is not installed.
    """
    export_format = find_format(format, int8)
    with appearing_whole(folder) as unfinished:
        write_export(unfinished, model, processor, export_format, int8, photographs)
    return Path(folder)


def write_export(
    folder: Path,
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    export_format: ExportFormat,
    int8: bool = False,
    photographs: Sequence[Image.Image] | None = None,
) -> Parity:
    """As [`export_model`], into a folder that is there; returns how the comparison came out."""
    _check_model(model)
    image, prompt = describe_images(model, processor), describe_prompts(model, processor)
    check_photographs(export_format, int8, None if photographs is None else len(photographs))
    quantises_by_them = int8 and export_format.int8_reads_photographs
    compared, others = _divide(example_photographs() if photographs is None else photographs, quantises_by_them)
    size = (image["height"], image["width"])
    with _quiet():
        network = _write_network(
            folder / export_format.model_file, model, processor, size, export_format, int8, others
        )

    for file in ("predict.py", "photographs.py"):
        shutil.copyfile(_STANDALONE / file, folder / file)
    shutil.copyfile(_STANDALONE / f"runtime_{export_format.name}.py", folder / "runtime.py")
    _write_tokenizer(folder / TOKENIZER_FILE, processor)
    versions = {name: version(name) for name in _packages(export_format, int8)}
    pinned = [f"{name}>={versions[name]}" for name in ("tokenizers", export_format.runtime)]
    needed = ["numpy", "pillow>=10.1", *pinned]
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")

    settings = {
        "format_version": FORMAT_VERSION,
        "model": without_place(model.name_or_path),
        "format": export_format.name,
        "model_file": export_format.model_file,
        "dtype": "int8" if int8 else "float32",
        "inputs": list(network.inputs),
        "output": OUTPUT,
        "unit": "metres",
        "min_depth": model.config.min_depth,
        "max_depth": model.config.max_depth,
        "image": image,
        "prompt": prompt,
        "left_in_float32": LEFT_IN_FLOAT32 if int8 else "everything",
        "photographs_quantised_by": len(others),
        "versions": {"llm-mde": __version__, "python": platform.python_version(), **versions},
    }
    _write_settings(folder, settings)
    parity = check_parity(model, processor, ExportedModel(folder), compared, int8)
    settings["parity"] = asdict(parity)
    _write_settings(folder, settings)
    return parity


def _write_network(
    path: Path,
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    size: tuple[int, int],
    export_format: ExportFormat,
    int8: bool,
    photographs: Sequence[Image.Image],
) -> TracedNetwork:
    """Writes the network; `photographs` are what 8 bits are found by, in a format that reads some."""
    try:
        network = trace(model, size)
        if not int8:
            export_format.write(network, path)
            return network
        with tempfile.TemporaryDirectory(prefix="llm-mde-") as place:
            in_float32 = Path(place, export_format.model_file)
            export_format.write(network, in_float32)
            if photographs:
                batches = [processor(images=image, return_tensors="np") for image in photographs]
                batches = [{name: batch[name] for name in network.inputs} for batch in batches]
                export_format.quantise(in_float32, path, batches)
            else:
                export_format.quantise(in_float32, path)
        return network
    except OSError:
        raise
    except Exception as error:  # tracers and converters have many ways to say what they do not know
        encoders = f"{model.config.vision_config.model_type!r} and {model.config.text_config.model_type!r}"
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ValueError(
            f"`model` is made of {encoders}, and could not be written as {export_format.name!r}: "
            f"{type(error).__name__}: {reason}"
        ) from error


def check_photographs(export_format: ExportFormat, int8: bool, count: int | None) -> None:
    """
    Args:
        export_format ([`ExportFormat`]), int8 (`bool`): What is to be written.
        count (`int`, *optional*): How many photographs there are at most; `None` without any.

    Raises:
        ValueError: If they are too few.
    """
    needed = 2 if int8 and export_format.int8_reads_photographs else 1
    if count is None and needed > 1:
        raise ValueError(
            f"`int8` is on and `format` is {export_format.name!r}, which finds its ranges by photographs; give 50 to "
            "300 of the kind that the model will see (`--calibration_data FOLDER`)."
        )
    if count is not None and count < needed:
        raise ValueError(f"`photographs` has {count} of them; give at least {needed}.")


def _divide(
    photographs: Sequence[Image.Image], quantises_by_them: bool
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Photographs to compare on, at most 8, and others to quantise by: four of five where they are few."""
    count = min(_MOST_TO_COMPARE, max(1, len(photographs) // 5)) if quantises_by_them else _MOST_TO_COMPARE
    step = -(-len(photographs) // count)
    others = [each for index, each in enumerate(photographs) if index % step] if quantises_by_them else []
    return list(photographs[::step]), others


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracers and converters, which are about their own future."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_tokenizer(path: Path, processor: "LLMMDEProcessor") -> None:
    tokenizer = Tokenizer.from_str(processor.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(path))


def _packages(export_format: ExportFormat, int8: bool) -> list[str]:
    used = ("numpy", "pillow", "tokenizers", "torch", "transformers", export_format.runtime, *export_format.packages)
    return sorted({*used, *(export_format.int8_packages if int8 else ())})


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _check_model(model: "LLMMDEForDepthEstimation") -> None:
    if model.config.depth_estimation_type != "metric":
        raise ValueError(
            "`model` predicts depth up to an unknown factor (`depth_estimation_type` is "
            f"{model.config.depth_estimation_type!r}), and what is exported promises metres; export a metric model."
        )
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(
            f"`model` is {model.dtype} on {model.device}; load it with `device='cpu', dtype='float32'` to export it."
        )


__all__ = ["FORMAT_VERSION", "check_photographs", "export_model", "write_export"]
