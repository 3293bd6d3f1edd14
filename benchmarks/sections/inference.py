"""Latency, throughput and arithmetic of one forward pass, in turns, at three sizes, of one image and of four."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.authors import Authors
from benchmarks.contenders import (
    Contender,
    Floor,
    Ours,
    count_forward_flops,
    forward_of,
    move,
    our_name,
    preset_contenders,
)
from benchmarks.peers import DEPTH_ANYTHING_BASE, PEERS
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.timing import Call, time_rounds

_SECONDS = 90  # for the rounds of one setting, as far as two rounds allow
_PAPER = our_name("paper")
_LARGE = ("480x640", "518x518")
_MAIN = (_PAPER, f"floor of {_PAPER}")


@dataclass(frozen=True)
class Plan:
    """Who takes turns: all that read this size, or those named."""

    size: str
    batch_size: int
    dtype: torch.dtype = torch.float32
    names: tuple[str, ...] | None = None

    @property
    def setting(self) -> str:
        return f"{self.size}, batch {self.batch_size}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def warm_up(self) -> "Plan":
        """Itself; one small image where a round takes minutes and is in no target."""
        is_short = self.size == "224x224" or (self.size, self.batch_size) == ("480x640", 1)
        return self if is_short else replace(self, size="224x224", batch_size=1)

    def call(self, contender: Contender, module: nn.Module) -> Call:
        """One pass of the contender in this setting."""
        inputs = contender.inputs(contender.sizes[self.size], self.batch_size)
        return forward_of(module, move(inputs, torch.device("cpu"), self.dtype))


def plans(bench: Bench, contenders: list[Contender]) -> list[Plan]:
    """All settings. Batches of small images show what a batch saves; four large ones take a minute in each round."""
    ours = tuple(each.name for each in contenders if isinstance(each, (Ours, Floor)))
    presets = tuple(each.name for each in contenders if isinstance(each, Ours))
    small = Plan("224x224", 1, names=(*ours, DEPTH_ANYTHING_BASE) if bench.is_quick else None)
    if bench.is_quick:
        return [small]
    of_batches = (*presets, _MAIN[1], DEPTH_ANYTHING_BASE)
    large = [
        Plan("480x640", 1, names=None if bench.is_full else _without_floor_of_fast(contenders)),
        Plan("518x518", 1, names=None if bench.is_full else (*_MAIN, DEPTH_ANYTHING_BASE)),
    ]
    batches = [Plan(size, 4, names=of_batches) for size in _LARGE] if bench.is_full else []
    return [small, Plan("224x224", 4, names=of_batches), *large, *batches]


def _without_floor_of_fast(contenders: list[Contender]) -> tuple[str, ...]:
    return tuple(each.name for each in contenders if each.name != f"floor of {our_name('fast')}")


def left_out_plans(bench: Bench) -> Iterator[Row]:
    """What the chosen plans do not have."""
    if bench.is_quick:
        for plan in (Plan("224x224", 4), *(Plan(size, batch_size) for size in _LARGE for batch_size in (1, 4))):
            yield left_out(plan.setting, "all", "left out by --quick")
    elif not bench.is_full:
        for size in _LARGE:
            yield left_out(Plan(size, 4).setting, "all", "four such images take minutes; --full measures them")


def measure(bench: Bench) -> Iterator[Row]:
    ours = preset_contenders()
    contenders: list[Contender] = [*ours, *(Floor(model) for model in ours), *PEERS]
    if bench.authors is not None:
        contenders.append(Authors(bench.authors))
    yield from measure_plans(bench, plans(bench, contenders), contenders)
    yield from left_out_plans(bench)
    for batch_size in (1, 4):
        yield from _measure_bfloat16(bench, batch_size, contenders)


def measure_plans(bench: Bench, chosen: list[Plan], contenders: list[Contender]) -> Iterator[Row]:
    """Builds each network once, when it is first needed."""
    modules: dict[str, nn.Module] = {}
    gflops: dict[tuple[str, str], float] = {}
    for plan in chosen:
        group = [
            each for each in contenders if plan.size in each.sizes and (plan.names is None or each.name in plan.names)
        ]
        for each in group:
            if each.name not in modules:
                modules[each.name] = each.build().to(plan.dtype)
        calls, warm_ups = {}, {}
        for each in group:
            calls[each.name] = plan.call(each, modules[each.name])
            warm_up = plan.warm_up if plan.warm_up.size in each.sizes else plan
            warm_ups[each.name] = warm_up.call(each, modules[each.name])
        times = time_rounds(calls, bench.rounds, _SECONDS, warm_ups)
        for each in group:
            place = (each.name, plan.size)
            if place not in gflops:
                gflops[place] = count_forward_flops(each, modules[each.name], each.sizes[plan.size]) / 1e9
            yield Row(
                plan.setting,
                each.name,
                each.reads(each.sizes[plan.size]),
                times[each.name],
                plan.batch_size,
                reference_of(each.name, list(calls)),
                {"gflop": gflops[place] * plan.batch_size},
            )


def reference_of(name: str, names: list[str]) -> str | None:
    """The floor of a preset, if it takes part; that of the paper's for all others."""
    own = f"floor of {name.removeprefix('floor of ')}"
    return next((floor for floor in (own, _MAIN[1]) if floor in names), None)


def _measure_bfloat16(bench: Bench, batch_size: int, contenders: list[Contender]) -> Iterator[Row]:
    plan = Plan("224x224", batch_size, torch.bfloat16, (*_MAIN, our_name("fast"), DEPTH_ANYTHING_BASE))
    if bench.gemm.refusal_of_bfloat16 is not None:
        yield left_out(plan.setting, "all", bench.gemm.refusal_of_bfloat16)
        return
    yield from measure_plans(bench, [plan], contenders)


__all__ = ["Plan", "measure", "measure_plans"]
