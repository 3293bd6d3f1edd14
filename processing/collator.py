"""From samples to a batch: optional joint augmentation, then the processor."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F
from transformers import BatchFeature

from .datasets import DepthSample


class DepthCollator:
    """Turn a list of [`DepthSample`] into `pixel_values`, `input_ids`, `attention_mask` and `labels`.

    Everything about sizes, prompts and missing pixels is the processor's:
    `processor(images=[...], depth_maps=[...], return_tensors="pt")`.

    With `augment=True`, photograph and depth are first mirrored left to right with probability 0.5 and cut to a random
    window that keeps the aspect ratio and at least `min_crop` of the side; the photograph alone is jittered in
    brightness, contrast, saturation and hue. **No depth value is changed.** The processor enlarges the window to its
    size, so a window of a share s looks like a focal length of f / s. Dividing z by s would keep the focal length and
    pretend that the camera stood nearer, which no camera would see so (nearer things would hide others). The window is
    therefore mild by default: the apparent focal length varies by at most a quarter, as between cameras.

    The draws come from a generator of the collator's own. In the main process a `seed` fixes their sequence. In a
    worker of a `DataLoader` the seed is joined with the worker's, which PyTorch draws anew each epoch from the
    loader's generator: epochs and workers differ, and a run with a fixed `torch.manual_seed` repeats.

    Args:
        processor (`Callable`): An `LLMMDEProcessor`, or anything with its signature.
        augment (`bool`, *optional*, defaults to `False`): Whether to augment. Never for evaluation.
        seed (`int`, *optional*): Seed of the draws; by default PyTorch's own.
        min_crop (`float`, *optional*, defaults to 0.8): Smallest share of the side that a window keeps, 0 < s <= 1.

    Raises:
        ValueError: If `min_crop` is not in (0, 1].
    """

    def __init__(self, processor, augment: bool = False, seed: int | None = None, min_crop: float = 0.8):
        if not 0 < min_crop <= 1:
            raise ValueError(f"`min_crop` is {min_crop}; pass a share of the side in (0, 1], 1 for no crop.")
        self.processor = processor
        self.augment = augment
        self.seed = seed
        self.min_crop = min_crop
        self._generator: torch.Generator | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_generator": None}  # a worker draws its own

    def __call__(self, samples: Sequence[DepthSample]) -> BatchFeature:
        """Collate.

        Raises:
            ValueError: If the list is empty, holds something else than samples, or a depth map to be augmented does
                not have the aspect ratio of its photograph.
        """
        if not samples:
            raise ValueError("`samples` is empty; pass at least one `DepthSample`.")
        strangers = [type(sample).__name__ for sample in samples if not isinstance(sample, DepthSample)]
        if strangers:
            raise ValueError(f"`samples` holds {strangers[0]}; pass `DepthSample`s, as `RGBDFolder` returns them.")
        pairs = [self._augmented(sample) if self.augment else (sample.image, sample.depth) for sample in samples]
        images, depth_maps = (list(column) for column in zip(*pairs, strict=True))
        return self.processor(images=images, depth_maps=depth_maps, return_tensors="pt")

    def _augmented(self, sample: DepthSample) -> tuple[Image.Image, np.ndarray]:
        image = tv_tensors.Image(F.pil_to_tensor(sample.image))  # (3, H, W), uint8
        # A mask is resized by nearest neighbour only: a mean across an edge is a depth that nobody measured.
        depth = tv_tensors.Mask(torch.from_numpy(np.array(sample.depth, dtype=np.float32))[None])  # (1, H, W)
        size = list(image.shape[-2:])
        if list(depth.shape[-2:]) != size:
            if abs(depth.shape[-1] * size[0] / (depth.shape[-2] * size[1]) - 1) > 0.02:
                raise ValueError(
                    f"`samples` holds {sample.name!r} with an image {size} but depth {list(depth.shape[-2:])} "
                    "(height, width); a pair shows the same field of view, so crop one of them first."
                )
            depth = F.resize(depth, size)

        if self._draw() < 0.5:
            image, depth = F.horizontal_flip(image), F.horizontal_flip(depth)
        share = self.min_crop + (1 - self.min_crop) * self._draw()
        height, width = (max(1, round(share * side)) for side in size)
        top, left = int(self._draw() * (size[0] - height + 1)), int(self._draw() * (size[1] - width + 1))
        image, depth = F.crop(image, top, left, height, width), F.crop(depth, top, left, height, width)

        image = F.to_pil_image(image)  # Pillow changes colours several times faster than tensors on a CPU
        image = F.adjust_brightness(image, 0.8 + 0.4 * self._draw())
        image = F.adjust_contrast(image, 0.8 + 0.4 * self._draw())
        image = F.adjust_saturation(image, 0.8 + 0.4 * self._draw())
        image = F.adjust_hue(image, 0.04 * self._draw() - 0.02)
        return image, depth[0].numpy()

    def _draw(self) -> float:
        """One number in [0, 1)."""
        if self._generator is None:
            worker = get_worker_info()
            # In a worker, torch.initial_seed() is the worker's seed of this epoch.
            seed = torch.initial_seed() if self.seed is None else self.seed + (worker.seed if worker else 0)
            self._generator = torch.Generator().manual_seed(seed % 2**63)
        return float(torch.rand((), generator=self._generator))
