"""Prompts of another photograph, missing ones, and the measure of complexity."""

import numpy as np
import pytest
import torch
from PIL import ImageOps

from llm_mde.processing import DepthCollator
from llm_mde.studies.frames import RepeatedFrames
from llm_mde.studies.prompts import (
    DEFAULT,
    FULL,
    SHUFFLED,
    WITHOUT,
    WRONG,
    ShuffledPrompts,
    altered_processor,
    depth_complexity,
)
from llm_mde.training import AugmentedFrames
from tests.conftest import make_pair
from tests.training.conftest import make_frames


@pytest.fixture
def processor():
    return make_pair()[1]


def prompts_of(processor, frames) -> list[str]:
    return processor(images=[frame.image for frame in frames], return_prompt=True)["prompt"]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_each_photograph_gets_the_prompt_of_another_one(count, processor):
    frames = make_frames(count)
    own = prompts_of(processor, frames)
    assert len(set(own)) == count  # so that a prompt says whose it is
    shuffled = ShuffledPrompts(frames, processor=processor, seed=0)
    carried = [shuffled[index].image.info["prompt"] for index in range(len(shuffled))]
    assert sorted(carried) == sorted(own)
    assert all(mine != other for mine, other in zip(own, carried, strict=True))
    again = ShuffledPrompts(frames, processor=processor, seed=0)
    assert carried == [again[index].image.info["prompt"] for index in range(count)]
    assert "prompt" not in frames[0].image.info


def test_a_carried_prompt_is_what_the_model_reads_also_of_the_mirror_image(processor):
    frames = make_frames(3)
    frame = ShuffledPrompts(frames, processor=processor, seed=0)[1]
    expected = processor.tokenizer(frame.image.info["prompt"])["input_ids"]
    reading = altered_processor(SHUFFLED, processor, "")
    for image in (frame.image, ImageOps.mirror(frame.image)):
        assert reading(images=[image], return_tensors="pt")["input_ids"][0].tolist() == expected
    batch = DepthCollator(reading)([frame])
    assert batch["labels"].shape == batch["pixel_values"].shape[:1] + batch["pixel_values"].shape[2:]


def test_shuffling_reaches_through_augmentation_and_epochs(processor):
    from llm_mde.processing import DepthAugmentation

    augmented = AugmentedFrames(make_frames(4), DepthAugmentation(colour=2.0), seed=0)
    shuffled = ShuffledPrompts(augmented, processor=processor, seed=0)
    first = [shuffled[index].image.info["prompt"] for index in range(4)]
    assert sorted(first) == sorted(prompts_of(processor, [augmented[index] for index in range(4)]))
    shuffled.set_epoch(1)
    assert first != [shuffled[index].image.info["prompt"] for index in range(4)]


def test_a_repeated_frame_does_not_get_its_own_prompt_either(processor):
    frames = make_frames(3)
    own = prompts_of(processor, frames)
    shuffled = ShuffledPrompts(RepeatedFrames(frames, 4), 3, processor=processor, seed=0)
    carried = [shuffled[index].image.info["prompt"] for index in range(12)]
    assert carried == 4 * carried[:3] and sorted(carried[:3]) == sorted(own)
    assert all(mine != other for mine, other in zip(4 * own, carried, strict=True))


def test_one_frame_cannot_exchange_its_prompt(processor):
    with pytest.raises(ValueError, match="`frames` has 1 frames"):
        ShuffledPrompts(make_frames(1), processor=processor, seed=0)


@pytest.mark.parametrize("variant", [FULL, *WITHOUT, WRONG])
def test_each_variant_changes_its_own_sentence(variant, processor):
    frames = make_frames(1)
    (before,) = prompts_of(processor, frames)
    (after,) = prompts_of(altered_processor(variant, processor, "A street."), frames)
    sentences = {"dataset": "The photograph", "task": "Task:", "pixel": "Pixel values", "class": "Judged by"}
    missing = {WITHOUT.get(variant), "dataset" if variant == WRONG else None} - {None}
    assert {name for name, start in sentences.items() if start not in after} == missing
    assert ("A street." in after) == (variant == WRONG)
    assert (before == after) == (variant == FULL)
    assert prompts_of(processor, frames) == [before]


def test_without_words_the_model_reads_its_default_prompt():
    model, processor = make_pair()
    frames = make_frames(2)
    inputs = altered_processor(DEFAULT, processor, "")(images=[frame.image for frame in frames], return_tensors="pt")
    assert set(inputs) == {"pixel_values"}
    ids = torch.tensor([model.config.default_prompt_ids] * 2)
    with torch.no_grad():
        expected = model(inputs["pixel_values"], input_ids=ids).predicted_depth
        assert torch.equal(model(**inputs.to(model.device, model.dtype)).predicted_depth, expected)


def test_complexity_is_the_share_of_neighbours_at_a_depth_edge():
    depth = np.full((4, 4), 2.0, dtype=np.float32)
    assert depth_complexity(depth) == 0
    depth[:, 2:] = 2.19  # less than 10 %
    assert depth_complexity(depth) == 0
    depth[:, 2:] = 2.21  # one of three pairs in each of 4 rows, of 24 pairs
    assert depth_complexity(depth) == pytest.approx(4 / 24)
    depth[0] = 0  # not measured: 3 rows with 9 pairs to the side, 8 below
    assert depth_complexity(depth) == pytest.approx(3 / 17)
    assert depth_complexity(np.zeros((4, 4), dtype=np.float32)) == 0


def test_complexity_does_not_depend_on_the_resolution():
    depth = np.ones((60, 80), dtype=np.float32)
    depth[:, 40:] = 3.0
    assert depth_complexity(depth.repeat(4, 0).repeat(4, 1)) == depth_complexity(depth) == pytest.approx(60 / 9460)
