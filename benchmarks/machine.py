"""The machine: what it is, and how fast it multiplies matrices, which bounds all that follows."""

import os
import re
import time
from dataclasses import dataclass

import torch

from llm_mde.environment import cpu_name

_EXTENSIONS = re.compile(r"avx512_bf16|avx512_vnni|avx_vnni|amx_\w+|bf16|i8mm|sve\d*")
_SMALL, _LARGE, _LARGE_ON_GPU = 256, 2048, 8192  # sides of the matrices
_REPEATS, _REPEATS_OF_SMALL = 5, 30  # a small product may be over before a busy machine gives it a core
_PATIENCE = 5.0  # seconds for one large product: whatever takes longer is emulated


@dataclass(frozen=True)
class Machine:
    """What has to be the same for times to be compared."""

    cpu: str
    cores: int
    threads: int
    isa: str
    accelerator: str


def describe_machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    known = torch.cpu.get_capabilities()
    extensions = sorted(name for name, has in known.items() if has is True and _EXTENSIONS.fullmatch(name))
    isa = ", ".join([torch.backends.cpu.get_cpu_capability(), *extensions])
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return Machine(cpu_name(), cores, torch.get_num_threads(), isa, accelerator)


@dataclass(frozen=True)
class GemmRate:
    """GFLOP/s of a product of two square matrices, a multiply-add being two: the best of several."""

    float32: float
    bfloat16: float

    @property
    def refusal_of_bfloat16(self) -> str | None:
        """Why bfloat16 is not worth a measurement here, if it is not."""
        if self.bfloat16 >= self.float32:
            return None
        return f"bfloat16 GEMM runs at {self.bfloat16:.3g} GFLOP/s here against {self.float32:.3g} in float32"


def measure_gemm(device: torch.device) -> GemmRate:
    """Rates of both types with large matrices; that of bfloat16 with small ones where they show that it is emulated,
    since large ones would then take minutes."""
    side = _LARGE if device.type == "cpu" else _LARGE_ON_GPU
    float32 = _gemm_rate(side, torch.float32, device, _REPEATS)
    small, small_float32 = (
        _gemm_rate(_SMALL, dtype, device, _REPEATS_OF_SMALL) for dtype in (torch.bfloat16, torch.float32)
    )
    if small < small_float32 / 2 or _flops_of_gemm(side) / small / 1e9 > _PATIENCE:
        return GemmRate(float32, small)
    return GemmRate(float32, _gemm_rate(side, torch.bfloat16, device, _REPEATS))


def _flops_of_gemm(side: int) -> int:
    return 2 * side**3


def _gemm_rate(side: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    first, second = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(first)
    times = []
    for _ in range(repeats + 1):  # the first warms up
        synchronise(device)
        started = time.perf_counter()
        torch.mm(first, second, out=result)
        synchronise(device)
        times.append(time.perf_counter() - started)
    return _flops_of_gemm(side) / min(times[1:]) / 1e9


def synchronise(device: torch.device) -> None:
    """Waits until an accelerator has done what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["GemmRate", "Machine", "describe_machine", "measure_gemm", "synchronise"]
