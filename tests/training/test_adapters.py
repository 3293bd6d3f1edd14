"""LoRA patterns, what is trained, and what an adapter weighs."""

import re

import pytest
import torch

from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation
from llm_mde.training import (
    LORA_PRESETS,
    adapted_modules,
    add_lora,
    count_parameters,
    format_parameter_table,
    lora_config,
    prepare_for_training,
)
from tests.conftest import make_model
from tests.modeling.test_encoders import LANGUAGE, VISION

peft = pytest.importorskip("peft")

FUSED = {"timm", "modernbert", "gpt2"}  # query, key and value are one matrix
LAYERS = {"albert": 1}  # its layers share their weights


@pytest.fixture(scope="module")
def paper_model() -> LLMMDEForDepthEstimation:
    """The paper's sizes without the memory."""
    with torch.device("meta"):
        return LLMMDEForDepthEstimation(LLMMDEConfig())


def test_query_and_value_of_vit_b_and_bert_base_are_48_layers(paper_model):
    names = adapted_modules(paper_model, lora_config(paper_model))
    assert len(names) == 48
    assert sum(name.startswith("vision_tower.") for name in names) == 24
    assert {name.split(".")[-1] for name in names} == {"q_proj", "v_proj", "query", "value"}


@pytest.mark.parametrize("targets", [("query", "value"), ("query", "key", "value", "output")])
@pytest.mark.parametrize("name", [*VISION, *LANGUAGE])
def test_every_supported_encoder_is_adapted_in_every_layer_and_nowhere_else(name, targets):
    model = make_model(vision_config=VISION[name]) if name in VISION else make_model(text_config=LANGUAGE[name])
    config = lora_config(model, targets=targets)
    adapted = add_lora(model, config).targeted_module_names
    part, layers = ("vision_tower", 4) if name in VISION else ("language_model", LAYERS.get(name, 2))
    inside = [module for module in adapted if module.startswith(f"{part}.")]
    fused = {"query": 1, "value": 0, "key": 0, "output": 1}
    assert len(inside) == layers * sum(fused[target] if name in FUSED else 1 for target in targets)
    assert all(re.match(r"(vision_tower|language_model)\.", module) for module in adapted)
    assert not any("mlp" in module or "intermediate" in module for module in adapted)


def test_each_encoder_has_its_own_rank_and_scale():
    model = make_model()
    adapted = add_lora(model, lora_config(model, vision_rank=4, language_rank=2, language_alpha=6))
    ranks = {
        name.split(".")[0]: (module.r["default"], module.scaling["default"])
        for name, module in adapted.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }
    assert ranks == {"vision_tower": (4, 2.0), "language_model": (2, 3.0)}


def test_rank_zero_leaves_an_encoder_alone():
    model = make_model()
    names = adapted_modules(model, lora_config(model, vision_rank=0, language_rank=2))
    assert names
    assert all(name.startswith("language_model.") for name in names)


def test_the_preset_of_the_authors_has_their_ranks(paper_model):
    config = lora_config(paper_model, "authors")
    assert (config.r, config.lora_alpha) == (160, 320)
    assert set(config.rank_pattern.values()) == set(config.alpha_pattern.values()) == {32}
    assert len(adapted_modules(paper_model, config)) == 72
    assert set(LORA_PRESETS) == {"default", "authors"}


@pytest.mark.parametrize("flag", ["use_dora", "use_rslora"])
def test_flags_reach_peft(flag):
    model = make_model()
    adapted = add_lora(model, lora_config(model, vision_rank=4, **{flag: True}))
    layer = adapted.get_base_model().get_submodule(adapted.targeted_module_names[0])
    if flag == "use_dora":
        assert "default" in layer.lora_magnitude_vector
    else:
        assert layer.scaling["default"] == 8 / 2  # alpha / sqrt(rank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "`preset` is 'huge'"),
        ({"targets": ["query", "mlp"]}, "`targets`"),
        ({"targets": []}, "`targets`"),
        ({"vision_rank": 0, "language_rank": 0}, "both 0"),
        ({"vision_rank": -1}, "`vision_rank` is -1"),
        ({"language_alpha": 0}, "`language_alpha` 0"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        lora_config(make_model(), **options)


def test_patterns_that_are_not_anchored_are_refused():
    with pytest.raises(ValueError, match="also matches layers elsewhere"):
        add_lora(make_model(), peft.LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize("method", ["lora", "full", "frozen"])
def test_each_method_trains_what_it_says(method):
    trained = prepare_for_training(make_model(), method).train()
    parts = {row.part: row for row in count_parameters(trained)}
    assert parts["word_basis"].trainable == 0
    for part in ("text_prototypes", "reprogramming", "depth_head"):
        assert parts[part].trainable == parts[part].total > 0
    for part in ("vision_tower", "language_model"):
        share = parts[part].trainable / parts[part].total
        assert {"lora": 0 < share < 0.5, "full": share == 1, "frozen": share == 0}[method]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="`method` is 'some'"):
        prepare_for_training(make_model(), "some")


def test_the_default_adapter_at_the_papers_sizes_stays_below_30_megabytes(paper_model):
    """Arithmetic: rank 16 in 48 layers of 768 x 768, prototypes 1000 x 768, reprogramming, and the head."""
    with torch.device("meta"):
        adapted = add_lora(LLMMDEForDepthEstimation(LLMMDEConfig()), lora_config(paper_model))
    rows = {row.part: row for row in count_parameters(adapted)}
    lora = 24 * 16 * 2 * 768
    assert rows["vision_tower"].trainable == rows["language_model"].trainable == lora
    assert rows["text_prototypes"].trainable == 1000 * 768
    assert rows["all"].trainable == sum(row.trainable for part, row in rows.items() if part != "all")
    assert rows["all"].trainable_bytes == 4 * rows["all"].trainable < 30e6
    assert rows["all"].total - 2 * lora == sum(p.numel() for p in paper_model.parameters())


def test_the_table_names_every_part_and_its_weights():
    table = format_parameter_table(count_parameters(make_model()))
    assert table.splitlines()[0].split() == ["part", "weights", "trained", "trained", "MB"]
    total = sum(p.numel() for p in make_model().parameters())
    assert f"{total:,}" in table.splitlines()[-1]


def test_dropout_of_an_adapter_stays_when_that_of_the_encoders_is_off(pixel_values):
    model = make_model(encoder_dropout=False)
    adapted = add_lora(model, lora_config(model, dropout=0.5)).train()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    with torch.no_grad():
        assert not torch.equal(
            adapted(pixel_values=pixel_values).predicted_depth, adapted(pixel_values=pixel_values).predicted_depth
        )
        model.eval()
        assert torch.equal(
            adapted(pixel_values=pixel_values).predicted_depth, adapted(pixel_values=pixel_values).predicted_depth
        )
