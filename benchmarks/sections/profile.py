"""Which kinds of operators a forward pass and a training step spend their time in.

An operator counts for the outermost one of a known kind that called it: the copy by which a linear layer lays down its
bias is part of the matrix product, the softmax inside attention part of attention.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import forward_of, preset_contender
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.steps import make_labels, prepare_training
from benchmarks.timing import Call

SETTINGS = ("forward, 224x224, batch 1, float32", "step, 224x224, batch 1, float32")
LONGEST = "{}: its longest operators"
_NUM_LONGEST = 10
# In this order: `native_batch_norm` is no matrix product, and what `aten` has beside these reads and writes elements.
KINDS = {
    "attention": r"scaled_dot_product|_attention",
    "convolution": r"conv(olution|\dd)",
    "normalisation": r"(layer|group|batch|rms)_norm",
    "matmul": r"(^|_)(addmm|baddbmm|bmm|mm|matmul|linear|einsum|addmv|mv)(_|$)",
    "activation": r"gelu|relu|silu|sigmoid|tanh|softmax|softplus|threshold|clamp_min",
    "elementwise and copies": r"",
}
OTHER = "other"  # the interpreter, the autograd engine


def kind_of(operator: str) -> str:
    """Which of `KINDS` an operator belongs to, by its name."""
    namespace, _, name = operator.rpartition("::")
    if namespace not in ("aten", "mkldnn", "mkldnn_prepacked", "onednn"):
        return OTHER
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


def sum_by_kind(events: Iterable[Any]) -> tuple[Counter, Counter]:
    """Microseconds of each kind, and of each operator with its kind, of a profiler's events."""
    kinds, operators = Counter(), Counter()
    for event in events:
        kind, caller = kind_of(event.name), event.cpu_parent
        while caller is not None:
            if kind_of(caller.name) != OTHER:
                kind = kind_of(caller.name)
            caller = caller.cpu_parent
        kinds[kind] += event.self_cpu_time_total
        operators[event.name, kind] += event.self_cpu_time_total
    return kinds, operators


def measure(bench: Bench) -> Iterator[Row]:
    paper = preset_contender("paper")
    size = paper.sizes["224x224"]
    yield from profile_call(SETTINGS[0], forward_of(paper.build(), paper.inputs(size, 1)))
    if bench.is_quick:
        yield left_out(SETTINGS[1], "all", "left out by --quick")
        return
    training = prepare_training(paper)
    yield from profile_call(SETTINGS[1], partial(training.step, paper.inputs(size, 1), make_labels(size, 1)))


def profile_call(setting: str, call: Call) -> Iterator[Row]:
    """Shares of the kinds, and the longest operators."""
    call()  # warms up
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    kinds, operators = sum_by_kind(profiler.events())
    total = sum(kinds.values())
    for kind in (*KINDS, OTHER):
        yield Row(setting, kind, numbers={"percent": 100 * kinds[kind] / total, "ms": kinds[kind] / 1e3})
    for (name, kind), microseconds in operators.most_common(_NUM_LONGEST):
        numbers = {"percent": 100 * microseconds / total, "ms": microseconds / 1e3}
        yield Row(LONGEST.format(setting), f"{name} ({kind})", numbers=numbers)


__all__ = ["KINDS", "LONGEST", "OTHER", "SETTINGS", "kind_of", "measure", "profile_call", "sum_by_kind"]
