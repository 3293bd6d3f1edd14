"""A photograph and the prompt that goes with it."""

import json
import logging

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ViTImageProcessor
from transformers.modeling_outputs import DepthEstimatorOutput

from llm_mde.processing import (
    DEPTH_WORDS,
    ImageStatistics,
    LLMMDEImageProcessor,
    LLMMDEImageProcessorPil,
    LLMMDEProcessor,
    image_statistics,
    write_prompt,
)

from .conftest import make_bert_tokenizer, make_gpt_tokenizer

DARK = np.full((10, 12, 3), 20, dtype=np.uint8)
BRIGHT = np.full((20, 8, 3), 240, dtype=np.uint8)


def make_processor(tokenizer=None, **kwargs) -> LLMMDEProcessor:
    image_processor = LLMMDEImageProcessor(size={"height": 8, "width": 12})
    return LLMMDEProcessor(image_processor, tokenizer or make_bert_tokenizer(), **kwargs)


@pytest.fixture(params=[make_bert_tokenizer, make_gpt_tokenizer], ids=["bert", "gpt"])
def processor(request) -> LLMMDEProcessor:
    return make_processor(request.param())


def read(processor, inputs, row: int = 0) -> str:
    """The words the language model sees in one row."""
    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    return processor.tokenizer.decode(ids, skip_special_tokens=True)


# Prompts


