"""What prototypes, reprogramming and head take of a whole forward pass and of a whole step.

A pass notes what each part was called with; then the parts are called again with that, alone, in turns with the whole.
For a step each part is also run backwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.contenders import forward_of, preset_contender, size_text
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.steps import make_labels, prepare_training
from benchmarks.timing import Call, time_rounds

PARTS = {
    "prototypes and reprogramming": ("word_basis", "text_prototypes", "reprogramming"),
    "depth head": ("depth_head",),
}
WHOLE = "whole"
FORWARD, STEP = "forward, 224x224, batch 1, float32", "step, 224x224, batch {}, float32"
BATCH_SIZES = (1, 2)  # of a step: prototypes are computed once for a batch
_SECONDS = 45


@dataclass(frozen=True)
class PartCall:
    """A part of a network, what it was called with, and the call of it before, if there was one."""

    module: nn.Module
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    before: "PartCall | None" = None

    def forward(self) -> Any:
        if self.before is not None:
            self.before.forward()
        return self.module(*self.arguments, **self.options)

    def forward_and_backward(self) -> None:
        """With a gradient for every input that had one, and for the weights that are trained."""
        if self.before is not None:
            self.before.forward_and_backward()
        arguments, options = pytree.tree_map_only(Tensor, _as_leaf, (self.arguments, self.options))
        outputs = pytree.tree_leaves(self.module(*arguments, **options))
        sums = [value.sum() for value in outputs if isinstance(value, Tensor) and value.requires_grad]
        if sums:
            sum(sums).backward()


def _as_leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def note_calls(model: nn.Module, names: Sequence[str], run: Call) -> dict[str, PartCall]:
    """What each of these parts of the model is called with while `run` is at work."""
    noted: dict[str, PartCall] = {}

    def note(name: str, module: nn.Module, arguments: tuple, options: dict) -> None:
        noted[name] = PartCall(module, arguments, options, noted.get(name))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True) for name in names
    ]
    run()
    for hook in hooks:
        hook.remove()
    return noted


def measure(bench: Bench) -> Iterator[Row]:
    paper = preset_contender("paper")
    size = paper.sizes["224x224"]
    names = [name for several in PARTS.values() for name in several]

    model = paper.build()
    whole = forward_of(model, paper.inputs(size, 1))
    noted = note_calls(model, names, whole)
    calls = {part: _all_of([noted[name].forward for name in several]) for part, several in PARTS.items()}
    with torch.no_grad():
        times = time_rounds({WHOLE: whole, **calls}, bench.rounds, _SECONDS)
    yield from (Row(FORWARD, name, size_text(size), seconds, reference=WHOLE) for name, seconds in times.items())
    del model, whole, noted, calls

    training = prepare_training(paper)
    for batch_size in BATCH_SIZES:
        setting = STEP.format(batch_size)
        if bench.is_quick and batch_size > 1:
            yield left_out(setting, "all", "left out by --quick")
            continue
        step = partial(training.step, paper.inputs(size, batch_size), make_labels(size, batch_size))
        noted = note_calls(training.module.get_base_model(), names, step)
        calls = {
            part: _all_of([noted[name].forward_and_backward for name in several]) for part, several in PARTS.items()
        }
        times = time_rounds({WHOLE: step, **calls}, bench.rounds, _SECONDS)
        yield from (Row(setting, name, size_text(size), seconds, reference=WHOLE) for name, seconds in times.items())


def _all_of(calls: Sequence[Call]) -> Call:
    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them


__all__ = ["BATCH_SIZES", "FORWARD", "PARTS", "STEP", "WHOLE", "PartCall", "measure", "note_calls"]
