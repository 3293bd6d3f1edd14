"""LLM-MDE and its floor after `torch.compile`, in turns with themselves before it."""

from collections.abc import Iterator

import torch

from benchmarks.contenders import Floor, forward_of, preset_contender
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.timing import time_rounds

SETTING = "224x224, batch 1, float32"
COMPILED = ", compiled"
_SECONDS = 45


def measure(bench: Bench) -> Iterator[Row]:
    if bench.is_quick:
        yield left_out(SETTING, "all", "--quick leaves out torch.compile, which takes minutes")
        return
    paper = preset_contender("paper")
    size = paper.sizes["224x224"]
    calls, references = {}, {}
    for each in (paper, Floor(paper)):
        module, inputs = each.build(), each.inputs(size, 1)
        name = f"{each.name}{COMPILED}"
        calls[each.name] = forward_of(module, inputs)
        compiled = forward_of(torch.compile(module), inputs)
        try:
            compiled()
        except Exception as error:  # no compiler, or one that fails: the cause is told in any case
            yield left_out(SETTING, name, f"torch.compile fails: {' '.join(str(error).split())[:300]}")
            continue
        calls[name], references[name] = compiled, each.name
    times = time_rounds(calls, bench.rounds, _SECONDS)
    for name in calls:
        yield Row(SETTING, name, paper.reads(size), times[name], 1, references.get(name))


__all__ = ["COMPILED", "SETTING", "measure"]
