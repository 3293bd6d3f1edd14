"""From pixels to statistics to sentences."""

import pytest
import torch

from llm_mde.processing import DEPTH_WORDS, ImageStatistics, image_statistics, write_prompt
from llm_mde.processing.prompting_llm_mde import (
    DEFAULT_DATASET_PROMPT,
    DEFAULT_TASK_PROMPT,
    histogram_statistics,
    image_histogram,
)

STATISTICS = ImageStatistics(minimum=3, maximum=250, median=118, depth_word="a little remote")


def one_row(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[None, None, None]


def test_histogram_counts_every_channel_of_every_image_by_itself():
    images = torch.tensor([[[[0, 0]], [[7, 255]]], [[[7, 7]], [[7, 7]]]], dtype=torch.uint8)
    histogram = image_histogram(images)
    assert histogram.shape == (2, 256) and histogram.dtype == torch.int64
    assert {level: count for level, count in enumerate(histogram[0].tolist()) if count} == {0: 2, 7: 1, 255: 1}
    assert {level: count for level, count in enumerate(histogram[1].tolist()) if count} == {7: 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floats_between_0_and_1_are_rounded_to_levels(dtype):
    images = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)[None, None, None]
    assert image_histogram(images).nonzero()[:, 1].tolist() == [0, 128, 255]


def test_floats_beyond_their_range_are_clipped():
    assert image_histogram(torch.tensor([[[[-0.2, 1.3]]]])).nonzero()[:, 1].tolist() == [0, 255]


def test_statistics_of_four_pixels_by_hand():
    # Sorted 0, 10, 20, 255: the lower median is 10, and three of four lie in the first seventh.
    assert image_statistics(one_row(20, 255, 0, 10)) == [ImageStatistics(0, 255, 10, "giant")]


def test_a_single_pixel_is_its_own_minimum_maximum_and_median():
    assert image_statistics(one_row(255)) == [ImageStatistics(255, 255, 255, "unseen")]


@pytest.mark.parametrize(
    ("first", "last", "word"),
    [
        (0, 36, "giant"),
        (37, 73, "extremely close"),
        (74, 109, "close"),
        (110, 146, "not in distance"),
        (147, 182, "a little remote"),
        (183, 219, "far"),
        (220, 255, "unseen"),
    ],
)
def test_the_value_range_is_cut_into_seven_depth_classes(first, last, word):
    assert [image_statistics(one_row(level))[0].depth_word for level in (first, last)] == [word, word]


def test_equally_full_depth_classes_count_as_the_nearer_one():
    assert image_statistics(one_row(255, 40, 255, 40, 200))[0].depth_word == "extremely close"


def test_statistics_agree_with_sorting_the_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 5, 7), generator=generator, dtype=torch.uint8) // torch.arange(1, 9).view(
        8, 1, 1, 1
    ).to(torch.uint8)
    for image, statistics in zip(images, image_statistics(images), strict=True):
        pixels = sorted(image.flatten().tolist())
        counts = [sum(7 * pixel // 256 == index for pixel in pixels) for index in range(7)]
        assert statistics == ImageStatistics(
            pixels[0], pixels[-1], pixels[(len(pixels) - 1) // 2], DEPTH_WORDS[counts.index(max(counts))]
        )


def test_statistics_do_not_depend_on_the_rest_of_the_batch():
    images = torch.arange(4 * 3 * 6 * 6).view(4, 3, 6, 6).to(torch.uint8)
    assert image_statistics(images) == [image_statistics(image[None])[0] for image in images]


def test_statistics_stay_on_the_device_as_one_integer_table():
    table = histogram_statistics(image_histogram(one_row(20, 255, 0, 10)))
    assert table.dtype == torch.int64 and table.tolist() == [[0, 255, 10, 0]]


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 0, 4), torch.zeros(1, 3, 4, 4, dtype=torch.int64)],
    ids=["no batch", "no pixels", "integers"],
)
def test_histogram_refuses_what_is_not_a_batch_of_levels(images):
    with pytest.raises(ValueError, match="`images`"):
        image_histogram(images)


def test_a_prompt_has_one_sentence_for_each_perspective():
    assert write_prompt(STATISTICS, dataset="A street.", task="Estimate depth.") == (
        "A street. Estimate depth. Pixel values range from 3 to 250 with a median of 118. "
        "Judged by brightness, the most common depth class is a little remote."
    )


def test_the_short_style_says_the_same_in_fewer_words():
    assert write_prompt(STATISTICS, dataset="A street.", task="Depth in metres.", style="short") == (
        "A street. Depth in metres. Pixels 3 to 250, median 118. Mostly a little remote."
    )


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="`style` is 'brief'; choose 'full' or 'short'"):
        write_prompt(STATISTICS, style="brief")


def test_a_camera_hint_is_one_more_sentence():
    prompt = write_prompt(None, dataset="A street.", task="Estimate depth.", camera="Lens of 35 mm.")
    assert prompt == "A street. Estimate depth. Lens of 35 mm."


def test_perspectives_choose_sentences_and_their_order():
    assert write_prompt(STATISTICS, task="Estimate depth.", perspectives=("pixel", "task")) == (
        "Pixel values range from 3 to 250 with a median of 118. Estimate depth."
    )


def test_without_statistics_the_prompt_says_nothing_about_pixels():
    assert write_prompt(None) == f"{DEFAULT_DATASET_PROMPT} {DEFAULT_TASK_PROMPT}"
    assert write_prompt(None, perspectives=("pixel", "class")) == DEFAULT_TASK_PROMPT


@pytest.mark.parametrize("text", ["{0} {minimum} {{}}", "100 % of %s and %(median)d", "$task \\n \\1", "50% {"])
def test_texts_are_inserted_as_they_are(text):
    prompt = write_prompt(STATISTICS, dataset=text, task=text, camera=text)
    assert prompt.count(text) == 3


def test_a_text_without_a_full_stop_gets_one_and_a_blank_one_is_left_out():
    assert write_prompt(None, dataset="a street up to 80 metres", task=" ", camera="35 mm?") == (
        "a street up to 80 metres. 35 mm?"
    )


@pytest.mark.parametrize("perspectives", [("dataset", "colour"), (), "dataset"])
def test_unknown_perspectives_are_refused(perspectives):
    with pytest.raises(ValueError, match=r"`perspectives`.*dataset, task, pixel, class"):
        write_prompt(STATISTICS, perspectives=perspectives)


def test_a_prompt_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`task` is blank"):
        write_prompt(None, dataset="", task=" ")


@pytest.mark.parametrize("word", DEPTH_WORDS)
def test_the_default_prompt_is_60_to_90_tokens_long(bert_tokenizer, word):
    ids = bert_tokenizer(write_prompt(ImageStatistics(100, 255, 128, word)))["input_ids"]
    assert 60 <= len(ids) <= 90 and bert_tokenizer.unk_token_id not in ids
