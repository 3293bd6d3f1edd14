"""Inference and LoRA training in bfloat16 after torch.compile on CUDA, against a measured ceiling."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from benchmarks.contenders import Contender, Floor, Ours, forward_of, move, our_name, preset_contenders
from benchmarks.machine import GemmRate, measure_gemm, synchronise
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.steps import Training, make_labels, prepare_training
from benchmarks.timing import Call, time_rounds
from llm_mde.studies.memory import forget_peak, peak_memory_mb, resident_mb
from llm_mde.studies.resources import count_flops

INFERENCE, STEP = "inference, 224x224, batch {}, bfloat16", "step, 224x224, batch {}, bfloat16 autocast"
CEILING = "ceiling"
_BATCH_SIZES, _QUICK_BATCH_SIZES = (1, 8, 64), (1, 8)
_SECONDS = 15
_ROUNDS_FOR_ONE = 10  # a call takes milliseconds, so ten times as many rounds as on a CPU
_NUM_WARM_UPS = 3  # the first compiles


def measure(bench: Bench) -> Iterator[Row]:
    if not torch.cuda.is_available():
        yield left_out("all", "all", "no CUDA device")
        return
    device = torch.device("cuda")
    gemm = measure_gemm(device)
    name = torch.cuda.get_device_name()
    yield Row(CEILING, name, numbers={"float32_gflops": gemm.float32, "bfloat16_gflops": gemm.bfloat16})
    ours = {model.name: model for model in preset_contenders()}
    paper, fast = ours[our_name("paper")], ours[our_name("fast")]
    inference = [paper, Floor(paper), *([] if bench.is_quick else [fast, Floor(fast)])]
    for batch_size in _QUICK_BATCH_SIZES if bench.is_quick else _BATCH_SIZES:
        for setting, contenders, prepare in (
            (INFERENCE, inference, prepare_inference),
            (STEP, inference[:2], prepare_step),
        ):
            yield from measure_in_turns(
                setting.format(batch_size), contenders, partial(prepare, device, batch_size), bench, gemm
            )
            gc.collect()
            torch.compiler.reset()
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Work:
    """A call that is over when it returns, its arithmetic, what it holds at most, and how many images it takes."""

    call: Call
    flops: int
    peak_mb: float
    num_images: int


def measure_in_turns(
    setting: str, contenders: Sequence[Contender], prepare: Callable[[Contender], Work], bench: Bench, gemm: GemmRate
) -> Iterator[Row]:
    works: dict[str, Work] = {}
    for each in contenders:
        try:
            works[each.name] = prepare(each)
        except torch.OutOfMemoryError:
            yield left_out(setting, each.name, "out of memory")
    if not works:
        return
    times = time_rounds({name: work.call for name, work in works.items()}, bench.rounds * _ROUNDS_FOR_ONE, _SECONDS)
    for each in contenders:
        if each.name not in works:
            continue
        work, seconds = works[each.name], times[each.name]
        floor = each.name if isinstance(each, Floor) else f"floor of {each.name}"
        numbers = {
            "gflop": work.flops / 1e9,
            "percent_of_gemm": 100 * work.flops / median(seconds) / 1e9 / gemm.bfloat16,
            "peak_memory_mb": work.peak_mb,
        }
        reference = floor if floor in works else None
        yield Row(setting, each.name, each.reads(each.sizes["224x224"]), seconds, work.num_images, reference, numbers)


def prepare_inference(device: torch.device, batch_size: int, contender: Contender, compiles: bool = True) -> Work:
    """One pass in bfloat16 without gradients."""
    size = contender.sizes["224x224"]
    held = resident_mb(device)
    module = contender.build().to(device, torch.bfloat16)

    def forward_with(num_images: int) -> Call:
        return forward_of(module, move(contender.inputs(size, num_images), device, torch.bfloat16))

    flops = _extrapolate(count_flops(forward_with(1)), count_flops(forward_with(2)), batch_size)
    if compiles:
        module.compile(dynamic=False)
    return _warmed(forward_with(batch_size), flops, device, held, batch_size)


def prepare_step(device: torch.device, batch_size: int, contender: Ours | Floor, compiles: bool = True) -> Work:
    """A step with weights in float32 and arithmetic in bfloat16."""
    size = contender.sizes["224x224"]
    held = resident_mb(device)
    training = _on_device(prepare_training(contender), device)

    def step_with(num_images: int) -> Call:
        inputs = move(contender.inputs(size, num_images), device)
        return partial(training.step, inputs, make_labels(size, num_images).to(device))

    flops = _extrapolate(count_flops(step_with(1)), count_flops(step_with(2)), batch_size)
    if compiles:
        training.module.compile(dynamic=False)
    return _warmed(step_with(batch_size), flops, device, held, batch_size)


def _on_device(training: Training, device: torch.device) -> Training:
    """`nn.Module.to` moves the weights in place, and so those that the optimiser holds, which has no state yet."""
    training.module.to(device)
    context = partial(torch.autocast, device.type, torch.bfloat16) if device.type == "cuda" else nullcontext
    loss_of = training.loss_of

    def loss_in_bfloat16(inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        with context():
            return loss_of(inputs, labels)

    return replace(training, loss_of=loss_in_bfloat16)


def _extrapolate(flops_of_one: int, flops_of_two: int, batch_size: int) -> int:
    """Some arithmetic is done once for a batch, the rest once for each image. Counted in small batches, since counting
    writes attention out."""
    return flops_of_one + (batch_size - 1) * (flops_of_two - flops_of_one)


def _warmed(call: Call, flops: int, device: torch.device, held: float, num_images: int) -> Work:
    def finished() -> None:
        call()
        synchronise(device)

    for _ in range(_NUM_WARM_UPS):
        finished()
    forget_peak(device)
    finished()
    return Work(finished, flops, peak_memory_mb(device) - held, num_images)


__all__ = ["CEILING", "INFERENCE", "STEP", "Work", "measure", "measure_in_turns", "prepare_inference", "prepare_step"]
