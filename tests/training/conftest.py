"""Frames whose depth can be seen in the photograph: brighter is farther."""

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import DepthSample


def make_frames(count: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> list[DepthSample]:
    """Photographs of one noisy grey level each; 1 m where black, 5 m where white, a tenth of the pixels missing."""
    generator = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        level = generator.uniform(0.1, 0.9)
        image = np.clip(level + generator.normal(0, 0.05, (*size, 3)), 0, 1)
        depth = np.full(size, 1 + 4 * level, dtype=np.float32)
        depth[generator.random(size) < 0.1] = 0
        frames.append(DepthSample(Image.fromarray((255 * image).astype(np.uint8)), depth, None, f"frame {index}"))
    return frames


@pytest.fixture
def frames() -> list[DepthSample]:
    return make_frames(8)
