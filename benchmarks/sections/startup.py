"""What comes before the first photograph: the import, and the file of an adapter."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.contenders import Ours, preset_contender
from benchmarks.rows import Row
from benchmarks.sections import Bench
from benchmarks.steps import prepare_training
from benchmarks.timing import time_rounds

SETTING = "import in a fresh interpreter"
OURS, PEER = "llm_mde", "Depth Anything's model and DPT's image processor"
_CODE = {
    OURS: "import llm_mde",
    PEER: "from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor",
}
_SECONDS = 200  # an import varies by more than the limit


def measure(bench: Bench) -> Iterator[Row]:
    calls = {
        name: partial(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True)
        for name, code in _CODE.items()
    }
    for name, seconds in time_rounds(calls, bench.rounds, _SECONDS).items():
        yield Row(SETTING, name, seconds=seconds, reference=PEER)
    paper = preset_contender("paper")
    yield Row("adapter, the paper's sizes", paper.name, numbers={"file_mb": adapter_megabytes(paper)})


def adapter_megabytes(contender: Ours) -> float:
    """The weights' file as PEFT writes it, in float32: low-rank updates, and the new layers whole."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_training(contender).module.save_pretrained(folder)
        return (Path(folder) / "adapter_model.safetensors").stat().st_size / 1e6


__all__ = ["OURS", "PEER", "SETTING", "adapter_megabytes", "measure"]
