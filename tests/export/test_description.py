"""What a processor does, as data; and the processors that cannot be described so."""

import pytest

from llm_mde import LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.export.description import describe_images, describe_prompts
from llm_mde.processing import DEPTH_WORDS, ImageStatistics
from tests.conftest import make_pair
from tests.processing.conftest import make_bert_tokenizer


def make_processor(max_prompt_length: int = 96, **options) -> LLMMDEProcessor:
    image_processor = LLMMDEImageProcessor(size={"height": 32, "width": 32})
    return LLMMDEProcessor(image_processor, make_bert_tokenizer(), max_prompt_length=max_prompt_length, **options)


def test_the_parts_of_a_prompt_and_the_names_between_them_make_the_prompt():
    processor = make_processor(camera_prompt="A lens of 35 mm.", prompt_style="short")
    described = describe_prompts(make_pair()[0], processor)
    assert described["depth_words"] == list(DEPTH_WORDS)
    assert described["parts"][1::2] == ["minimum", "maximum", "median", "depth_word"]
    statistics = {"minimum": 3, "maximum": 250, "median": 99, "depth_word": "far"}
    spelled = "".join(str(statistics[part]) if place % 2 else part for place, part in enumerate(described["parts"]))
    assert (
        spelled == processor._draft(ImageStatistics(**statistics), processor.dataset_prompt, "A lens of 35 mm.").prompt
    )


def test_a_model_that_reads_no_prompt_has_none():
    assert describe_prompts(make_pair(use_prompt=False)[0], make_processor()) is None


def test_prompts_that_would_be_cut_are_refused_and_those_that_just_fit_are_not():
    model = make_pair()[0]
    processor = make_processor()
    longest = max(
        len(processor.tokenizer(processor._draft(statistics, processor.dataset_prompt, None).prompt)["input_ids"])
        for statistics in (ImageStatistics(0, 255, 128, word) for word in DEPTH_WORDS)
    )
    describe_prompts(model, make_processor(max_prompt_length=longest))
    with pytest.raises(ValueError, match=f"up to {longest} tokens and cuts them at {longest - 1}"):
        describe_prompts(model, make_processor(max_prompt_length=longest - 1))


def test_a_tokenizer_without_a_file_of_its_own_is_refused(monkeypatch):
    processor = make_processor()
    monkeypatch.setattr(type(processor.tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match=r"tokenizer.*has no tokenizer\.json"):
        describe_prompts(make_pair()[0], processor)


def test_size_mean_and_deviation_are_those_that_the_processor_takes():
    model, processor = make_pair()
    processor.image_processor.size = {"height": 30, "width": 50}
    processor.image_processor.ensure_multiple_of = 8
    processor.image_processor.image_mean = 0.25
    assert describe_images(model, processor) == {
        "height": 32,
        "width": 48,
        "mean": [0.25, 0.25, 0.25],
        "std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
    }
    processor.image_processor.do_normalize = processor.image_processor.do_rescale = False
    described = describe_images(model, processor)
    assert (described["mean"], described["std"], described["rescale_factor"]) == ([0] * 3, [1] * 3, 1)


@pytest.mark.parametrize(
    ("name", "value"), [("do_resize", False), ("do_convert_rgb", False), ("keep_aspect_ratio", True), ("resample", 3)]
)
def test_photographs_that_do_not_become_rgb_of_one_size_bilinearly_are_refused(name, value):
    model, processor = make_pair()
    setattr(processor.image_processor, name, value)
    with pytest.raises(ValueError, match=f"`processor.image_processor.{name}` is"):
        describe_images(model, processor)


def test_a_size_that_the_patches_do_not_fill_is_refused():
    model, processor = make_pair()
    processor.image_processor.size = {"height": 30, "width": 32}
    with pytest.raises(ValueError, match="30 x 32 pixels; both sides must be multiples of the patch"):
        describe_images(model, processor)
