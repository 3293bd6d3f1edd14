"""Batches: the processor's arguments, and augmentation that moves photograph and depth as one."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from llm_mde.processing import DepthCollator, DepthSample


class RecordingProcessor:
    """Keeps what it is given; resizes like a processor, to 8 x 8."""

    def __call__(self, images, depth_maps, return_tensors):
        self.images, self.depth_maps, self.return_tensors = images, depth_maps, return_tensors
        pixels = [np.asarray(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1) for image in images]
        labels = [np.asarray(Image.fromarray(depth).resize((8, 8), Image.Resampling.NEAREST)) for depth in depth_maps]
        return BatchFeature(
            {
                "pixel_values": torch.from_numpy(np.stack(pixels)),
                "input_ids": torch.ones(len(images), 4, dtype=torch.long),
                "attention_mask": torch.ones(len(images), 4, dtype=torch.long),
                "labels": torch.from_numpy(np.stack(labels)),
            }
        )


def ramp(height=40, width=60, depth_size=None):
    """The red channel counts columns and the green one rows; depth is their sum in centimetres, 0 in one corner."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    depth = (0.01 * (columns + rows)).astype(np.float32)
    if depth_size is not None:
        depth = np.ones(depth_size, dtype=np.float32)
    return DepthSample(Image.fromarray(pixels), depth, None, "ramp")


def test_samples_become_the_four_tensors_of_a_batch():
    processor = RecordingProcessor()
    batch = DepthCollator(processor)([ramp(), ramp()])
    assert sorted(batch) == ["attention_mask", "input_ids", "labels", "pixel_values"]
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["labels"].shape == (2, 8, 8)
    assert processor.return_tensors == "pt"


def test_without_augmentation_samples_arrive_as_they_are():
    processor, sample = RecordingProcessor(), ramp()
    DepthCollator(processor, seed=0)([sample])
    assert processor.images[0] is sample.image
    assert processor.depth_maps[0] is sample.depth


def test_augmentation_keeps_each_depth_on_its_pixel_and_in_its_metres(monkeypatch):
    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"):
        monkeypatch.setattr(f"llm_mde.processing.collator.F.{name}", lambda image, factor: image)
    processor, sample = RecordingProcessor(), ramp()
    DepthCollator(processor, augment=True, seed=0)([sample] * 24)
    flipped = 0
    for image, depth in zip(processor.images, processor.depth_maps, strict=True):
        pixels = np.asarray(image).astype(np.float64)
        assert pixels.shape[:2] == depth.shape
        np.testing.assert_allclose(depth, 0.01 * (pixels[..., 0] + pixels[..., 1]), atol=1e-6)
        flipped += pixels[0, 0, 0] > pixels[0, -1, 0]
    assert 4 < flipped < 20
    assert len({image.size for image in processor.images}) > 3


def test_a_window_keeps_the_aspect_ratio_and_four_fifths_of_the_side():
    processor = RecordingProcessor()
    DepthCollator(processor, augment=True, seed=1)([ramp(400, 600)] * 30)
    shares = [image.height / 400 for image in processor.images]
    assert min(shares) >= 0.8
    assert max(shares) <= 1
    assert max(shares) - min(shares) > 0.1
    for image in processor.images:
        assert image.width / image.height == pytest.approx(1.5, abs=0.01)


def test_no_depth_value_is_invented():
    processor, sample = RecordingProcessor(), ramp(depth_size=(20, 30))
    depth = np.where(np.arange(30) < 15, np.float32(1), np.float32(9)) * np.ones((20, 1), dtype=np.float32)
    depth[:3] = 0
    DepthCollator(processor, augment=True, seed=2)([DepthSample(sample.image, depth, None, "edge")] * 8)
    for augmented in processor.depth_maps:
        assert set(np.unique(augmented)) <= {0.0, 1.0, 9.0}


def test_colours_change_and_depth_does_not():
    processor, sample = RecordingProcessor(), ramp()
    DepthCollator(processor, augment=True, seed=3, min_crop=1.0)([sample] * 6)
    for image, depth in zip(processor.images, processor.depth_maps, strict=True):
        np.testing.assert_array_equal(np.sort(depth, axis=None), np.sort(sample.depth, axis=None))
        assert not np.array_equal(np.sort(np.asarray(image), axis=None), np.sort(np.asarray(sample.image), axis=None))


def test_augmentation_leaves_the_sample_itself_alone():
    sample = ramp()
    pixels, depth = np.array(sample.image), sample.depth.copy()
    DepthCollator(RecordingProcessor(), augment=True, seed=0)([sample])
    np.testing.assert_array_equal(np.array(sample.image), pixels)
    np.testing.assert_array_equal(sample.depth, depth)


def test_one_seed_gives_one_sequence_and_another_seed_another():
    def batches(seed):
        collate = DepthCollator(RecordingProcessor(), augment=True, seed=seed)
        return [collate([ramp()])["pixel_values"] for _ in range(3)]

    first, again, other = batches(5), batches(5), batches(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_drawing_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DepthCollator(RecordingProcessor(), augment=True, seed=5)([ramp()])
    DepthCollator(RecordingProcessor(), augment=True)([ramp()])
    assert torch.equal(torch.rand(3), expected)


def test_a_collator_travels_to_a_worker():
    collate = DepthCollator(RecordingProcessor(), augment=True, seed=5)
    collate([ramp()])
    assert pickle.loads(pickle.dumps(collate))([ramp()])["labels"].shape == (1, 8, 8)


@pytest.mark.slow
def test_workers_and_epochs_draw_differently_and_a_fixed_loader_repeats():
    def two_epochs():
        collate = DepthCollator(RecordingProcessor(), augment=True, seed=5)
        generator = torch.Generator().manual_seed(0)
        loader = torch.utils.data.DataLoader(
            [ramp()] * 2, batch_size=1, num_workers=2, collate_fn=collate, generator=generator
        )
        return [batch["pixel_values"] for _ in range(2) for batch in loader]

    drawn = two_epochs()
    assert all(torch.equal(a, b) for a, b in zip(drawn, two_epochs(), strict=True))
    assert len({tuple(pixels.flatten().tolist()) for pixels in drawn}) == 4


def test_what_cannot_be_collated_is_refused():
    with pytest.raises(ValueError, match="samples"):
        DepthCollator(RecordingProcessor())([])
    with pytest.raises(ValueError, match="dict"):
        DepthCollator(RecordingProcessor())([{"image": 1}])
    with pytest.raises(ValueError, match="min_crop"):
        DepthCollator(RecordingProcessor(), min_crop=0)
    with pytest.raises(ValueError, match="same field of view"):
        DepthCollator(RecordingProcessor(), augment=True)([ramp(40, 60, depth_size=(20, 20))])
