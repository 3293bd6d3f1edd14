"""Small files of exactly the formats of the benchmarks."""

import csv

import numpy as np
from PIL import Image

from llm_mde.processing import write_depth_png
from llm_mde.processing.datasets import REQUIRED_COLUMNS


def write_photograph(path, size=(8, 6), colour=(10, 20, 30)):
    """A photograph of one colour; JPEG changes it by a level or two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_raw(path, raw, size=(8, 6)):
    """A 16-bit PNG: one raw value everywhere, or an array of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(size[::-1], raw) if np.isscalar(raw) else np.asarray(raw)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


def write_pairs(root, stems, metres=1.0):
    """Photographs in rgb/ and their constant depth in millimetres in depth/."""
    for stem in stems:
        write_photograph(root / "rgb" / f"{stem}.png")
        write_raw(root / "depth" / f"{stem}.png", round(1000 * metres))


def write_noise_pairs(root, count, size):
    """Photographs and depth from 1 to 5 metres in rgb/ and depth/, every pixel drawn."""
    generator = np.random.default_rng(0)
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / "rgb" / f"{index}.png")
        write_depth_png(root / "depth" / f"{index}.png", generator.uniform(1, 5, size).astype(np.float32))
    return root


def write_index(root, rows, columns=(*REQUIRED_COLUMNS, "fx", "fy", "cx", "cy")):
    with (root / "index.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def index_row(stem, **changes):
    return {
        "rgb": f"rgb/{stem}.png",
        "depth": f"depth/{stem}.png",
        "split": "train",
        "dataset": "office",
        "scene": "desk",
        "depth_encoding": "png16",
        "depth_scale_to_metres": "0.001",
        "depth_offset_metres": "0",
        "invalid_raw_values": "0;2000",
    } | changes
