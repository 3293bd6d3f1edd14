"""Contenders with real names, but of a few thousand weights and pixels; a machine that there is not."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, ViTConfig

from benchmarks.contenders import Floor, Ours, our_name
from benchmarks.machine import GemmRate, Machine
from benchmarks.peers import DEPTH_ANYTHING_BASE, Peer
from benchmarks.record import Results, SectionRecord
from benchmarks.rows import Row
from benchmarks.sections import Bench
from tests.conftest import make_config

MACHINE = Machine("Abacus 3000", cores=2, threads=2, isa="AVX2", accelerator="none")
SIZES = {"224x224": (32, 32), "480x640": (32, 48), "518x518": (48, 48)}
GEMM = GemmRate(float32=40.0, bfloat16=0.1)


def make_contender(preset: str = "paper", prompt_length: int = 66, **overrides) -> Ours:
    """LLM-MDE with the vocabulary, the patches and the positions of the real one, and next to no width."""
    vision = ViTConfig(
        image_size=224, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=37
    )
    text = BertConfig(
        vocab_size=1000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37
    )
    config = make_config(vision, text, **{"max_prompt_length": 128, **overrides})
    return Ours(our_name(preset), config, tuple(range(prompt_length)), SIZES)


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, kernel_size=3, bias=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.convolution(pixel_values)


def make_peer() -> Peer:
    return Peer(DEPTH_ANYTHING_BASE, OneConvolution, {"224x224": (32, 32), "480x640": (28, 42)})


def make_results(**sections: list[Row]) -> Results:
    records = {
        name: SectionRecord("2026-01-02", "python -m benchmarks", False, GEMM, rows) for name, rows in sections.items()
    }
    return Results(MACHINE, {"torch": "2.11.0"}, records)


@pytest.fixture
def bench() -> Bench:
    return Bench(rounds=2, gemm=GEMM)


@pytest.fixture
def paper() -> Ours:
    return make_contender()


@pytest.fixture
def floor(paper) -> Floor:
    return Floor(paper)
