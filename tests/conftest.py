"""Small configurations and models, built in memory; nothing is downloaded."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub reads it once, when it is imported
# Code of model folders is copied here to be run; processes that share the place would read what another still writes.
# A process that a test starts has its place within that of the test, which removes it: a killed one could not.
os.environ["HF_MODULES_CACHE"] = os.environ["LLM_MDE_TESTS_MODULES"] = tempfile.mkdtemp(
    prefix="llm-mde-modules-", dir=os.environ.get("LLM_MDE_TESTS_MODULES")
)

import pytest
import torch
from transformers import BertConfig, ViTConfig

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation, LLMMDEImageProcessor, LLMMDEProcessor

VOCAB_SIZE = 99
ROOT = Path(__file__).parents[1]


def child_environment(**changes: str) -> dict[str, str]:
    """Of a Python that a test starts: it finds this clone, and uses one thread of the CPU and no network."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own, **changes}


def pytest_unconfigure():
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


def make_config(vision_config=None, text_config=None, **overrides) -> LLMMDEConfig:
    """A model of some 60 thousand weights that reads 32 x 32 pixels as 4 x 4 patches."""
    if vision_config is None:
        vision_config = ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
        )
    if text_config is None:
        text_config = BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
        )
    overrides = {"num_prototypes": 10, "default_prompt_ids": [2, 7, 5, 3], **overrides}
    return LLMMDEConfig(vision_config=vision_config, text_config=text_config, **overrides)


def make_model(*args, **overrides) -> LLMMDEForDepthEstimation:
    torch.manual_seed(0)
    return LLMMDEForDepthEstimation(make_config(*args, **overrides)).eval()


def make_pair(max_prompt_length: int = 96, **overrides) -> tuple[LLMMDEForDepthEstimation, LLMMDEProcessor]:
    """A model and a processor that writes prompts in its vocabulary."""
    from tests.processing.conftest import make_bert_tokenizer

    tokenizer = make_bert_tokenizer()
    text_config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=37,
        max_position_embeddings=256,
    )
    image_processor = LLMMDEImageProcessor(size={"height": 32, "width": 32})
    processor = LLMMDEProcessor(image_processor, tokenizer, max_prompt_length=max_prompt_length)
    overrides = {
        "max_prompt_length": 96,
        "default_prompt_ids": processor.default_prompt_ids(),
        **overrides,
    }
    return make_model(text_config=text_config, **overrides), processor


@pytest.fixture
def config() -> LLMMDEConfig:
    return make_config()


@pytest.fixture
def model() -> LLMMDEForDepthEstimation:
    return make_model()


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Two images of 32 x 32 pixels."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def prompts() -> dict[str, torch.Tensor]:
    """Two prompts of 7 and 4 tokens, padded on the left."""
    input_ids = torch.tensor([[2, 11, 12, 13, 14, 15, 3], [0, 0, 0, 2, 21, 22, 3]])
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long()}
