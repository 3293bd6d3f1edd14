"""Each operation on a built model does what it says, and nothing else."""

import math

import pytest
import torch
from transformers import ElectraConfig

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.studies.surgery import (
    depth_word_ids,
    project_linearly,
    random_word_ids,
    reinitialise,
    remove_language_model,
    resize_prototypes,
    restrict_prototypes,
)
from llm_mde.training.adapters import NEW_LAYERS
from tests.conftest import VOCAB_SIZE, make_model
from tests.processing.conftest import make_bert_tokenizer, make_gpt_tokenizer


def depth_of(model, pixel_values, **prompt) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values, **prompt).predicted_depth


def weights_of(model, part: str) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.get_submodule(part).state_dict().items()}


def all_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def reinitialised(model, seed: int):
    torch.manual_seed(seed)
    reinitialise(model)
    return model


def test_new_layers_of_a_loaded_model_are_drawn_anew_and_encoders_stay(model, tmp_path):
    with torch.no_grad():
        for part in NEW_LAYERS:
            for weight in model.get_submodule(part).parameters():
                weight.fill_(7.0)
    model.save_pretrained(tmp_path)
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path)  # marked as not to be initialised again
    reinitialised(loaded, 0)
    for part in NEW_LAYERS:
        assert not any((weight == 7).any() for weight in loaded.get_submodule(part).parameters())
    for part in ("vision_tower", "language_model", "word_basis"):
        assert all_equal(weights_of(loaded, part), weights_of(model, part))
    assert loaded.depth_head.to_logits.bias.item() == -1
    assert torch.equal(
        loaded.depth_head.blocks[0].norm1.weight, torch.ones_like(model.depth_head.blocks[0].norm1.bias)
    )
    spread = loaded.text_prototypes.weight.std().item()
    assert spread == pytest.approx(1 / math.sqrt(3 * VOCAB_SIZE), rel=0.2)


def test_the_seed_alone_says_what_is_drawn(model):
    first = weights_of(reinitialised(model, 0), "reprogramming")
    assert all_equal(first, weights_of(reinitialised(make_model(), 0), "reprogramming"))
    assert not all_equal(first, weights_of(reinitialised(model, 1), "reprogramming"))


@pytest.mark.parametrize(
    "operate",
    [
        project_linearly,
        remove_language_model,
        lambda m: resize_prototypes(m, 77),
        lambda m: restrict_prototypes(m, [5]),
    ],
)
def test_variants_of_one_seed_start_with_the_same_head(operate, model):
    expected = weights_of(reinitialised(make_model(), 3), "depth_head")
    operate(reinitialised(model, 3))
    assert all_equal(weights_of(model, "depth_head"), expected)


def test_a_linear_projection_is_linear_and_reads_no_prototype(model, pixel_values, prompts):
    before = depth_of(model, pixel_values, **prompts)
    project_linearly(model)
    assert depth_of(model, pixel_values, **prompts).shape == before.shape
    assert model.text_prototypes(None) is None
    assert not list(model.text_prototypes.parameters())
    one, other = torch.randn(2, 1, 16, 32)
    (both, _), (first, _), (second, _) = (model.reprogramming(x, None) for x in (one + other, one, other))
    torch.testing.assert_close(both + model.reprogramming(torch.zeros_like(one), None)[0], first + second)
    assert model.reprogramming(one, None, output_attentions=True)[1] is None


def test_without_language_model_no_prompt_has_an_influence(model, pixel_values, prompts):
    other = {name: value.flip(0) for name, value in prompts.items()}
    assert not torch.equal(depth_of(model, pixel_values, **prompts), depth_of(model, pixel_values, **other))
    remove_language_model(model)
    depth = depth_of(model, pixel_values, **prompts)
    assert torch.equal(depth, depth_of(model, pixel_values, **other))
    assert torch.equal(depth, depth_of(model, pixel_values))


