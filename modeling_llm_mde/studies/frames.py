"""Few frames made into whole batches, so that a step is as much work with two frames as with twenty."""

import math

from torch.utils.data import Dataset


class RepeatedFrames(Dataset):
    """
    A map-style dataset that comes round as often as it takes to fill whole batches, each frame equally often.

    Of `n` frames, the one at place `i` comes again at `i + n`, `i + 2 n` and so on. Augmentation that draws by place
    ([`AugmentedFrames`] around this) makes each copy another one.

    Args:
        frames (`Sequence[DepthSample]`): A map-style dataset, not empty.
        batch_size (`int`): Frames in a batch.
    """

    def __init__(self, frames, batch_size: int):
        self.frames = frames
        self.length = math.lcm(len(frames), batch_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return self.frames[index % len(self.frames)]


__all__ = ["RepeatedFrames"]
