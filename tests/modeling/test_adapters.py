"""Adapters around the parts that remember their result: adding, switching, disabling and merging show at once."""

import copy
import json
import logging
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2Config

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.adapters_llm_mde import FINGERPRINT_KEY, base_fingerprint
from tests.conftest import VOCAB_SIZE, make_model

peft = pytest.importorskip("peft")

LORA = {"r": 4, "lora_alpha": 8, "init_lora_weights": False}
ON_PROJECTIONS = {**LORA, "target_modules": ["prototype_key", "prototype_value", "patch_query"]}
ON_QUERIES = {**LORA, "target_modules": ["self.query", "q_proj"]}
WHOLE_MODULES = {**LORA, "target_modules": ["self.query"], "modules_to_save": ["text_prototypes", "reprogramming"]}


def depth_of(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixel_values).predicted_depth


@pytest.fixture
def adapters(tmp_path, pixel_values):
    """Two adapter folders on `make_model()`, and the depth that each was trained to."""
    depth = {}
    for seed, name in enumerate(("indoor", "street")):
        depth[tmp_path / name] = save_adapter(tmp_path / name, pixel_values, seed)
    return depth


def save_adapter(folder, pixel_values, seed=0, options=WHOLE_MODULES, **model_overrides) -> torch.Tensor:
    torch.manual_seed(seed)
    base = make_model(**model_overrides)
    torch.manual_seed(seed)
    trained = peft.get_peft_model(base, peft.LoraConfig(**options)).eval()
    perturb(trained, seed)
    trained.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    # As `write_adapter_folder` does, from the adapted model.
    metadata = {"format": "pt", FINGERPRINT_KEY: base_fingerprint(trained.state_dict(), weights)}
    save_file(weights, file, metadata=metadata)
    return depth_of(trained, pixel_values)


def fresh_depth(model, pixel_values) -> torch.Tensor:
    return depth_of(copy.deepcopy(model), pixel_values)  # a copy starts with an empty memo


