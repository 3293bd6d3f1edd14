"""The traced network: the same depth as the model's, for any batch and prompt, without what it does not need."""

import pytest
import torch

from llm_mde.export.network import FoldedNetwork, trace
from tests.conftest import VOCAB_SIZE, make_model
from tests.modeling.test_encoders import LANGUAGE, VISION


def depth_of(model, pixel_values, **prompts) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values, **prompts).predicted_depth


def shapes_of(program) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in [*program.state_dict.values(), *program.constants.values()]]


@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
def test_folding_the_prototypes_changes_no_bit_of_depth(parametrization, pixel_values, prompts):
    model = make_model(prototype_parametrization=parametrization)
    with torch.no_grad():
        folded = FoldedNetwork(model)(pixel_values, **prompts)
    assert torch.equal(folded, depth_of(model, pixel_values, **prompts))


def test_the_model_stays_as_it_was(model, pixel_values, prompts):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    FoldedNetwork(model)
    assert model.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.text_prototypes.weight.requires_grad


@pytest.mark.slow
def test_one_graph_reads_any_batch_and_any_prompt(model, pixel_values, prompts):
    network = trace(model, (32, 32)).program.module()
    longest = torch.arange(model.config.max_prompt_length)[None] + 5
    for inputs in (
        {"pixel_values": pixel_values, **prompts},  # of 7 and 4 tokens
        {"pixel_values": pixel_values[:1], "input_ids": longest, "attention_mask": torch.ones_like(longest)},
        {"pixel_values": pixel_values[:1], **{name: prompt[:1, :1] for name, prompt in prompts.items()}},
        {"pixel_values": pixel_values[:1].repeat(5, 1, 1, 1), **{n: p[1:].repeat(5, 1) for n, p in prompts.items()}},
    ):
        torch.testing.assert_close(network(**inputs), depth_of(model, **inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
def test_of_the_vocabulary_only_the_word_embedding_is_left(parametrization):
    model = make_model(prototype_parametrization=parametrization)
    program = trace(model, (32, 32)).program
    width = model.config.word_embedding_size
    assert [shape for shape in shapes_of(program) if VOCAB_SIZE in shape] == [(VOCAB_SIZE, width)]
    assert not any("prototype" in name for name in program.state_dict)


@pytest.mark.slow
def test_a_model_without_prompts_reads_the_image_alone(pixel_values):
    model = make_model(use_prompt=False)
    network = trace(model, (32, 32))
    assert network.inputs == ("pixel_values",)
    depth = network.program.module()(pixel_values=pixel_values[:1])
    torch.testing.assert_close(depth, depth_of(model, pixel_values[:1]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_prompt_of_one_token_can_be_all_that_fits(pixel_values):
    model = make_model(max_prompt_length=1, default_prompt_ids=[2])
    network = trace(model, (32, 32)).program.module()
    prompts = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.tensor([[1]])}
    depth = network(pixel_values=pixel_values[:1], **prompts)
    torch.testing.assert_close(depth, depth_of(model, pixel_values[:1], **prompts), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_graph_names_no_folder_of_this_machine(model):
    program = trace(model, (32, 32)).program
    assert not [node for node in program.graph.nodes if ".py" in str(node.meta.get("stack_trace"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "language"),
    [
        ("dinov2-registers", "gpt2"),
        ("timm", "llama"),
        ("siglip", "modernbert"),
        ("deit", "roberta"),
        ("dinov2", "qwen3"),
        ("vit", "albert"),
        ("vit", "opt"),
    ],
)
def test_encoders_of_every_kind_can_be_traced(vision, language, pixel_values, prompts):
    model = make_model(vision_config=VISION[vision], text_config=LANGUAGE[language])
    network = trace(model, (32, 32)).program.module()
    for rows in (slice(0, 2), slice(1, 2)):
        inputs = {name: prompt[rows] for name, prompt in prompts.items()}
        depth = network(pixel_values=pixel_values[rows], **inputs)
        torch.testing.assert_close(depth, depth_of(model, pixel_values[rows], **inputs), rtol=0, atol=1e-5)
