"""The floor reads what LLM-MDE reads."""

import pickle
from functools import partial

import pytest
import torch

from benchmarks.contenders import (
    FULL_PROMPT_LENGTH,
    Floor,
    build_processor,
    count_forward_flops,
    forward_of,
    move,
    preset_contender,
    preset_contenders,
)
from benchmarks.peers import PEERS, find_peer
from llm_mde import LLMMDEConfig
from llm_mde.presets import PRESETS
from tests.benchmarks.conftest import make_contender, make_peer


@pytest.mark.parametrize("size", [(224, 224), (480, 640)])  # 196 patches, and 1200 that are pooled to 384
@pytest.mark.parametrize("overrides", [{}, {"language_pooling": 2, "max_prompt_length": 70}])
def test_the_floor_reads_as_many_tokens_and_pixels_as_the_model(size, overrides):
    contender = make_contender(**overrides)
    floor = Floor(contender)
    model, encoders = contender.build(), floor.build()
    seen: dict[str, list[dict[str, torch.Size]]] = {"model": [], "floor": []}

    def note(name, module, arguments, options):
        tensors = {**dict(enumerate(arguments)), **options}
        seen[name].append({key: value.shape for key, value in tensors.items() if isinstance(value, torch.Tensor)})

    for name, parts in (("model", model), ("floor", encoders)):
        for part in (parts.vision_tower, parts.language_model):
            part.register_forward_pre_hook(partial(note, name), with_kwargs=True)
    forward_of(model, contender.inputs(size, 2))()
    forward_of(encoders, floor.inputs(size, 2))()
    assert seen["floor"] == seen["model"]
    assert seen["model"][0] == {0: (2, 3, *size)}
    assert seen["model"][1].keys() == {"inputs_embeds", "attention_mask"}


def test_the_paper_reads_310_tokens_at_224_pixels_and_fast_far_fewer():
    lengths = {
        preset: Floor(preset_contender(preset)).inputs((224, 224), 1)["inputs_embeds"].shape[1]
        for preset in ("paper", "fast")
    }
    assert lengths["paper"] == FULL_PROMPT_LENGTH + 196 == 310
    assert lengths["fast"] < lengths["paper"] / 3


@pytest.mark.parametrize("preset", PRESETS)
def test_prompts_have_as_many_tokens_as_in_the_vocabulary_of_bert(preset):
    spelled = build_processor(preset).default_prompt_ids()
    assert len(spelled) == len(LLMMDEConfig(**PRESETS[preset].config).default_prompt_ids)


def test_every_preset_takes_part():
    assert [contender.name for contender in preset_contenders()] == [f"LLM-MDE {name}" for name in PRESETS]


def test_arithmetic_is_counted_by_shape_where_values_do_not_matter(paper, floor):
    peer = make_peer()
    assert count_forward_flops(peer, None, (10, 12)) == 2 * 27 * 8 * 10  # 3 x 9 weights at 8 x 10 places
    size, counts = (224, 224), {}
    for contender in (paper, floor):
        module = contender.build()
        forward_of(module, contender.inputs(size, 1))()
        counts[contender.name] = count_forward_flops(contender, module, size)
    assert 0 < counts[floor.name] < counts[paper.name]


def test_whole_numbers_keep_their_type_when_moved(paper):
    moved = move(paper.inputs((224, 224), 1), torch.device("cpu"), torch.bfloat16)
    assert moved["pixel_values"].dtype == torch.bfloat16
    assert moved["input_ids"].dtype == torch.long


@pytest.mark.parametrize("contender", [*PEERS, make_contender(), Floor(make_contender())], ids=lambda each: each.name)
def test_contenders_can_be_sent_to_another_process(contender):
    assert pickle.loads(pickle.dumps(contender)).name == contender.name


@pytest.mark.slow
@pytest.mark.parametrize("name", [peer.name for peer in PEERS])
def test_peers_read_the_sizes_they_are_listed_with(name):
    peer = find_peer(name)
    with torch.device("meta"):
        module = peer.build()
        for size in peer.sizes.values():
            predicted = forward_of(module, peer.inputs(size, 1))().predicted_depth
            assert predicted.shape[-2:] == size
