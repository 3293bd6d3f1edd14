"""Arithmetic that can be redone by hand, and turns that are taken."""

import pytest
import torch
from torch import nn

from llm_mde.studies.resources import (
    CNN,
    LANGUAGE,
    VISION,
    WHOLE,
    Contender,
    ResourcesArguments,
    count_flops,
    time_in_turns,
)
from tests.conftest import make_config


def test_a_multiply_add_is_two_operations():
    linear, convolution = nn.Linear(8, 5, bias=False), nn.Conv2d(3, 4, kernel_size=3, bias=False)
    assert count_flops(lambda: linear(torch.ones(7, 8))) == 2 * 7 * 8 * 5
    assert (
        count_flops(lambda: convolution(torch.ones(1, 3, 6, 6))) == 2 * 4 * 4 * 4 * 27
    )  # 4 x 4 places, 3 x 9 weights


def test_attention_is_counted_however_it_is_computed():
    query = torch.ones(1, 2, 5, 4)
    attention = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(query, query, query)) == 2 * (2 * 2 * 5 * 5 * 4)


def test_contenders_take_turns():
    calls = []
    times = time_in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" + "ababab"  # the first to warm up
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


@pytest.mark.parametrize("side", [32, 64])  # 16 patches, and 64 of which the language model reads 48
def test_bare_encoders_get_what_they_get_inside(side):
    config = make_config(head_hidden_sizes=[32, 16, 16, 8, 8])
    options = ResourcesArguments(prompt_length=10)
    cpu = torch.device("cpu")
    built = {
        name: Contender(name, config, side, side, options, cpu).build() for name in (CNN, WHOLE, VISION, LANGUAGE)
    }
    seen = []
    model = built[WHOLE][0]
    model.language_model.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["inputs_embeds"].shape), with_kwargs=True
    )
    outputs = {name: forward() for name, (_, forward) in built.items()}
    assert outputs[LANGUAGE].last_hidden_state.shape == seen[0]
    assert outputs[VISION].last_hidden_state.shape[1] == 1 + side * side // 64
    flops = {name: count_flops(forward) for name, (_, forward) in built.items()}
    assert 0 < flops[VISION] + flops[LANGUAGE] < flops[WHOLE] < flops[CNN]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sizes": ["224"]}, "HEIGHTxWIDTH"),
        ({"sizes": []}, "HEIGHTxWIDTH"),
        ({"rounds": 1}, "`rounds` is 1"),
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        ResourcesArguments(**flags)
