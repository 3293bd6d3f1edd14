"""Frames a second from disk to batches: decoding, resizing, statistics, prompts, tokens, labels."""

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from transformers import BatchFeature

from benchmarks.contenders import build_processor
from benchmarks.photographs import write_frames
from benchmarks.rows import Row
from benchmarks.sections import Bench
from benchmarks.timing import time_rounds
from llm_mde.processing import DepthCollator, DepthDataset, RGBDFolder, load_depth_dataset

_BATCH_SIZE, _NUM_FRAMES, _SIZE = 8, 16, (480, 640)
_SECONDS = 20
MADE, OWN = "480x640, made here, batch 8", "frames of one's own, batch 8"


def measure(bench: Bench) -> Iterator[Row]:
    collator = DepthCollator(build_processor("paper"))
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            name: RGBDFolder(write_frames(Path(folder) / name, _NUM_FRAMES, suffix, _SIZE), split=None)
            for name, suffix in (("JPEG and 16-bit PNG", ".jpg"), ("PNG and 16-bit PNG", ".png"))
        }
        yield from _time_batches(bench, MADE, sets, collator)
    if bench.data is not None:
        own = load_depth_dataset(bench.data, split=None)
        yield from _time_batches(bench, OWN, {"frames of --data": own}, collator)


def _time_batches(bench: Bench, setting: str, sets: dict[str, DepthDataset], collator: DepthCollator) -> Iterator[Row]:
    calls = {name: partial(load_batch, frames, collator, spread_out(len(frames))) for name, frames in sets.items()}
    times = time_rounds(calls, bench.rounds, _SECONDS)
    for name, seconds in times.items():
        yield Row(setting, name, seconds=seconds, images=_BATCH_SIZE)


def spread_out(num_frames: int) -> list[int]:
    """A batch of frames from all over the set, again from the start where it is smaller than a batch."""
    every = max(1, num_frames // _BATCH_SIZE)
    return list(islice(cycle(range(0, num_frames, every)), _BATCH_SIZE))


def load_batch(frames: DepthDataset, collator: DepthCollator, indices: list[int]) -> BatchFeature:
    return collator([frames[index] for index in indices])


__all__ = ["MADE", "OWN", "load_batch", "measure", "spread_out"]
