"""From a JPEG on disk to metres in memory: processor, model and post-processing, beside the bare encoders."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.contenders import Floor, Ours, build_processor, forward_of, our_name, preset_contender
from benchmarks.photographs import make_photograph
from benchmarks.rows import Row
from benchmarks.sections import Bench
from benchmarks.timing import Call, time_rounds
from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.presets import PRESETS

SETTING = "{}: JPEG of 480x640 to metres at 480x640, float32"
MODEL, PROCESSOR = "model alone", "processor alone"
_SIZE = (480, 640)
_SECONDS = 45


def measure(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "photograph.jpg"
        make_photograph(_SIZE).save(photograph, quality=90)
        for preset in ["paper"] if bench.is_quick else PRESETS:
            calls = preset_calls(preset, photograph)
            floor = f"floor of {our_name(preset)}"
            times = time_rounds(calls, bench.rounds, _SECONDS)
            for name, seconds in times.items():
                reference = {our_name(preset): floor, floor: floor}.get(name, MODEL)
                yield Row(SETTING.format(preset), name, "224x224", seconds, 1, reference)


def preset_calls(preset: str, photograph: Path) -> dict[str, Call]:
    """The whole way and its parts. The prompt is the photograph's own, and the floor reads as many tokens."""
    contender, processor = preset_contender(preset), build_processor(preset)
    model = contender.build()
    inputs = processor(images=str(photograph), return_tensors="pt")
    contender = Ours(contender.name, contender.config, tuple(inputs["input_ids"][0].tolist()))
    floor = Floor(contender)
    image = Image.open(photograph)
    image.load()
    with torch.no_grad():
        outputs = model(**inputs)
    return {
        contender.name: partial(predict_metres, model, processor, photograph),
        floor.name: forward_of(floor.build(), floor.inputs(tuple(inputs["pixel_values"].shape[-2:]), 1)),
        MODEL: forward_of(model, inputs),
        PROCESSOR: lambda: processor(images=image, return_tensors="pt"),
        "JPEG decoding alone": lambda: Image.open(photograph).convert("RGB"),
        "post-processing alone": lambda: processor.post_process_depth_estimation(outputs, target_sizes=[_SIZE]),
    }


@torch.no_grad()
def predict_metres(model: LLMMDEForDepthEstimation, processor: LLMMDEProcessor, photograph: Path) -> torch.Tensor:
    """Depth `(height, width)` at the photograph's resolution, in metres."""
    outputs = model(**processor(images=str(photograph), return_tensors="pt"))
    (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[_SIZE])
    return result["predicted_depth"]


__all__ = ["MODEL", "PROCESSOR", "SETTING", "measure", "predict_metres", "preset_calls"]
