"""Adapters around the parts that remember their result: adding, switching, disabling and merging show at once."""

import copy

import pytest
import torch
import transformers
from packaging import version

from tests.conftest import make_model

peft = pytest.importorskip("peft")

LORA = {"r": 4, "lora_alpha": 8, "init_lora_weights": False}
ON_PROJECTIONS = {**LORA, "target_modules": ["prototype_key", "prototype_value", "patch_query"]}
WHOLE_MODULES = {**LORA, "target_modules": ["self.query"], "modules_to_save": ["text_prototypes", "reprogramming"]}


def depth_of(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixel_values).predicted_depth


def fresh_depth(model, pixel_values) -> torch.Tensor:
    return depth_of(copy.deepcopy(model), pixel_values)  # a copy starts with an empty memo


def perturb(model, seed: int) -> None:
    """Makes an adapter visible: what it saves whole starts as an exact copy of the base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name and "prototype" in name and parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("options", [ON_PROJECTIONS, WHOLE_MODULES], ids=["projections", "whole-modules"])
def test_adding_switching_and_disabling_an_adapter_shows_in_the_next_prediction(options, pixel_values):
    base = make_model()
    without = depth_of(base, pixel_values)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(**options), adapter_name="indoor").eval()
    perturb(model, seed=1)
    indoor = depth_of(model, pixel_values)
    assert (indoor - without).abs().max() > 1e-4
    model.add_adapter("street", peft.LoraConfig(**options))
    model.set_adapter("street")
    perturb(model, seed=2)
    street = depth_of(model.eval(), pixel_values)
    assert (street - indoor).abs().max() > 1e-4
    for name, expected in (("indoor", indoor), ("street", street), ("indoor", indoor)):
        model.set_adapter(name)
        assert torch.equal(depth_of(model, pixel_values), expected)
    with model.disable_adapter():
        assert torch.equal(depth_of(model, pixel_values), without)
    assert torch.equal(depth_of(model, pixel_values), indoor)


@pytest.mark.parametrize("options", [ON_PROJECTIONS, WHOLE_MODULES], ids=["projections", "whole-modules"])
def test_merged_equals_unmerged(options, pixel_values):
    torch.manual_seed(0)
    model = peft.get_peft_model(make_model(), peft.LoraConfig(**options)).eval()
    perturb(model, seed=1)
    unmerged = depth_of(model, pixel_values)
    model.merge_adapter()
    torch.testing.assert_close(depth_of(model, pixel_values), unmerged, rtol=0, atol=1e-4)
    assert torch.equal(depth_of(model, pixel_values), fresh_depth(model, pixel_values))
    model.unmerge_adapter()
    torch.testing.assert_close(depth_of(model, pixel_values), unmerged, rtol=0, atol=1e-4)
    merged = model.merge_and_unload()
    torch.testing.assert_close(depth_of(merged, pixel_values), unmerged, rtol=0, atol=1e-4)
    assert merged.text_prototypes.__class__.__name__ == "LLMMDETextPrototypes"


def test_merging_into_a_warm_plain_layer_is_seen(pixel_values):
    """`merge_and_unload` leaves a plain layer whose weight was changed through `.data`."""
    model = make_model()
    before = depth_of(model, pixel_values)
    torch.manual_seed(0)
    merged = peft.get_peft_model(model, peft.LoraConfig(**ON_PROJECTIONS)).eval().merge_and_unload()
    after = depth_of(merged, pixel_values)
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(after, fresh_depth(merged, pixel_values))


def test_loading_an_adapter_into_the_model_is_seen(pixel_values, tmp_path):
    torch.manual_seed(0)
    trained = peft.get_peft_model(make_model(), peft.LoraConfig(**WHOLE_MODULES)).eval()
    perturb(trained, seed=1)
    expected = depth_of(trained, pixel_values)
    trained.save_pretrained(tmp_path)
    model = make_model()
    before = depth_of(model, pixel_values)
    try:
        model.load_adapter(str(tmp_path))
    except ValueError as error:
        assert version.parse(transformers.__version__) < version.parse("5.23")
        assert "PeftModel.from_pretrained" in str(error)
        pytest.skip(f"Transformers {transformers.__version__} does not load modules that an adapter saved whole")
    loaded = depth_of(model, pixel_values)
    assert (loaded - before).abs().max() > 1e-4
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-5)
    model.disable_adapters()
    assert torch.equal(depth_of(model, pixel_values), before)
    model.enable_adapters()
    assert torch.equal(depth_of(model, pixel_values), loaded)


@pytest.mark.parametrize("options", [ON_PROJECTIONS, WHOLE_MODULES], ids=["projections", "whole-modules"])
def test_an_adapter_from_disk_gives_the_same_depth(options, pixel_values, tmp_path):
    torch.manual_seed(0)
    trained = peft.get_peft_model(make_model(), peft.LoraConfig(**options)).eval()
    perturb(trained, seed=1)
    expected = depth_of(trained, pixel_values)
    trained.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_model(), str(tmp_path)).eval()
    torch.testing.assert_close(depth_of(loaded, pixel_values), expected, rtol=0, atol=1e-5)


def test_an_adapter_does_not_carry_the_word_basis(tmp_path):
    from safetensors.torch import load_file

    model = peft.get_peft_model(make_model(), peft.LoraConfig(**WHOLE_MODULES))
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any("text_prototypes.weight" in name for name in names)
    assert not any("word_basis" in name for name in names)
    assert not model.base_model.model.word_basis.weight.requires_grad
