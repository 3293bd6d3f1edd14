"""Pictures that compress about as photographs do, and frames of them with depth, made on the fly."""

from pathlib import Path

import numpy as np
from PIL import Image

from llm_mde.processing import write_depth_png


def make_photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Soft shapes of all sizes and some noise, `(height, width)` pixels."""
    generator = np.random.default_rng(seed)
    height, width = size
    picture = np.zeros((height, width, 3))
    for cells in (3, 10, 40):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 3
    picture += generator.normal(0, 4, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_frames(folder: Path, count: int, suffix: str, size: tuple[int, int]) -> Path:
    """`rgb/` with photographs as `suffix` (".jpg" or ".png") and `depth/` in millimetres, a tenth of it missing."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        make_photograph(size, number).save(folder / "rgb" / f"{number:04d}{suffix}")
        ramp = np.linspace(1, 5, size[0])[:, None] + generator.random(size) / 10
        depth = np.where(generator.random(size) < 0.1, 0, ramp).astype(np.float32)
        write_depth_png(folder / "depth" / f"{number:04d}.png", depth)
    return folder


__all__ = ["make_photograph", "write_frames"]