def test_every_photograph_gets_the_prompt_of_its_own_pixels(processor):
    inputs = processor([DARK, BRIGHT], return_prompt=True, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask", "prompt"}
    assert inputs["prompt"] == [
        write_prompt(ImageStatistics(20, 20, 20, "giant")),
        write_prompt(ImageStatistics(240, 240, 240, "unseen")),
    ]
    assert read(processor, inputs, 1).endswith("is unseen .")


def test_the_prompt_describes_the_resized_image(processor):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    inputs = processor(image, do_normalize=False, return_prompt=True, return_tensors="pt")
    assert inputs["prompt"] == [write_prompt(image_statistics(inputs["pixel_values"])[0])]


def test_text_replaces_the_sentence_on_the_data(processor):
    inputs = processor([DARK, BRIGHT], text="A street up to 80 metres.", return_prompt=True)
    assert all(prompt.startswith("A street up to 80 metres. Task:") for prompt in inputs["prompt"])
    inputs = processor([DARK, BRIGHT], text=["a street", "a kitchen"], return_prompt=True)
    assert [prompt.partition(" Task:")[0] for prompt in inputs["prompt"]] == ["a street.", "a kitchen."]


def test_a_complete_prompt_is_used_as_it_is(processor):
    inputs = processor([DARK, BRIGHT], prompt=["a {street}", "100 % kitchen"], return_prompt=True, return_tensors="pt")
    assert inputs["prompt"] == ["a {street}", "100 % kitchen"]
    assert torch.equal(inputs["pixel_values"], processor([DARK, BRIGHT], return_tensors="pt")["pixel_values"])


def test_a_camera_hint_is_the_processors_or_the_calls():
    processor = make_processor(camera_prompt="Lens of 35 mm.")
    assert processor(DARK, return_prompt=True)["prompt"][0].endswith(" Lens of 35 mm.")
    inputs = processor([DARK, BRIGHT], camera=["Lens of 20 mm.", "Lens of 80 mm."], return_prompt=True)
    assert [prompt[-7:] for prompt in inputs["prompt"]] == [" 20 mm.", " 80 mm."]


def test_perspectives_choose_what_a_prompt_says():
    processor = make_processor(perspectives=["task", "class"], task_prompt="Estimate depth.")
    assert processor(DARK, return_prompt=True)["prompt"] == [
        "Estimate depth. Judged by brightness, the most common depth class is giant."
    ]


def test_text_alone_is_tokenised_as_it_stands(processor):
    inputs = processor(text=["a street", "kitchen"], return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert read(processor, inputs) == "a street" and read(processor, inputs, 1) == "kitchen"
    assert torch.equal(processor(prompt="a street", return_tensors="pt")["input_ids"], inputs["input_ids"][:1])


def test_a_sample_without_a_photograph_keeps_its_text(processor):
    inputs = processor([[], [BRIGHT]], text=["a street", "a kitchen"], return_prompt=True, return_tensors="pt")
    assert len(inputs["pixel_values"]) == 1
    assert inputs["prompt"][0] == "a street"
    assert inputs["prompt"][1] == write_prompt(ImageStatistics(240, 240, 240, "unseen"), dataset="a kitchen")


def test_default_prompt_ids_are_those_of_the_prompt_without_statistics(processor):
    ids = processor.default_prompt_ids()
    assert ids == processor.tokenizer(write_prompt(None))["input_ids"]
    assert all(isinstance(index, int) for index in ids)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "images"),
        ({"images": DARK, "text": "a", "prompt": "b"}, "prompt"),
        ({"images": DARK, "camera": "a", "prompt": "b"}, "prompt"),
        ({"text": "a", "camera": "b"}, "camera"),
        ({"text": "a", "depth_maps": np.ones((2, 2))}, "depth_maps"),
        ({"images": [DARK, BRIGHT], "text": ["a"]}, "text"),
        ({"images": [DARK, BRIGHT], "prompt": ["a", "b", "c"]}, "prompt"),
        ({"images": [DARK, BRIGHT], "camera": ["a"]}, "camera"),
        ({"images": DARK, "text": 3}, "text"),
        ({"text": 3}, "text"),
        ({"images": DARK, "prompt": " "}, "prompt"),
        ({"images": []}, "images"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused_by_name(processor, arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        processor(**arguments)


def test_text_without_a_place_in_the_prompt_is_refused():
    with pytest.raises(ValueError, match=r"`text` replaces .* `perspectives="):
        make_processor(perspectives=("task", "pixel"))(DARK, text="a street")


# Tokens


def test_prompts_are_padded_on_the_left_so_that_patches_follow_the_last_word(processor):
    inputs = processor([DARK, BRIGHT], text=["a street scene", "kitchen"], return_tensors="pt")
    assert inputs["attention_mask"][0].tolist() == [1] * inputs["input_ids"].shape[1]
    assert inputs["attention_mask"][1].tolist() == [0, 0] + [1] * (inputs["input_ids"].shape[1] - 2)
    assert (inputs["input_ids"][1, :2] == processor.tokenizer.pad_token_id).all()
    assert inputs["input_ids"][0, -1] == inputs["input_ids"][1, -1]


def test_a_tokenizer_saved_with_right_padding_pads_on_the_left_too(tmp_path):
    make_bert_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.init_kwargs["padding_side"] == "right"
    inputs = make_processor(tokenizer)([DARK, BRIGHT], text=["a street scene", "kitchen"], return_tensors="pt")
    assert inputs["attention_mask"][1, :2].tolist() == [0, 0]


def test_a_batch_of_two_has_the_tokens_of_two_batches_of_one(processor):
    texts = ["a street scene", "kitchen"]
    batch = processor([DARK, BRIGHT], text=texts, return_tensors="pt")
    for row, (image, text) in enumerate(zip([DARK, BRIGHT], texts, strict=True)):
        alone = processor(image, text=text, return_tensors="pt")
        assert torch.equal(batch["input_ids"][row][batch["attention_mask"][row].bool()], alone["input_ids"][0])


def test_a_gpt_tokenizer_pads_with_its_end_token(gpt_tokenizer):
    assert gpt_tokenizer.pad_token is None
    assert make_processor(gpt_tokenizer).tokenizer.pad_token == gpt_tokenizer.eos_token


def test_a_tokenizer_that_cannot_pad_is_refused():
    with pytest.raises(ValueError, match="`tokenizer` has neither a pad token nor an end token"):
        make_processor(make_gpt_tokenizer(eos_token=None))


def test_padding_to_a_fixed_length(processor):
    assert processor(DARK, padding="max_length", return_tensors="pt")["input_ids"].shape == (1, 128)
    inputs = processor(DARK, padding="max_length", max_length=90, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 90)


def test_a_long_prompt_loses_words_at_the_end_of_the_sentence_on_the_data(processor):
    long_text = " ".join(["street", "scene"] * 500)
    inputs = processor(DARK, text=long_text, return_prompt=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 128
    before, _, after = inputs["prompt"][0].partition(". Task:")
    assert before.startswith("street scene street") and len(before) < len(long_text)
    assert after.endswith("the most common depth class is giant.")


def test_a_cut_prompt_keeps_its_end_token():
    processor = make_processor(max_prompt_length=16)
    for inputs in (processor(DARK), processor(DARK, prompt="street " * 99), processor(text="street " * 99)):
        assert len(inputs["input_ids"][0]) == 16
        assert inputs["input_ids"][0][-1] == processor.tokenizer.sep_token_id
    assert len(processor.default_prompt_ids()) == 16


def test_a_cut_prompt_is_logged_once(caplog):
    processor = make_processor(max_prompt_length=17)
    with caplog.at_level(logging.WARNING, logger="llm_mde.processing.processing_llm_mde"):
        for _ in range(3):
            processor([DARK, BRIGHT], return_tensors="pt")
    assert ["more than 17 tokens" in record.getMessage() for record in caplog.records] == [True]


def test_a_call_may_allow_longer_prompts_but_a_saved_tokenizer_may_not(tmp_path):
    make_bert_tokenizer(max_length=512).save_pretrained(tmp_path)
    processor = make_processor(AutoTokenizer.from_pretrained(tmp_path), max_prompt_length=20)
    assert processor(DARK, return_tensors="pt")["input_ids"].shape[1] == 20
    assert processor(DARK, max_length=100, return_tensors="pt")["input_ids"].shape[1] > 60


@pytest.mark.parametrize("max_prompt_length", [0, 2])
def test_a_limit_without_room_for_a_word_is_refused(max_prompt_length):
    with pytest.raises(ValueError, match="`max_prompt_length`"):
        make_processor(max_prompt_length=max_prompt_length)


# With the image processor


def test_depth_maps_become_labels(processor):
    depth = np.full((10, 12), 1500, dtype=np.uint16)
    inputs = processor(DARK, depth_maps=depth, depth_scale=0.001, return_tensors="pt")
    assert torch.equal(inputs["labels"], torch.full((1, 8, 12), 1.5))


def test_image_options_and_statistics_pass_through(processor):
    inputs = processor(DARK, size={"height": 4, "width": 6}, return_statistics=True, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 4, 6)
    assert inputs["image_statistics"].tolist() == [[20, 20, 20, DEPTH_WORDS.index("giant")]]


def test_results_move_between_types_and_devices_with_their_prompts(processor):
    inputs = processor(DARK, return_prompt=True, return_tensors="pt")
    prompt = inputs["prompt"]
    inputs = inputs.to("cpu", torch.bfloat16)
    assert inputs["pixel_values"].dtype == torch.bfloat16 and inputs["input_ids"].dtype == torch.int64
    assert inputs["prompt"] == prompt


def test_post_processing_is_the_image_processors(processor):
    outputs = DepthEstimatorOutput(predicted_depth=torch.tensor([[[1.0, 3.0]]], dtype=torch.bfloat16))
    depth = processor.post_process_depth_estimation(outputs, [(1, 4)])[0]["predicted_depth"]
    assert depth.dtype == torch.float32 and depth.tolist() == [[1.0, 1.5, 2.5, 3.0]]


def test_an_image_processor_is_made_if_none_is_given(bert_tokenizer):
    assert LLMMDEProcessor(tokenizer=bert_tokenizer).image_processor.to_dict() == LLMMDEImageProcessor().to_dict()


def test_a_missing_tokenizer_and_a_foreign_image_processor_are_refused(bert_tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` is None"):
        LLMMDEProcessor(LLMMDEImageProcessor())
    with pytest.raises(ValueError, match="`image_processor` is a ViTImageProcessor"):
        LLMMDEProcessor(ViTImageProcessor(), bert_tokenizer)


def test_unknown_perspectives_are_refused_before_the_first_photograph():
    with pytest.raises(ValueError, match="`perspectives`"):
        make_processor(perspectives=("dataset", "colour"))


# Saving

SETTINGS = {
    "dataset_prompt": "A kitchen.",
    "task_prompt": "Estimate depth.",
    "camera_prompt": "Lens of 35 mm.",
    "perspectives": ("task", "dataset"),
    "max_prompt_length": 33,
}


@pytest.mark.parametrize("image_processor_class", [LLMMDEImageProcessor, LLMMDEImageProcessorPil])
@pytest.mark.parametrize("make_tokenizer", [make_bert_tokenizer, make_gpt_tokenizer])
def test_one_file_beside_the_tokenizers_restores_everything(tmp_path, image_processor_class, make_tokenizer):
    image_processor = image_processor_class(size={"height": 4, "width": 6}, depth_scale=0.001)
    first = LLMMDEProcessor(image_processor, make_tokenizer(), **SETTINGS)
    first.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    backend = "pil" if image_processor_class is LLMMDEImageProcessorPil else "torchvision"
    image_processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(image_processor) is image_processor_class

    for again in (
        AutoProcessor.from_pretrained(tmp_path),
        LLMMDEProcessor.from_pretrained(tmp_path, image_processor=image_processor),
    ):
        assert {name: getattr(again, name) for name in SETTINGS} == SETTINGS
        assert again.to_dict() == first.to_dict()
        assert again.default_prompt_ids() == first.default_prompt_ids()
        expected, inputs = (each([DARK, BRIGHT], return_tensors="pt") for each in (first, again))
        assert set(inputs) == set(expected)
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"], atol=2 / 255, rtol=0)


def test_saving_brings_the_code_of_both_backends(tmp_path):
    make_processor().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {
        "depth_image_processing_llm_mde.py",
        "image_inputs_llm_mde.py",
        "image_processing_llm_mde.py",
        "image_processing_pil_llm_mde.py",
        "processing_llm_mde.py",
        "prompting_llm_mde.py",
    }
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "processing_llm_mde.LLMMDEProcessor"}
    assert saved["image_processor"]["auto_map"]["AutoImageProcessor"] == [
        "image_processing_pil_llm_mde.LLMMDEImageProcessorPil",
        "image_processing_llm_mde.LLMMDEImageProcessor",
    ]