def test_without_language_model_its_layers_are_gone_and_patches_reach_the_head_as_they_are(
    model, pixel_values, prompts
):
    embeddings = model.get_input_embeddings().weight
    remove_language_model(model)
    assert [weight is embeddings for weight in model.language_model.parameters()] == [True]
    seen = {}
    model.reprogramming.register_forward_hook(lambda module, inputs, output: seen.update(patches=output[0]))
    model.depth_head.register_forward_pre_hook(lambda _, inputs: seen.update(states=inputs[3]) if inputs[3:] else None)
    model(pixel_values, **prompts, labels=torch.ones(2, 32, 32)).loss.backward()
    assert torch.equal(seen["patches"], seen["states"])
    assert embeddings.grad is None
    assert model.reprogramming.patch_query.weight.grad.abs().max() > 0


@pytest.mark.parametrize("embedding_size", [16, 48])
def test_widths_of_words_and_states_may_differ(embedding_size, pixel_values):
    text_config = ElectraConfig(
        vocab_size=VOCAB_SIZE,
        embedding_size=embedding_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=37,
        max_position_embeddings=64,
    )
    model = make_model(text_config=text_config)
    remove_language_model(model)
    states = model.language_model(inputs_embeds=torch.ones(1, 2, embedding_size)).last_hidden_state
    assert states.shape == (1, 2, 32)
    assert states.sum() == 2 * min(embedding_size, 32)
    assert depth_of(model, pixel_values).shape == (2, 32, 32)


@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
def test_another_number_of_prototypes(parametrization, pixel_values):
    model = make_model(prototype_parametrization=parametrization)
    resize_prototypes(model, 3)
    attentions = model(pixel_values, output_prototype_attentions=True).prototype_attentions
    assert attentions.shape[-1] == model.config.num_prototypes == 3


@pytest.mark.parametrize("parametrization", ["compact", "vocabulary"])
@pytest.mark.parametrize("count", [4, 50])  # fewer and more than the 32 dimensions
def test_restricted_prototypes_lie_in_the_span_of_their_words(parametrization, count, pixel_values):
    model = make_model(prototype_parametrization=parametrization)
    words = model.get_input_embeddings().weight.detach()
    restrict_prototypes(model, range(10, 10 + count))
    model(pixel_values, labels=torch.ones(2, 32, 32)).loss.backward()
    with torch.no_grad():
        model.text_prototypes.weight -= 10 * model.text_prototypes.weight.grad  # also once it has learned
    prototypes = model.text_prototypes(model.word_basis(words)).detach()
    assert prototypes.shape == (10, 32)
    assert distance_to_span(prototypes, words[10 : 10 + count]) < 1e-4
    if count < 32:
        assert distance_to_span(prototypes, words[60 : 60 + count]) > 0.5


def distance_to_span(vectors: torch.Tensor, words: torch.Tensor) -> float:
    """Largest share of a vector's length that no combination of the words gives."""
    projection = torch.linalg.lstsq(words.T, vectors.T, driver="gelsd").solution
    return ((vectors.T - words.T @ projection).norm(dim=0) / vectors.norm(dim=1)).max().item()


def test_depth_words_are_whole_words_of_the_tokenizer():
    tokenizer = make_bert_tokenizer()
    words = tokenizer.convert_ids_to_tokens(depth_word_ids(tokenizer))
    assert {"far", "close", "remote", "camera", "patch"} <= set(words)
    assert not {"[UNK]", "kitchen", "depths"} & set(words)
    assert len(words) == len(set(words))
    gpt = make_gpt_tokenizer()
    assert "far" in gpt.convert_ids_to_tokens(depth_word_ids(gpt))


def test_a_tokenizer_without_depth_words_is_refused():
    def letters(text, **options):
        return {"input_ids": list(range(len(text) + 1))}

    letters.unk_token_id = 0
    with pytest.raises(ValueError, match="no word of depth"):
        depth_word_ids(letters)


def test_random_words_are_different_words_and_no_special_tokens():
    tokenizer = make_bert_tokenizer()
    everything = random_word_ids(tokenizer, len(tokenizer), len(tokenizer), seed=0)
    assert everything == sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    some = [random_word_ids(tokenizer, len(tokenizer), 20, seed) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert len(some[0]) == 20
