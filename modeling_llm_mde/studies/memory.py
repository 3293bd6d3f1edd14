"""How much memory a run takes: in a process of its own, since a process never forgets what it once held."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import torch
from transformers import logging

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
Result = TypeVar("Result")


def in_fresh_process(work: Callable[[], Result]) -> Result:
    """
    What `work()` returns in a process started for it, with as many threads as this one. Both can be pickled.

    Raises:
        ValueError: If the process was killed, as the system does where memory ends.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, _begin, (torch.get_num_threads(),)) as pool:
            return pool.submit(work).result()
    except BrokenProcessPool as error:
        raise ValueError(
            "the process of a run ended without a result, perhaps for want of memory; lower `batch_size`, or leave "
            "this run out."
        ) from error


def _begin(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    logging.disable_progress_bar()


def is_fresh_process() -> bool:
    """Whether this is a process of [`in_fresh_process`]."""
    return multiprocessing.parent_process() is not None


def peak_memory_mb(device: torch.device) -> float:
    """The most that was held since the start or [`forget_peak`]: of tensors on a CUDA device, else resident in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if _STATUS.is_file():
        return _status_mb("VmHWM")  # `ru_maxrss` of Linux includes the process that started this one
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_mb(device: torch.device) -> float:
    """What is held now (outside Linux: the peak so far)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    return _status_mb("VmRSS") if _STATUS.is_file() else peak_memory_mb(device)


def forget_peak(device: torch.device) -> None:
    """Lets the peak begin at what is held now, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _FORGET.is_file():
        try:
            _FORGET.write_text("5")
        except OSError:  # some containers forbid it
            return


def _status_mb(name: str) -> float:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


__all__ = ["forget_peak", "in_fresh_process", "is_fresh_process", "peak_memory_mb", "resident_mb"]
