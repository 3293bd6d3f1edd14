"""A part alone does what it does inside the whole."""

import pytest
import torch
from torch import nn

from benchmarks.contenders import forward_of
from benchmarks.sections.parts import PARTS, note_calls
from benchmarks.steps import make_labels, prepare_training

SIZE = (224, 224)
NAMES = [name for several in PARTS.values() for name in several]


def test_a_noted_call_gives_what_it_gave(paper):
    model = paper.build()
    forward = forward_of(model, paper.inputs(SIZE, 1))
    logits = []
    hook = model.depth_head.register_forward_hook(lambda module, arguments, output: logits.append(output))
    noted = note_calls(model, NAMES, forward)
    hook.remove()
    assert sorted(noted) == sorted(NAMES)
    with torch.no_grad():
        torch.testing.assert_close(noted["depth_head"].forward(), logits[-1])
        assert noted["reprogramming"].forward()[0].shape == (1, 196, 32)
    assert not model.depth_head._forward_pre_hooks  # nothing goes on being noted


def test_parts_are_run_backwards_into_weights_and_inputs():
    part = nn.Linear(3, 2, bias=False)
    model = nn.Sequential(nn.Linear(3, 3), part)
    noted = note_calls(model, ["1"], lambda: model(torch.ones(1, 3)))["1"]
    noted.forward_and_backward()
    torch.testing.assert_close(part.weight.grad, noted.arguments[0].detach().expand(2, 3))
    assert model[0].weight.grad is None  # what lies before the part is another part's business


@pytest.mark.parametrize("several", PARTS.values())
def test_parts_of_a_step_train_all_their_layers(paper, several):
    training = prepare_training(paper)
    model = training.module.get_base_model()
    noted = note_calls(model, NAMES, lambda: training.step(paper.inputs(SIZE, 1), make_labels(SIZE, 1)))
    training.optimiser.zero_grad()
    for name in several:
        noted[name].forward_and_backward()
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad and name.startswith(several)}
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached == trained and trained


@pytest.mark.parametrize("several", PARTS.values())
def test_parts_are_named_as_in_the_model(paper, several):
    with torch.device("meta"):
        model = paper.build()
    assert all(isinstance(model.get_submodule(name), nn.Module) for name in several)
