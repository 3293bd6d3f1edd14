"""What is measured, one module for each section: its `measure(bench)` gives rows, and may be run alone."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row

if TYPE_CHECKING:
    from benchmarks.machine import GemmRate

# In the order in which they are run: what others are compared with first.
SECTIONS = {
    "inference": "latency, throughput and arithmetic of one forward pass",
    "compiled": "the same after torch.compile",
    "memory": "what a forward pass holds, and what each further image of a batch adds",
    "training": "time and memory of a training step with LoRA",
    "parts": "what the parts between the encoders take of a forward pass and of a step",
    "end_to_end": "from a JPEG on disk to metres at its resolution",
    "growth": "latency over resolution, beside the vision tower's own",
    "loader": "frames a second from disk to batches",
    "startup": "how long the import takes, how large an adapter is",
    "profile": "which kinds of operators the time goes to",
    "gpu": "inference and training in bfloat16 on CUDA",
}


@dataclass(frozen=True)
class Bench:
    """What all sections are told.

    Args:
        rounds (`int`): Most rounds in one setting.
        gemm ([`GemmRate`]): Of this machine's CPU.
        is_quick (`bool`, *optional*, defaults to `False`): Whether to leave out what takes long.
        is_full (`bool`, *optional*, defaults to `False`): Whether to add what takes very long.
        authors (`Path`, *optional*): Clone of the authors' release.
        data (`Path`, *optional*): RGB-D frames of one's own.
    """

    rounds: int
    gemm: "GemmRate"
    is_quick: bool = False
    is_full: bool = False
    authors: Path | None = None
    data: Path | None = None


def find_section(name: str) -> Callable[[Bench], Iterator[Row]]:
    """What measures this section.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in SECTIONS:
        raise ValueError(f"`only` has {name!r}; choose of {', '.join(SECTIONS)}.")
    return importlib.import_module(f".{name}", __name__).measure


def left_out(setting: str, contender: str, reason: str) -> Row:
    return Row(setting, contender, not_measured=reason)


__all__ = ["SECTIONS", "Bench", "find_section", "left_out"]
