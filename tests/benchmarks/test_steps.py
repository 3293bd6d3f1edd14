"""One step trains what it should, in the model as in its floor."""

from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer

from benchmarks.steps import make_labels, prepare_training
from tests.benchmarks.conftest import make_peer

SIZE = (224, 224)


def adapted_layers(module: torch.nn.Module) -> list[str]:
    names = [name for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]
    return sorted(name.removeprefix("base_model.model.") for name in names)


def test_the_floor_adapts_the_same_layers_and_has_nothing_else_to_train(paper, floor):
    ours, bare = prepare_training(paper).module, prepare_training(floor).module
    assert adapted_layers(bare) == adapted_layers(ours)
    assert len(adapted_layers(ours)) == 2 * (4 + 2)  # query and value of every layer
    assert all("lora_" in name for name, weight in bare.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize("name", ["paper", "floor"])
def test_a_step_moves_trained_weights_and_leaves_the_others(request, name):
    contender = request.getfixturevalue(name)
    training = prepare_training(contender)
    before = {name: weight.detach().clone() for name, weight in training.module.named_parameters()}
    for _ in range(2):  # the first has no gradient yet for the one half of each update, as the other is zero
        training.step(contender.inputs(SIZE, 1), make_labels(SIZE, 1))
    moved = {name for name, weight in training.module.named_parameters() if not torch.equal(weight, before[name])}
    trained = {name for name, weight in training.module.named_parameters() if weight.requires_grad}
    assert moved <= trained
    assert {name for name in trained if "lora_" in name} <= moved
    assert training.module.training


@pytest.mark.parametrize(("max_norm", "is_clipped"), [(1e-3, True), (None, False)])
def test_gradients_are_clipped_where_there_is_a_norm(paper, max_norm, is_clipped):
    training = replace(prepare_training(paper), max_norm=max_norm)
    training.step(paper.inputs(SIZE, 1), make_labels(SIZE, 1))
    gradients = [weight.grad for weight in training.module.parameters() if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert (norm <= 1.01e-3) == is_clipped


def test_what_has_no_loss_is_not_trained():
    with pytest.raises(ValueError, match="Depth Anything Base"):
        prepare_training(make_peer())
