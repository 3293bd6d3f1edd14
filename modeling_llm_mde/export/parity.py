"""How far the depth of an exported network is from the model's, on photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .exported import ExportedModel

if TYPE_CHECKING:
    from transformers import BatchFeature

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

# Relative to the model's depth. Float32 networks differ by the order of their sums, some 1e-6 at the paper's sizes;
# what 8 bits cost depends on the model, and on what it was trained for: above this nobody would call it the same.
LARGEST_DIFFERENCE = 1e-3  # of any pixel, float32
LARGEST_MEAN_DIFFERENCE_INT8 = 2e-2  # over all pixels


@dataclass(frozen=True)
class Parity:
    """
    What was compared, and how it came out.

    Attributes:
        photographs (`int`): How many photographs.
        mean_relative_difference (`float`): Of depth, over all pixels of all of them.
        largest_relative_difference (`float`): Of one pixel.
        tolerance (`float`): What was allowed.
        tolerance_of (`str`): Which of the two it is for.
    """

    photographs: int
    mean_relative_difference: float
    largest_relative_difference: float
    tolerance: float
    tolerance_of: str

    def __str__(self) -> str:
        return (
            f"depth differs from the model's by {self.mean_relative_difference:.2g} on average and "
            f"{self.largest_relative_difference:.2g} at most, relatively, on {self.photographs} photographs"
        )


def check_parity(
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    exported: ExportedModel,
    photographs: Sequence[Image.Image],
    int8: bool,
) -> Parity:
    """
    Compares an exported folder with the model it came from: each photograph as the folder reads it, and the first ones
    as a batch whose prompts differ in length.

    Args:
        model ([`LLMMDEForDepthEstimation`]), processor ([`LLMMDEProcessor`]): What was exported.
        exported ([`ExportedModel`]): What came out.
        photographs (`Sequence[PIL.Image.Image]`): At least one; none that a network was quantised by.
        int8 (`bool`): Whether it has 8 bits, which are allowed more.

    Raises:
        ValueError: If depth differs by more than is allowed, or the folder writes another prompt than the processor.
    """
    differences = []
    for image in photographs:
        inputs, prompt, _ = exported.prepare(image)
        expected = processor(images=image, return_prompt=True, return_tensors="pt")
        if "input_ids" in inputs and [prompt] != expected["prompt"]:
            raise ValueError(f"the folder writes the prompt {prompt!r}, but the processor {expected['prompt'][0]!r}.")
        if "input_ids" in inputs and inputs["input_ids"].tolist() != expected["input_ids"].tolist():
            raise ValueError(f"the folder's tokenizer splits {prompt!r} otherwise than the processor's.")
        differences.append(_relative_difference(exported.network(inputs), model, expected))
    first, last = photographs[0], photographs[-1]
    words = processor(images=first, return_prompt=True)["prompt"][0].split()
    batch = processor(images=[first, last], prompt=[" ".join(words), " ".join(words[:3])], return_tensors="pt")
    inputs = {name: batch[name].numpy() for name in exported.settings["inputs"]}
    differences.append(_relative_difference(exported.network(inputs), model, batch))

    mean = float(np.mean([each.mean() for each in differences]))
    largest = float(max(each.max() for each in differences))
    measured, limit = (mean, LARGEST_MEAN_DIFFERENCE_INT8) if int8 else (largest, LARGEST_DIFFERENCE)
    parity = Parity(len(photographs), mean, largest, limit, "mean" if int8 else "largest")
    if not measured <= limit:  # also where it is not a number
        raise ValueError(f"the exported {parity}; allowed is {limit:g} {'on average' if int8 else 'at most'}.")
    return parity


def _relative_difference(depth: np.ndarray, model: "LLMMDEForDepthEstimation", inputs: "BatchFeature") -> np.ndarray:
    tensors = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**tensors).predicted_depth.numpy()
    if depth.shape != expected.shape:
        raise ValueError(f"the exported network gives depth of shape {depth.shape}, but the model {expected.shape}.")
    return np.abs(depth - expected) / expected


__all__ = ["LARGEST_DIFFERENCE", "LARGEST_MEAN_DIFFERENCE_INT8", "Parity", "check_parity"]