def perturb(model, seed: int) -> None:
    """Makes an adapter visible: what it saves whole starts as an exact copy of the base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_exact_copy = "lora_magnitude_vector" in name or ("modules_to_save" in name and "prototype" in name)
            if is_exact_copy and parameter.requires_grad:
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
    model.load_adapter(str(tmp_path))
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
    model = peft.get_peft_model(make_model(), peft.LoraConfig(**WHOLE_MODULES))
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any("text_prototypes.weight" in name for name in names)
    assert not any("word_basis" in name for name in names)
    assert not model.base_model.model.word_basis.weight.requires_grad


def test_several_adapters_live_on_one_model(adapters, pixel_values):
    """The one loaded last is at work in every layer, also in the modules it saved whole."""
    model = make_model()
    without = depth_of(model, pixel_values)
    for folder, expected in adapters.items():
        model.load_adapter(str(folder), folder.name)
        assert model.active_adapters() == [folder.name]
        assert torch.equal(depth_of(model, pixel_values), expected)
        assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if folder.name in name)
    indoor, street = adapters.values()
    assert (indoor - street).abs().max() > 0.1
    for name, expected in (("indoor", indoor), ("street", street), ("indoor", indoor)):
        model.set_adapter(name)
        assert torch.equal(depth_of(model, pixel_values), expected)
        model.disable_adapters()
        assert torch.equal(depth_of(model, pixel_values), without)
        model.enable_adapters()
        assert torch.equal(depth_of(model, pixel_values), expected)
    model.delete_adapter("indoor")
    assert list(model.peft_config) == ["street"]
    model.set_adapter("street")
    assert torch.equal(depth_of(model, pixel_values), street)
    model.delete_adapter("street")
    assert torch.equal(depth_of(model, pixel_values), without)
    model.load_adapter(str(next(iter(adapters))), "indoor", is_trainable=True)
    assert torch.equal(depth_of(model, pixel_values), indoor)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if ".indoor." in name)


def test_loading_a_second_adapter_reports_nothing_missing(adapters, caplog):
    """Transformers counts the weights of the first as missing, in a table of warnings."""
    model = make_model()
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    for folder in adapters:
        info = model.load_adapter(str(folder), folder.name)
        assert not info.missing_keys
        assert not info.unexpected_keys
    transformers_logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "LOAD REPORT" in record.getMessage()]


@pytest.mark.parametrize("options", [ON_PROJECTIONS, WHOLE_MODULES], ids=["projections", "whole-modules"])
def test_the_magnitudes_of_dora_are_loaded(options, pixel_values, tmp_path):
    """Transformers looks for them under another name, and leaves them as they began."""
    options = {**options, "use_dora": True}
    expected = save_adapter(tmp_path / "dora", pixel_values, options=options)
    assert any("lora_magnitude_vector" in name for name in load_file(tmp_path / "dora" / "adapter_model.safetensors"))
    model = make_model()
    info = model.load_adapter(str(tmp_path / "dora"))
    assert not info.missing_keys
    assert torch.equal(depth_of(model, pixel_values), expected)
    make_model().save_pretrained(tmp_path / "base")
    rewrite_config(tmp_path / "dora", base_model_name_or_path=str(tmp_path / "base"))
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "dora")
    torch.testing.assert_close(depth_of(loaded, pixel_values), expected, rtol=0, atol=1e-5)


def rewrite_config(folder, **changes) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("whole_modules_are_first", [True, False])
def test_an_adapter_with_whole_modules_lives_beside_one_without(whole_modules_are_first, pixel_values, tmp_path):
    depth = {
        "whole": save_adapter(tmp_path / "whole", pixel_values, seed=1),
        "low": save_adapter(tmp_path / "low", pixel_values, seed=2, options=ON_QUERIES),
    }
    first, second = depth if whole_modules_are_first else reversed(depth)
    model = make_model()
    without = depth_of(model, pixel_values)
    assert (depth["low"] - without).abs().max() > 1e-4
    for name in (first, second):
        model.load_adapter(str(tmp_path / name), name)
        assert torch.equal(depth_of(model, pixel_values), depth[name])
    for name in (first, second, first):
        model.set_adapter(name)
        assert torch.equal(depth_of(model, pixel_values), depth[name])
        model.disable_adapters()
        assert torch.equal(depth_of(model, pixel_values), without)
        model.enable_adapters()
        assert torch.equal(depth_of(model, pixel_values), depth[name])
    model.delete_adapter(first)  # which is active, so that the other one takes its place
    assert model.active_adapters() == [second]
    assert torch.equal(depth_of(model, pixel_values), depth[second])
    model.load_adapter(str(tmp_path / first), first)
    assert torch.equal(depth_of(model, pixel_values), depth[first])
    model.delete_adapter(second)
    assert torch.equal(depth_of(model, pixel_values), depth[first])


def test_deleting_the_active_adapter_while_all_are_disabled_leaves_them_disabled(adapters, pixel_values):
    model = make_model()
    without = depth_of(model, pixel_values)
    for folder in adapters:
        model.load_adapter(str(folder), folder.name)
    model.disable_adapters()
    model.delete_adapter("street")
    assert torch.equal(depth_of(model, pixel_values), without)
    model.enable_adapters()
    assert torch.equal(depth_of(model, pixel_values), next(iter(adapters.values())))


def test_an_adapter_that_is_asked_for_ends_the_disabling(adapters, pixel_values):
    (indoor_folder, indoor), (street_folder, street) = adapters.items()
    model = make_model()
    model.load_adapter(str(indoor_folder), "indoor")
    model.disable_adapters()
    model.set_adapter("indoor")
    assert torch.equal(depth_of(model, pixel_values), indoor)
    model.disable_adapters()
    model.load_adapter(str(street_folder), "street")
    assert torch.equal(depth_of(model, pixel_values), street)


def test_adapters_that_cannot_be_set_are_refused_and_the_active_one_stays(adapters, pixel_values):
    model = make_model()
    with pytest.raises(ValueError, match=r"`adapter_name` is 'indoor'; choose of those that are loaded: \[\]"):
        model.set_adapter("indoor")
    for folder in adapters:
        model.load_adapter(str(folder), folder.name)
    for choice, message in (
        (["indoor", "street"], "replace the same module"),
        ("garden", "that are loaded"),
        ([], ""),
    ):
        with pytest.raises(ValueError, match=f"`adapter_name` is .*{message}"):
            model.set_adapter(choice)
    assert torch.equal(depth_of(model, pixel_values), adapters[folder])


@pytest.mark.parametrize("has_another", [False, True], ids=["bare", "with-another-adapter"])
def test_an_adapter_whose_weights_fail_to_load_is_not_left_half_loaded(
    has_another, adapters, pixel_values, monkeypatch
):
    """For instance for want of memory."""
    (indoor_folder, indoor), (street_folder, street) = adapters.items()
    model = make_model()
    if has_another:
        model.load_adapter(str(indoor_folder), "indoor")
        model.disable_adapters()
    before = depth_of(model, pixel_values)
    trainable = [parameter.requires_grad for parameter in model.parameters()]

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patches:
        patches.setattr(model, "_load_pretrained_model", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.load_adapter(str(street_folder), "street")
    assert list(getattr(model, "peft_config", {})) == (["indoor"] if has_another else [])
    assert model._hf_peft_config_loaded is has_another
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert torch.equal(depth_of(model, pixel_values), before)
    if has_another:
        model.enable_adapters()
        assert torch.equal(depth_of(model, pixel_values), indoor)
    model.load_adapter(str(street_folder), "street")
    assert torch.equal(depth_of(model, pixel_values), street)


DAMAGES = {
    "truncated": lambda weights: weights[: len(weights) // 2],
    "one byte short": lambda weights: weights[:-1],
    "header cut": lambda weights: weights[:500],
    "empty": lambda weights: b"",
    "git-lfs pointer": lambda weights: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
    "pickle": lambda weights: pickle.dumps({"weight": [0.0] * 100}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_of_weights_is_refused_and_the_whole_one_loads_then(damage, adapters, pixel_values):
    folder, expected = next(iter(adapters.items()))
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    model = make_model()
    names = list(model.state_dict())
    file.write_bytes(damage(whole))
    with pytest.raises(ValueError, match=r"(?s)indoor' has an adapter_model\.safetensors that .* download it again"):
        model.load_adapter(str(folder), "indoor")
    assert list(model.state_dict()) == names
    file.write_bytes(whole)
    model.load_adapter(str(folder), "indoor")
    assert torch.equal(depth_of(model, pixel_values), expected)


DAMAGED_CONFIGS = {
    "garbage": ("{not json", "Expecting property name"),
    "empty": ("", "Expecting value"),
    "no text": (b"\xff\xfe", "codec can't decode"),
    "list": ("[]", "it holds a list"),
    "null": ("null", "it holds a NoneType"),
    "unknown type": ('{"peft_type": "MAGIC", "base_model_name_or_path": "b"}', "`peft_type` is 'MAGIC'"),
    "no type": ('{"base_model_name_or_path": "b"}', "`peft_type` is None"),
}


@pytest.mark.parametrize("route", ["load_adapter", "from_pretrained"])
@pytest.mark.parametrize(("content", "message"), DAMAGED_CONFIGS.values(), ids=DAMAGED_CONFIGS)
def test_a_damaged_configuration_of_an_adapter_is_refused_by_name(content, message, route, adapters):
    folder = next(iter(adapters))
    (folder / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    load = make_model().load_adapter if route == "load_adapter" else LLMMDEForDepthEstimation.from_pretrained
    with pytest.raises(ValueError, match=f"indoor' has an adapter_config.json that cannot be used .*{message}"):
        load(str(folder))


@pytest.mark.parametrize("base", [None, "", 7])
def test_an_adapter_that_names_no_base_cannot_stand_for_a_model(base, adapters, pixel_values):
    folder, expected = next(iter(adapters.items()))
    rewrite_config(folder, base_model_name_or_path=base)
    with pytest.raises(ValueError, match=f"indoor' has .* whose `base_model_name_or_path` is {base!r}"):
        LLMMDEForDepthEstimation.from_pretrained(folder)
    model = make_model()
    model.load_adapter(str(folder))
    assert torch.equal(depth_of(model, pixel_values), expected)


def test_an_adapter_in_a_subfolder_finds_its_base_at_the_top(adapters, pixel_values, tmp_path):
    folder, expected = next(iter(adapters.items()))
    make_model().save_pretrained(tmp_path / "base")
    rewrite_config(folder, base_model_name_or_path=str(tmp_path / "base"))
    model = LLMMDEForDepthEstimation.from_pretrained(tmp_path, subfolder="indoor")
    torch.testing.assert_close(depth_of(model, pixel_values), expected, rtol=0, atol=1e-5)


class HasMore(LLMMDEForDepthEstimation):
    """A subclass as users write them: another layer, and another argument."""

    def __init__(self, config, num_classes):
        super().__init__(config)
        self.scene = torch.nn.Linear(3, num_classes)


def test_adapters_go_onto_a_subclass_with_more_layers_and_arguments(adapters, pixel_values):
    model = HasMore(make_model().config, 5)
    model.load_state_dict(make_model().state_dict(), strict=False)
    model.eval()
    for folder, expected in adapters.items():
        model.load_adapter(str(folder), folder.name)
        assert torch.equal(depth_of(model, pixel_values), expected)
    other = HasMore(make_model(num_prototypes=11).config, 5)
    with pytest.raises(ValueError, match=r"is \(10, 32\) in the adapter and \(11, 32\) in the model"):
        other.load_adapter(str(folder))


@pytest.mark.parametrize("way", ["pissa", "olora"])
def test_an_adapter_that_moved_weights_into_its_base_is_not_refused(way, pixel_values, tmp_path):
    """Its base has other signs from then on, in a way that loading the adapter repeats."""
    options = {"r": 4, "target_modules": ["self.query"], "init_lora_weights": way}
    expected = save_adapter(tmp_path / way, pixel_values, options=options)
    model = make_model()
    model.load_adapter(str(tmp_path / way))
    torch.testing.assert_close(depth_of(model, pixel_values), expected, rtol=0, atol=1e-4)


def test_more_words_and_another_form_of_prototypes_are_the_same_base(pixel_values, tmp_path):
    expected = save_adapter(tmp_path / "low", pixel_values, options=ON_QUERIES)
    converted, resized = make_model().convert_prototypes("vocabulary"), make_model()
    resized.resize_token_embeddings(VOCAB_SIZE + 3)
    for model in (converted, resized):
        model.load_adapter(str(tmp_path / "low"))
    torch.testing.assert_close(depth_of(converted, pixel_values), expected, rtol=0, atol=1e-4)


def test_a_batch_of_two_equals_two_of_one_under_each_adapter(adapters, pixel_values):
    model = make_model()
    for folder in adapters:
        model.load_adapter(str(folder), folder.name)
    for folder, expected in adapters.items():
        model.set_adapter(folder.name)
        for row in range(2):
            alone = depth_of(model, pixel_values[row : row + 1])
            torch.testing.assert_close(alone, expected[row : row + 1], rtol=1e-5, atol=1e-5)


def test_adapters_switch_after_a_change_to_bfloat16(adapters, pixel_values):
    model = make_model()
    for folder in adapters:
        model.load_adapter(str(folder), folder.name)
    model.to(torch.bfloat16)
    for folder, expected in (*adapters.items(), *adapters.items()):
        model.set_adapter(folder.name)
        alone = make_model()
        alone.load_adapter(str(folder), "alone")
        depth = depth_of(model, pixel_values)
        assert torch.equal(depth, depth_of(alone.to(torch.bfloat16), pixel_values))
        torch.testing.assert_close(depth, expected, rtol=0.2, atol=0.1)


def test_several_adapters_live_in_one_peft_model(adapters, pixel_values):
    (indoor_folder, indoor), (street_folder, street) = adapters.items()
    base = make_model()
    without = depth_of(base, pixel_values)
    model = peft.PeftModel.from_pretrained(base, str(indoor_folder), adapter_name="indoor").eval()
    model.load_adapter(str(street_folder), "street")
    for name, expected in (("indoor", indoor), ("street", street), ("indoor", indoor)):
        model.set_adapter(name)
        assert torch.equal(depth_of(model, pixel_values), expected)
    with model.disable_adapter():
        assert torch.equal(depth_of(model, pixel_values), without)
    # Layers saved whole cannot be mixed.
    with pytest.raises(ValueError, match="modules_to_save"):
        model.add_weighted_adapter(["indoor", "street"], [0.5, 0.5], "both")
    model.set_adapter("street")
    model.delete_adapter("indoor")
    assert torch.equal(depth_of(model, pixel_values), street)
    torch.testing.assert_close(depth_of(model.merge_and_unload(), pixel_values), street, rtol=1e-5, atol=0)


OTHER_MODELS = {
    "prototypes": (
        {"num_prototypes": 11},
        r"'text_prototypes\.weight' is \(10, 32\) in the adapter and \(11, 32\) in the model; of its 15 weights 1 ",
    ),
    "deeper": (
        {"text_config": {"num_hidden_layers": 3}},
        r"'language_model\.encoder\.layer\.2\..*' is absent in the adapter and \(4, 32\) in the model",
    ),
    "shallower": (
        {"text_config": {"num_hidden_layers": 1}},
        r"'language_model\.encoder\.layer\.1\..*' is \(4, 32\) in the adapter and absent in the model",
    ),
    "another encoder": (
        {"text_config": "gpt2"},
        r"'language_model\.encoder\..*' is \(4, 32\) in the adapter and absent in",
    ),
    "other weights": ({}, "was trained on other weights than those of this model"),
}


def make_other_model(text_config=None, **overrides):
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if text_config == "gpt2":
        config = GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    else:
        config = BertConfig(**sizes | (text_config or {}), intermediate_size=37, max_position_embeddings=64)
    return make_model(text_config=config, **overrides)


@pytest.mark.parametrize("has_another", [False, True], ids=["bare", "with-another-adapter"])
@pytest.mark.parametrize(("overrides", "message"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_an_adapter_of_another_base_is_refused_and_leaves_no_trace(
    overrides, message, has_another, adapters, tmp_path, pixel_values
):
    model = make_other_model(**overrides)
    if not overrides:
        with torch.no_grad():
            model.vision_tower.layers[0].attention.q_proj.weight.add_(0.01)
    if has_another:
        torch.manual_seed(5)
        another = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**ON_PROJECTIONS))
        another.save_pretrained(tmp_path / "another")
        model.load_adapter(str(tmp_path / "another"), "another")
    before, weights = depth_of(model, pixel_values), copy.deepcopy(model.state_dict())
    listed = dict(getattr(model, "peft_config", {}))
    folder = next(iter(adapters))
    with pytest.raises(ValueError, match=message) as refusal:
        model.load_adapter(str(folder), "indoor")
    assert str(folder) in str(refusal.value)
    assert torch.equal(depth_of(model, pixel_values), before)
    assert getattr(model, "peft_config", {}).keys() == listed.keys()
    after = model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())


def test_peft_names_both_shapes_of_an_adapter_for_another_number_of_prototypes(adapters):
    with pytest.raises(RuntimeError, match=r"text_prototypes.*torch\.Size\(\[10, 32\]\).*torch\.Size\(\[11, 32\]\)"):
        peft.PeftModel.from_pretrained(make_model(num_prototypes=11), str(next(iter(adapters))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_base_is_known_again_in_every_type_and_under_other_adapters(dtype, adapters):
    model = make_model().to(dtype)
    for folder in adapters:
        model.load_adapter(str(folder), folder.name)
    assert list(model.peft_config) == ["indoor", "street"]


def test_what_an_adapter_brings_does_not_count_as_its_base(adapters):
    """The new layers of its base are replaced, so another training of them is the same base; not so an encoder."""
    weights = load_file(next(iter(adapters)) / "adapter_model.safetensors")
    model = make_model()
    fingerprint = base_fingerprint(model.state_dict(), weights)
    with torch.no_grad():
        model.reprogramming.patch_query.weight.neg_()
    assert base_fingerprint(model.state_dict(), weights) == fingerprint
    with torch.no_grad():
        model.depth_head.to_logits.weight.neg_()  # this one is the base's own
    assert base_fingerprint(model.state_dict(), weights) != fingerprint


def test_a_quantised_base_is_not_compared(adapters):
    state = make_model().state_dict()
    name = "vision_tower.layers.0.attention.q_proj.weight"
    assert base_fingerprint(state | {name: state[name].to(torch.int8)}, []) is None
    assert base_fingerprint(state | {name: state[name].to("meta")}, []) is None
    assert base_fingerprint(state, []) is not None


@pytest.mark.parametrize("options", [ON_QUERIES, WHOLE_MODULES], ids=["queries", "whole-modules"])
def test_a_merged_adapter_predicts_the_same_without_low_rank_products(options, pixel_values, tmp_path):
    trained = save_adapter(tmp_path / "indoor", pixel_values, options=options)
    model = make_model()
    without = depth_of(model, pixel_values)
    model.load_adapter(tmp_path / "indoor", adapter_name="indoor")
    calls = []
    for name, module in model.named_modules():
        if ".lora_A." in f"{name}.":
            module.register_forward_hook(lambda *_: calls.append(1))
    model.merge_adapter()
    model.merge_adapter()  # again: it is not added twice
    torch.testing.assert_close(depth_of(model, pixel_values), trained, atol=1e-4, rtol=1e-4)
    assert not calls
    model.unmerge_adapter()
    torch.testing.assert_close(depth_of(model, pixel_values), trained)
    assert calls
    model.merge_adapter()
    model.delete_adapter("indoor")
    torch.testing.assert_close(depth_of(model, pixel_values), without)


def test_a_merged_adapter_leaves_the_weights_when_another_is_chosen_loaded_or_all_are_disabled(adapters, pixel_values):
    (indoor, street), model = adapters, make_model()
    without = depth_of(model, pixel_values)
    model.load_adapter(indoor, adapter_name="indoor")
    model.merge_adapter()
    model.load_adapter(street, adapter_name="street")  # compares the base, which has to be itself again
    torch.testing.assert_close(depth_of(model, pixel_values), adapters[street])
    model.merge_adapter()
    model.set_adapter("indoor")
    torch.testing.assert_close(depth_of(model, pixel_values), adapters[indoor])
    model.merge_adapter()
    model.disable_adapters()
    torch.testing.assert_close(depth_of(model, pixel_values), without)
    model.enable_adapters()
    model.merge_adapter()
    model.delete_adapter("indoor")
    torch.testing.assert_close(depth_of(model, pixel_values), adapters[street])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unmerging_puts_every_weight_back_bit_for_bit(dtype, adapters):
    (indoor, street), model = adapters, make_model().to(dtype)
    model.load_adapter(indoor, adapter_name="indoor")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.merge_adapter()
    assert not all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    model.unmerge_adapter()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    model.merge_adapter()
    model.load_adapter(street, adapter_name="street")  # which compares the base by the signs of its weights


def test_without_an_adapter_at_work_there_is_nothing_to_merge(adapters):
    model = make_model()
    with pytest.raises(ValueError, match="no adapter at work"):
        model.merge_adapter()
    model.unmerge_adapter()
    model.load_adapter(next(iter(adapters)))
    model.disable_adapters()
    with pytest.raises(ValueError, match="no adapter at work"):
        model.merge_adapter()
