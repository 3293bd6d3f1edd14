"""The network that is exported: tensors of the processor in, metres out, and nothing that depends on weights alone."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llm_mde.reprogramming_llm_mde import LLMMDEReprogramming

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation

OUTPUT = "predicted_depth"
# The tracer takes a length of 0 or 1 for a constant; any other will do.
_EXAMPLE_BATCH, _EXAMPLE_LENGTH = 2, 7


class FoldedReprogramming(LLMMDEReprogramming):
    """Reprogramming whose prototypes have been read once and for all: their keys and values are constants."""

    def __init__(self, reprogramming: LLMMDEReprogramming, prototypes: Tensor):
        nn.Module.__init__(self)  # the layers between prototypes and keys are not made again: their work is done
        self.num_heads = reprogramming.num_heads
        self.patch_query, self.to_embedding = reprogramming.patch_query, reprogramming.to_embedding
        key, value = reprogramming.project_prototypes(prototypes)
        self.register_buffer("key", key.clone(memory_format=torch.contiguous_format))
        self.register_buffer("value", value.clone(memory_format=torch.contiguous_format))

    def project_prototypes(self, prototypes: None) -> tuple[Tensor, Tensor]:
        return self.key, self.value


class _Nothing(nn.Module):
    """Stands where a layer was whose result nobody reads any more."""

    def forward(self, unread: Tensor | None) -> None:
        return None


class FoldedNetwork(nn.Module):
    """A copy of a model that returns one tensor, and whose prototypes are constants.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model; it stays as it is.
    """

    def __init__(self, model: "LLMMDEForDepthEstimation"):
        super().__init__()
        model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.no_grad():
            prototypes = model.text_prototypes(model.word_basis(model.get_input_embeddings().weight))
            model.reprogramming = FoldedReprogramming(model.reprogramming, prototypes)
        model.word_basis, model.text_prototypes = _Nothing(), _Nothing()
        self.model = model

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Depth in metres, `(batch_size, height, width)`."""
        return self.model(pixel_values, input_ids=input_ids, attention_mask=attention_mask).predicted_depth


@dataclass(frozen=True)
class TracedNetwork:
    """A network as a graph of PyTorch operations.

    Attributes:
        program (`torch.export.ExportedProgram`): The graph and its weights, float32.
        inputs (`tuple[str, ...]`): What it reads, in order: `pixel_values`, and with prompts `input_ids` and
            `attention_mask`.
        image_shape (`tuple[int, int, int]`): Channels, height and width of an image; the batch is free.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        """For each input the axes whose length is free, and what they are."""
        return _free_axes(self.inputs)

    @property
    def num_bytes(self) -> int:
        """Size of the weights."""
        return sum(weight.nbytes for weight in self.program.state_dict.values())


def trace(model: "LLMMDEForDepthEstimation", size: tuple[int, int]) -> TracedNetwork:
    """
    Traces a model for any batch, and any prompt up to `config.max_prompt_length`.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model, float32 and on the CPU.
        size (`tuple[int, int]`): Height and width of the images, which the graph is made for.

    What the tracer raises where it meets what it does not know is of many kinds.
    """
    inputs = ("pixel_values", "input_ids", "attention_mask") if model.config.use_prompt else ("pixel_values",)
    image_shape = (model.vision_layout.num_channels, *size)
    longest = model.config.max_prompt_length
    prompt_shape = (_EXAMPLE_BATCH, min(_EXAMPLE_LENGTH, longest))
    # A tensor for each: the tracer takes one that stands in two places for one input.
    examples = {
        "pixel_values": torch.zeros(_EXAMPLE_BATCH, *image_shape),
        "input_ids": torch.ones(prompt_shape, dtype=torch.long),
        "attention_mask": torch.ones(prompt_shape, dtype=torch.long),
    }
    free = {"batch": torch.export.Dim("batch", min=1)}
    if longest > 1:
        free["prompt_length"] = torch.export.Dim("prompt_length", min=1, max=longest)
    axes = {name: {axis: free.get(meaning) for axis, meaning in of.items()} for name, of in _free_axes(inputs).items()}
    with torch.no_grad():
        program = torch.export.export(
            FoldedNetwork(model),
            (),
            {name: examples[name] for name in inputs},
            dynamic_shapes=axes,
            strict=False,
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # the folders of this machine, which files would carry along
    return TracedNetwork(program, inputs, image_shape)


def _free_axes(inputs: tuple[str, ...]) -> dict[str, dict[int, str]]:
    return {name: {0: "batch"} if name == "pixel_values" else {0: "batch", 1: "prompt_length"} for name in inputs}


__all__ = ["OUTPUT", "FoldedNetwork", "FoldedReprogramming", "TracedNetwork", "trace"]
