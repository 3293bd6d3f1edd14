"""Latency over resolution, of LLM-MDE and of its own vision tower alone."""

from collections.abc import Iterator

from benchmarks.contenders import forward_of, preset_contender
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.timing import time_rounds

SIDES, QUICK_SIDES = (224, 384, 512, 768, 1024), (224, 384)
SETTING = "{0}x{0}, batch 1, float32"
TOWER = "its vision tower alone"
_SECONDS = 20
_LARGEST_WARM_UP = 384  # beyond it a pass takes long, and what it needs is warm


def measure(bench: Bench) -> Iterator[Row]:
    paper = preset_contender("paper")
    model = paper.build()
    for side in QUICK_SIDES if bench.is_quick else SIDES:
        calls, warm_ups = {}, {}
        for pixels, passes in ((side, calls), (min(side, _LARGEST_WARM_UP), warm_ups)):
            inputs = paper.inputs((pixels, pixels), 1)
            seen = {
                "pixel_values": inputs["pixel_values"],
                "interpolate_pos_encoding": pixels != paper.config.vision_config.image_size,
            }
            passes |= {paper.name: forward_of(model, inputs), TOWER: forward_of(model.vision_tower, seen)}
        times = time_rounds(calls, bench.rounds, _SECONDS, warm_ups)
        for name, seconds in times.items():
            yield Row(SETTING.format(side), name, seconds=seconds, images=1, reference=TOWER)
    for side in SIDES if bench.is_quick else ():
        if side not in QUICK_SIDES:
            yield left_out(SETTING.format(side), "all", "left out by --quick")


__all__ = ["QUICK_SIDES", "SETTING", "SIDES", "TOWER", "measure"]
