"""Frames as training reads them: augmented anew each epoch, or kept small in memory."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers import TrainerCallback, TrainerState

from llm_mde.processing import DepthAugmentation, DepthSample


class _Augmented:
    """What is augmented how, and in which epoch; the number lies in shared memory, where workers see it too."""

    def __init__(self, frames, augmentation: DepthAugmentation, seed: int = 0):
        self.frames = frames
        self.augmentation = augmentation
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def _draws(self, *key: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, int(self._epoch), *key]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class AugmentedFrames(_Augmented, Dataset):
    """
    A map-style dataset whose frames are augmented, differently in each epoch.

    The draws depend on the seed, the epoch and the frame's place alone. So neither the number of workers or processes
    nor an interruption changes them: a resumed run sees what an uninterrupted one would have seen. [`DepthTrainer`]
    tells the epoch; a stock Trainer does so with [`EpochCallback`].

    Args:
        frames (`Sequence[DepthSample]`): A map-style dataset, such as `RGBDFolder`.
        augmentation (`DepthAugmentation`): What to do with each.
        seed (`int`, *optional*, defaults to 0): Of the draws.
    """

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> DepthSample:
        return self.augmentation(self.frames[index], self._draws(index))


class AugmentedStream(_Augmented, IterableDataset):
    """
    [`AugmentedFrames`] for a stream: the draws depend on the seed, the epoch, the worker and the place in its stream.

    Args:
        frames (`StreamingDepthDataset`): A stream of samples.
        augmentation (`DepthAugmentation`): What to do with each.
        seed (`int`, *optional*, defaults to 0): Of the draws.
    """

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.frames.set_epoch(epoch)

    def __iter__(self) -> Iterator[DepthSample]:
        worker = get_worker_info()
        for place, frame in enumerate(self.frames):
            yield self.augmentation(frame, self._draws(worker.id if worker else 0, place))


class EpochCallback(TrainerCallback):
    """
    Tells the training set which epoch begins, if it has `set_epoch`.

    Accelerate does so for one process, but not for several (1.15: it stops at the sampler), whose epochs would then
    all be augmented alike.
    """

    def on_epoch_begin(self, args, state: TrainerState, control, train_dataloader=None, **kwargs) -> None:
        dataset = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch + 1e-6))  # a fraction of an epoch after a resume


class FramesInMemory(Dataset):
    """
    A map-style dataset that decodes each frame once, reduces it, and keeps it: for sets that are read a hundred times.

    Photographs are reduced by area, depth to the nearest measurement, so that no depth is invented between two.
    Frames are never enlarged. Workers of a `DataLoader` are made anew for each epoch and forget what they kept: call
    [`FramesInMemory.fill`] before.

    Args:
        frames (`Sequence[DepthSample]`): A map-style dataset.
        height, width (`int`): Largest size to keep; twice the model's leaves augmentation room to crop.
    """

    def __init__(self, frames, height: int, width: int):
        self.frames = frames
        self.height, self.width = height, width
        self._kept: dict[int, DepthSample] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> DepthSample:
        if index not in self._kept:
            self._kept[index] = self._reduced(self.frames[index])
        return self._kept[index]

    def fill(self) -> None:
        """Reads all frames now; worker processes that are forked later share them."""
        for index in range(len(self)):
            self[index]

    def _reduced(self, frame: DepthSample) -> DepthSample:
        width, height = frame.image.size
        scale = min(1.0, max(self.height / height, self.width / width))
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        depth = torch.from_numpy(frame.depth)[None, None]
        if depth.shape[-2] > size[0]:
            depth = F.interpolate(depth, size=size, mode="nearest-exact")
        camera = frame.intrinsics
        if camera is not None:
            x, y = size[1] / width, size[0] / height
            # Pixel centres lie at integers: the left edge of the picture is at -0.5 before and after.
            centre = {"cx": x * (camera.cx + 0.5) - 0.5, "cy": y * (camera.cy + 0.5) - 0.5}
            camera = replace(camera, fx=x * camera.fx, fy=y * camera.fy, **centre)
        image = frame.image.resize(size[::-1], reducing_gap=2.0)
        return replace(frame, image=image, depth=depth[0, 0].numpy(), intrinsics=camera)


__all__ = ["AugmentedFrames", "AugmentedStream", "EpochCallback", "FramesInMemory"]
