"""Batches: the processor's arguments, and prompts that fit the photographs in them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from llm_mde.processing import DepthAugmentation, DepthCollator, DepthSample, LLMMDEImageProcessor, LLMMDEProcessor

from .conftest import make_bert_tokenizer


class RecordingProcessor:
    """Keeps what it is given."""

    def __call__(self, images, depth_maps, return_tensors):
        self.images, self.depth_maps, self.return_tensors = images, depth_maps, return_tensors
        return BatchFeature({"labels": torch.zeros(len(images), 8, 8)})


def ramp(height=40, width=60):
    """The red channel counts columns and the green one rows; depth is their sum in centimetres."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return DepthSample(Image.fromarray(pixels), (0.01 * (columns + rows)).astype(np.float32), None, "ramp")


def test_samples_arrive_at_the_processor_as_they_are():
    processor, samples = RecordingProcessor(), [ramp(), ramp()]
    DepthCollator(processor)(samples)
    assert all(image is sample.image for image, sample in zip(processor.images, samples, strict=True))
    assert all(depth is sample.depth for depth, sample in zip(processor.depth_maps, samples, strict=True))
    assert processor.return_tensors == "pt"


@pytest.mark.parametrize("augmentation", [None, DepthAugmentation(), DepthAugmentation.strong()])
def test_the_prompt_states_the_statistics_of_the_photograph_the_model_sees(augmentation):
    """Without a resize, so that the numbers can be read off the augmented photograph itself."""
    image_processor = LLMMDEImageProcessor(do_resize=False)
    processor = LLMMDEProcessor(image_processor, make_bert_tokenizer(), max_prompt_length=96)
    sample = ramp()
    if augmentation is not None:
        sample = augmentation(sample, torch.Generator().manual_seed(3))
        assert (np.min(sample.image), np.max(sample.image)) != (0, 59)
    batch = DepthCollator(processor)([sample])
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "pixel_values"]
    stated = re.search(
        r"range from (\d+) to (\d+) with a median of (\d+)", processor.tokenizer.decode(batch["input_ids"][0])
    )
    lower_median = int(np.quantile(sample.image, 0.5, method="inverted_cdf"))
    assert [int(number) for number in stated.groups()] == [np.min(sample.image), np.max(sample.image), lower_median]
    torch.testing.assert_close(batch["input_ids"], processor(sample.image, return_tensors="pt")["input_ids"])


def test_metres_stay_metres_with_a_processor_that_was_set_up_for_millimetres():
    images = LLMMDEImageProcessor(size={"height": 40, "width": 60}, depth_scale=0.001)
    processor = LLMMDEProcessor(images, make_bert_tokenizer(), max_prompt_length=96)
    labels = DepthCollator(processor)([ramp()])["labels"]
    np.testing.assert_array_equal(labels[0], ramp().depth)


def test_what_cannot_be_collated_is_refused():
    with pytest.raises(ValueError, match="samples"):
        DepthCollator(RecordingProcessor())([])
    with pytest.raises(ValueError, match="dict"):
        DepthCollator(RecordingProcessor())([{"image": 1}])
