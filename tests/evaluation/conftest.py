"""Photographs with measured depth, made of a few numbers."""

import numpy as np
from PIL import Image

from llm_mde.processing import DepthSample


def make_sample(depth, name: str = "0.png", seed: int = 0) -> DepthSample:
    """A photograph of noise at the size of a depth map in metres."""
    depth = np.asarray(depth, dtype=np.float32)
    image = np.random.default_rng(seed).integers(0, 256, (*depth.shape, 3), dtype=np.uint8)
    return DepthSample(image=Image.fromarray(image), depth=depth, intrinsics=None, name=name)


def make_samples(count: int, height: int = 24, width: int = 32) -> list[DepthSample]:
    """Random depth from 1 to 9 m, a tenth of it missing."""
    generator = np.random.default_rng(1)
    samples = []
    for index in range(count):
        depth = generator.uniform(1, 9, (height, width)) * (generator.random((height, width)) > 0.1)
        samples.append(make_sample(depth, name=f"rgb/{index}.png", seed=index))
    return samples
