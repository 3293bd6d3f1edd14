"""What a forward pass holds at most, each contender in a process of its own."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.authors import Authors
from benchmarks.contenders import Contender, Floor, forward_of, preset_contenders
from benchmarks.peers import PEERS
from benchmarks.rows import Row
from benchmarks.sections import Bench
from benchmarks.weighing import weigh
from llm_mde.studies.memory import forget_peak, peak_memory_mb, resident_mb

PER_IMAGE = "mb_per_further_image"
SETTING = "224x224, float32"
_CPU = torch.device("cpu")
_ALONE, _FEW, _MANY = 1, 2, 6


def measure(bench: Bench) -> Iterator[Row]:
    ours = preset_contenders()
    paper = [ours[0], Floor(ours[0])]
    contenders: list[Contender] = [*paper, *ours[1:], *PEERS]
    if bench.is_full:
        contenders += [Floor(model) for model in ours[1:]]
    if bench.is_quick:
        contenders = list(paper)
    if bench.authors is not None:
        contenders.append(Authors(bench.authors))
    for each in contenders:
        # Those that do not read 224 x 224 are slower, and of them only one image is worth the wait.
        size, batches = next(
            (each.sizes[name], batches)
            for name, batches in (("224x224", (_ALONE, _FEW, _MANY)), ("480x640", (_ALONE,)))
            if name in each.sizes
        )
        numbers = weigh(partial(weigh_forward, each, size, batches))
        yield Row(SETTING, each.name, each.reads(size), numbers=numbers)


def weigh_forward(contender: Contender, size: tuple[int, int], batches: tuple[int, ...]) -> dict[str, float]:
    """Peak of one image, all that is resident and how much of it came after the libraries, and what each further
    image of a batch adds. In MB."""
    import timm  # noqa: F401 (a library: what it takes is not the network's)

    libraries = resident_mb(_CPU)
    module = contender.build()
    forward_of(module, contender.inputs(size, batches[0]))()
    # Drawing random weights takes more than loading them, and LLM-MDE computes its prototypes in the first pass alone.
    forget_peak(_CPU)
    peaks = []
    for batch_size in batches:
        forward_of(module, contender.inputs(size, batch_size))()
        peaks.append(peak_memory_mb(_CPU))
    numbers = {"peak_memory_mb": peaks[0], "memory_above_libraries_mb": peaks[0] - libraries}
    if len(batches) > 1:
        # Not from the first one on, beside which buffers of the libraries weigh.
        numbers[PER_IMAGE] = (peaks[-1] - peaks[-2]) / (batches[-1] - batches[-2])
    return numbers


__all__ = ["PER_IMAGE", "SETTING", "measure", "weigh_forward"]
