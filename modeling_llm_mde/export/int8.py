"""Post-training quantisation to 8 bits of the products of matrices and weights, which are 19 of 20 operations.

Weights take half of the range of 8 bits. CPUs without VNNI, as small machines have, add two products of 8 bits in 16
bits before they widen the sum, and what does not fit is clipped there, silently.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Node, Output

Batch = dict[str, np.ndarray]  # what the network reads, by name

# Convolutions in 8 bits cost most of the accuracy and save little: the head makes metres of small differences.
LEFT_IN_FLOAT32 = (
    "convolutions and interpolation (patches, image stem, depth head and logits), attention, normalisation"
)


def quantise_onnx(source: Path, destination: Path) -> None:
    """
    Quantises an ONNX network with ONNX Runtime: weights and word embeddings now, activations in each run by their own
    range, which takes no photographs and was nearer to float32 than ranges that photographs had given.

    Args:
        source (`Path`), destination (`Path`): Files of the network; two different ones.
    """
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        source,
        destination,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        per_channel=True,
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=Path(f"{source}.data").exists(),
    )


def quantise_openvino(source: Path, destination: Path, batches: list[Batch]) -> None:
    """
    Quantises an OpenVINO network with NNCF: weights, and activations by the ranges that they have in photographs.

    Args:
        source (`Path`), destination (`Path`): Files of the network, `.xml`; two different ones.
        batches (`list[Batch]`): What the network read of the photographs.
    """
    import openvino

    with _environment(NNCF_CI="1"):  # else it tells its makers, over the network, what it is used for
        import nncf

    network = openvino.Core().read_model(source)
    ignored = [node.get_friendly_name() for node in network.get_ordered_ops() if _stays_in_float32(node)]
    unsmoothed = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)  # it took the depth farther away
    quantised = nncf.quantize(
        network,
        nncf.Dataset(batches),
        subset_size=len(batches),
        target_device=nncf.TargetDevice.CPU,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=ignored),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE, smooth_quant_alphas=unsmoothed
        ),
    )
    openvino.save_model(quantised, destination, compress_to_fp16=False)


def _stays_in_float32(node: "Node") -> bool:
    if node.get_type_name() == "MatMul":
        return not any(_is_weight(source) for source in node.input_values())
    return node.get_type_name() in ("Convolution", "GroupConvolution", "Interpolate")


def _is_weight(source: "Output") -> bool:
    node = source.get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Transpose", "Unsqueeze"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


__all__ = ["LEFT_IN_FLOAT32", "Batch", "quantise_onnx", "quantise_openvino"]
