"""Frames as training reads them."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde.processing import DepthAugmentation, DepthSample, Intrinsics
from llm_mde.training import AugmentedFrames, AugmentedStream, FramesInMemory


def as_tuple(frame: DepthSample) -> tuple[bytes, bytes]:
    return frame.image.tobytes(), frame.depth.tobytes()


def test_a_frame_is_augmented_anew_each_epoch_and_the_same_way_again(frames):
    augmented = AugmentedFrames(frames, DepthAugmentation(), seed=3)
    first = [as_tuple(augmented[index]) for index in range(len(frames))]
    assert [as_tuple(augmented[index]) for index in reversed(range(len(frames)))] == first[::-1]
    augmented.set_epoch(1)
    second = [as_tuple(augmented[index]) for index in range(len(frames))]
    assert all(one != two for one, two in zip(first, second, strict=True))
    augmented.set_epoch(0)
    assert as_tuple(augmented[5]) == first[5]
    assert as_tuple(AugmentedFrames(frames, DepthAugmentation(), seed=4)[5]) != first[5]


def test_a_worker_that_lives_on_learns_of_the_next_epoch(frames):
    augmented = AugmentedFrames(frames, DepthAugmentation(), seed=3)
    loader = torch.utils.data.DataLoader(
        augmented, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    first = [as_tuple(frame) for frame in loader]
    augmented.set_epoch(1)
    second = [as_tuple(frame) for frame in loader]
    assert first != second
    assert second == [as_tuple(augmented[index]) for index in range(len(frames))]


def test_augmented_frames_can_be_sent_to_a_worker(frames):
    augmented = AugmentedFrames(frames, DepthAugmentation(), seed=3)
    assert as_tuple(pickle.loads(pickle.dumps(augmented))[2]) == as_tuple(augmented[2])


class CountingFrames(list):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_frames_in_memory_are_read_once():
    frames = CountingFrames([DepthSample(Image.new("RGB", (64, 48)), np.ones((48, 64), np.float32), None, "a")])
    kept = FramesInMemory(frames, 24, 24)
    assert kept[0] is kept[0]
    assert frames.reads == 1


def test_filled_memory_is_shared_by_workers_of_every_epoch():
    frame = DepthSample(Image.new("RGB", (64, 48)), np.ones((48, 64), np.float32), None, "a")
    frames = CountingFrames([frame] * 3)
    kept = FramesInMemory(frames, 24, 24)
    kept.fill()
    assert frames.reads == 3
    frames.clear()  # a worker that read again would find nothing
    loader = torch.utils.data.DataLoader(kept, batch_size=None, sampler=range(3), num_workers=1)
    for _ in range(2):
        assert [frame.image.size for frame in loader] == [(32, 24)] * 3


def test_frames_in_memory_are_reduced_to_cover_the_size_and_their_camera_with_them():
    camera = Intrinsics(fx=50, fy=50, cx=31.5, cy=23.5)  # the centre of 64 x 48
    depth = np.arange(48 * 64, dtype=np.float32).reshape(48, 64)
    frame = FramesInMemory([DepthSample(Image.new("RGB", (64, 48)), depth, camera, "a")], 12, 32)[0]
    assert frame.image.size == (32, 24)  # half: as wide as asked for, higher
    assert frame.depth.shape == (24, 32)
    assert set(frame.depth.ravel()) <= set(depth.ravel())
    assert frame.intrinsics == Intrinsics(fx=25, fy=25, cx=15.5, cy=11.5)


@pytest.mark.parametrize("size", [(48, 64), (100, 100)])
def test_frames_in_memory_are_never_enlarged(size):
    depth = np.ones((24, 32), np.float32)  # lower than the photograph's resolution
    frame = FramesInMemory([DepthSample(Image.new("RGB", (64, 48)), depth, None, "a")], *size)[0]
    assert frame.image.size == (64, 48)
    assert frame.depth.shape == (24, 32)


class Stream(torch.utils.data.IterableDataset):
    epoch = 0

    def __init__(self, frames):
        self.frames = frames

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(self.frames)


def test_a_stream_is_augmented_anew_each_epoch_and_the_same_way_again(frames):
    stream = AugmentedStream(Stream(frames), DepthAugmentation(), seed=3)
    first = [as_tuple(frame) for frame in stream]
    assert [as_tuple(frame) for frame in stream] == first
    stream.set_epoch(1)
    assert stream.frames.epoch == 1
    assert all(one != two for one, two in zip(first, map(as_tuple, stream), strict=True))
