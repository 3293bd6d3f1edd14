"""The three file formats: what each needs, and how a traced network becomes one."""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .int8 import quantise_onnx, quantise_openvino
from .network import OUTPUT, TracedNetwork

# A protobuf ends at 2 GiB: from here on the weights of an ONNX network lie in a second file beside it.
LARGEST_ONNX = 1_500_000_000  # bytes


@dataclass(frozen=True)
class ExportFormat:
    """One way to write a network.

    Attributes:
        name (`str`): What the command calls it.
        model_file (`str`): Name of the file that its runtime opens.
        runtime (`str`): The package that runs it.
        write (`Callable`): Writes a [`TracedNetwork`] to a path.
        packages (`tuple[str, ...]`): What writing needs beyond this package's own dependencies.
        quantise (`Callable`, *optional*): Writes the network of one path to another one with 8 bits; `None` where
            there is no such thing.
        int8_packages (`tuple[str, ...]`): What that needs besides.
        int8_reads_photographs (`bool`): Whether `quantise` also takes the batches of photographs.
    """

    name: str
    model_file: str
    runtime: str
    write: Callable[[TracedNetwork, Path], None]
    packages: tuple[str, ...] = ()
    quantise: Callable[..., None] | None = None
    int8_packages: tuple[str, ...] = ()
    int8_reads_photographs: bool = False


def find_format(name: str, int8: bool = False) -> ExportFormat:
    """
    The format of this name.

    Args:
        name (`str`): One of `FORMATS`.
        int8 (`bool`, *optional*, defaults to `False`): Whether it shall be written with 8 bits.

    Raises:
        ValueError: If there is none, or it has no 8 bits.
        ImportError: If a package that it needs is not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"`format` is {name!r}; choose one of {', '.join(FORMATS)}.")
    found = FORMATS[name]
    if int8 and found.quantise is None:
        others = [other.name for other in FORMATS.values() if other.quantise is not None]
        raise ValueError(
            f"`int8` is on but `format` is {name!r}, which is written in float32 alone; choose {' or '.join(others)}."
        )
    wanted = (*found.packages, *(found.int8_packages if int8 else ()))
    missing = [package for package in wanted if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"`format` {name!r} needs {', '.join(missing)}: pip install {' '.join(missing)}.")
    return found


def _write_torch(network: TracedNetwork, path: Path) -> None:
    torch.export.save(network.program, path)


def _write_onnx(network: TracedNetwork, path: Path) -> None:
    program = torch.onnx.export(
        network.program,
        dynamo=True,
        input_names=list(network.inputs),
        output_names=[OUTPUT],
        dynamic_shapes=network.free_axes,  # the program knows which they are; these are their names
        verbose=False,
    )
    program.save(path, external_data=network.num_bytes > LARGEST_ONNX)


def _write_openvino(network: TracedNetwork, path: Path) -> None:
    import openvino

    # OpenVINO's own converter from PyTorch gives the same network, and tells its makers of it over the network.
    with tempfile.TemporaryDirectory(prefix="llm-mde-") as folder:
        _write_onnx(network, Path(folder, "model.onnx"))
        openvino.save_model(openvino.Core().read_model(Path(folder, "model.onnx")), path, compress_to_fp16=False)


FORMATS = {
    each.name: each
    for each in (
        ExportFormat(
            "onnx",
            "model.onnx",
            "onnxruntime",
            _write_onnx,
            packages=("onnx", "onnxscript", "onnxruntime"),
            quantise=quantise_onnx,
        ),
        ExportFormat(
            "openvino",
            "model.xml",
            "openvino",
            _write_openvino,
            packages=("onnx", "onnxscript", "openvino"),
            quantise=quantise_openvino,
            int8_packages=("nncf",),
            int8_reads_photographs=True,
        ),
        ExportFormat("torch", "model.pt2", "torch", _write_torch),
    )
}

__all__ = ["FORMATS", "LARGEST_ONNX", "ExportFormat", "find_format"]
