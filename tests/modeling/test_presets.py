"""Presets: what belongs together in model and processor goes together."""

import pytest
import torch

from llm_mde import LLMMDEConfig
from llm_mde.modeling_llm_mde import grid_for_language
from llm_mde.presets import PRESETS, find_preset
from llm_mde.processing import write_prompt
from llm_mde.training.small_model import compose_small_model


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_reads_and_writes_prompts_of_the_same_length(name):
    model, processor = compose_small_model(32, 48, preset=name)
    assert processor.max_prompt_length == model.config.max_prompt_length
    inputs = processor(torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8), return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    assert model.config.default_prompt_ids == processor.default_prompt_ids()
    with torch.no_grad():
        depth = model(**inputs).predicted_depth
    assert depth.shape == (1, 32, 48) and depth.isfinite().all()


def test_the_preset_fast_reads_a_quarter_of_the_patches_and_a_third_of_the_words():
    paper, fast = (LLMMDEConfig(**PRESETS[name].config) for name in ("paper", "fast"))
    assert grid_for_language((14, 14), paper) == (14, 14)
    assert grid_for_language((14, 14), fast) == (7, 7)
    lengths = []
    for name in ("paper", "fast"):
        _, processor = compose_small_model(32, 32, preset=name)
        inputs = processor(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
        lengths.append(len(inputs["input_ids"][0]))
    assert 2.5 < lengths[0] / lengths[1] < 4


def test_the_short_default_prompt_is_spelled_in_the_vocabulary_of_bert_and_written_by_the_processor():
    config, texts = LLMMDEConfig(**PRESETS["fast"].config), PRESETS["fast"].processor
    assert config.default_prompt_ids[0] == 101 and config.default_prompt_ids[-1] == 102
    assert config.default_prompt == write_prompt(None, texts["dataset_prompt"], texts["task_prompt"], style="short")


def test_a_model_of_a_preset_survives_saving_and_loading(tmp_path):
    model, processor = compose_small_model(32, 32, preset="fast")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config, again = LLMMDEConfig.from_pretrained(tmp_path), type(processor).from_pretrained(tmp_path)
    assert config.language_pooling == 2 and again.prompt_style == "short"
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert again(image)["input_ids"] == processor(image)["input_ids"]


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="`preset` is 'slow'; choose one of 'paper', 'fast'"):
        find_preset("slow")
