"""LLM-MDE in its presets, and the floor below it: the bare encoders over the very pixels and tokens that it reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import ModelOutput

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation, LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.modeling_llm_mde import VisionLayout, _encoder_from_config, grid_for_language
from llm_mde.presets import PRESETS, find_preset
from llm_mde.studies.resources import count_flops
from llm_mde.training.small_model import build_tokenizer

from .timing import Call

Size = tuple[int, int]  # height and width in pixels

# What a photograph is resized to, by the name of the setting; models with other patches read the nearest they can.
OUR_SIZES: Mapping[str, Size] = {"224x224": (224, 224), "480x640": (480, 640), "518x518": (512, 512)}
# With the 196 patches of 224 x 224 pixels the 310 tokens that the release of the paper's authors is built for.
FULL_PROMPT_LENGTH = 114
_MASK = "attention_mask"


class Contender(Protocol):
    """A network that can be built in any process, with random weights."""

    name: str
    sizes: Mapping[str, Size]  # what it reads in each setting it takes part in
    reads_values: bool  # whether its arithmetic depends on more than shapes

    def build(self) -> nn.Module:
        """The network in float32 on the CPU, for evaluation."""

    def inputs(self, size: Size, batch_size: int) -> dict[str, Tensor]:
        """What its `forward` takes."""

    def reads(self, size: Size) -> str:
        """Pixels, and tokens where it reads any, of one image of this size."""


@dataclass(frozen=True)
class Ours:
    """LLM-MDE. `prompt_ids` are the tokens of each photograph's prompt, `lora_preset` is that of its training, whose
    recipe, `lora`, turns dropout of the encoders off."""

    name: str
    config: LLMMDEConfig
    prompt_ids: tuple[int, ...]
    sizes: Mapping[str, Size] = field(default_factory=lambda: OUR_SIZES)
    lora_preset: str = "default"
    encoder_dropout: bool = False
    reads_values = True

    def build(self) -> LLMMDEForDepthEstimation:
        torch.manual_seed(0)
        return LLMMDEForDepthEstimation(self.config).eval()

    def inputs(self, size: Size, batch_size: int) -> dict[str, Tensor]:
        input_ids = torch.tensor([self.prompt_ids] * batch_size)
        return {
            "pixel_values": torch.rand(batch_size, 3, *size),
            "input_ids": input_ids,
            _MASK: torch.ones_like(input_ids),
        }

    def num_patches(self, size: Size) -> int:
        """How many the language model reads."""
        with torch.device("meta"):
            layout = VisionLayout.of(_encoder_from_config(self.config.vision_config))
            return math.prod(grid_for_language(layout.grid(torch.empty(1, 3, *size)), self.config))

    def reads(self, size: Size) -> str:
        return f"{size_text(size)}, {len(self.prompt_ids)} + {self.num_patches(size)} tokens"


class Encoders(nn.Module):
    """A vision encoder and a language model that know nothing of each other, one after the other."""

    def __init__(self, config: LLMMDEConfig):
        super().__init__()
        self.vision_tower = _encoder_from_config(config.vision_config)
        self.language_model = _encoder_from_config(config.text_config)

    def forward(
        self, pixel_values: Tensor, inputs_embeds: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[ModelOutput, ModelOutput]:
        own_size = self.vision_tower.config.image_size
        is_other_size = pixel_values.shape[-2:] != (own_size, own_size)
        seen = self.vision_tower(pixel_values, interpolate_pos_encoding=is_other_size)
        return seen, self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask)


@dataclass(frozen=True)
class Floor:
    """The encoders of `model` alone: no prototypes, no reprogramming, no head, no depth."""

    model: Ours
    reads_values = False

    @property
    def name(self) -> str:
        return f"floor of {self.model.name}"

    @property
    def sizes(self) -> Mapping[str, Size]:
        return self.model.sizes

    def build(self) -> Encoders:
        torch.manual_seed(0)
        return Encoders(self.model.config).eval()

    def inputs(self, size: Size, batch_size: int) -> dict[str, Tensor]:
        length = len(self.model.prompt_ids) + self.model.num_patches(size)
        return {
            "pixel_values": torch.rand(batch_size, 3, *size),
            "inputs_embeds": torch.rand(batch_size, length, self.model.config.word_embedding_size),
            _MASK: torch.ones((batch_size, length), dtype=torch.long),
        }

    def reads(self, size: Size) -> str:
        return self.model.reads(size)


def build_processor(preset: str) -> LLMMDEProcessor:
    """The preset's processor, with a vocabulary of its words; numbers and words are one token each, as in BERT's."""
    chosen = find_preset(preset)
    return LLMMDEProcessor(LLMMDEImageProcessor(), build_tokenizer(chosen), **chosen.processor)


def preset_contender(preset: str) -> Ours:
    """LLM-MDE in this preset at the paper's sizes, with the prompt of a grey picture. The paper's own is drawn out to
    `FULL_PROMPT_LENGTH`, so that it reads no less than the release."""
    prompt_ids = build_processor(preset)(images=Image.new("RGB", (64, 64), (90, 120, 150)))["input_ids"][0]
    if preset == "paper":
        prompt_ids = islice(cycle(prompt_ids), FULL_PROMPT_LENGTH)
    return Ours(our_name(preset), LLMMDEConfig(**find_preset(preset).config), tuple(prompt_ids))


def our_name(preset: str) -> str:
    return f"LLM-MDE {preset}"


def preset_contenders() -> list[Ours]:
    return [preset_contender(preset) for preset in PRESETS]


def forward_of(module: nn.Module, inputs: Mapping[str, Tensor]) -> Call:
    """One pass without gradients."""

    @torch.no_grad()
    def forward() -> object:
        return module(**inputs)

    return forward


def move(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Inputs on a device, those that are not whole numbers in a type."""
    return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def count_forward_flops(contender: Contender, module: nn.Module, size: Size) -> int:
    """Of one image. `module`, which has been called before, is run where values matter, as LLM-MDE remembers its text
    prototypes. Otherwise shapes alone are, without the mask, which hides nothing here."""
    if contender.reads_values:
        weight = next(module.parameters())
        return count_flops(forward_of(module, move(contender.inputs(size, 1), weight.device, weight.dtype)))
    with torch.device("meta"):
        shapes, inputs = contender.build(), contender.inputs(size, 1)
    return count_flops(forward_of(shapes, {name: value for name, value in inputs.items() if name != _MASK}))


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


__all__ = [
    "FULL_PROMPT_LENGTH",
    "OUR_SIZES",
    "Contender",
    "Encoders",
    "Floor",
    "Ours",
    "Size",
    "build_processor",
    "count_forward_flops",
    "forward_of",
    "move",
    "our_name",
    "preset_contender",
    "preset_contenders",
    "size_text",
]
