"""A training step of LLM-MDE as the recipe `lora` has it, beside the same updates in the bare encoders and the step of
the authors, whose BERT drops out: in rows of its own ours does, too."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.authors import Authors
from benchmarks.contenders import Contender, Floor, Size, preset_contenders
from benchmarks.rows import Row
from benchmarks.sections import Bench, left_out
from benchmarks.sections.inference import reference_of
from benchmarks.steps import Training, make_labels, prepare_training
from benchmarks.timing import time_rounds
from benchmarks.weighing import weigh
from llm_mde.studies.memory import forget_peak, peak_memory_mb, resident_mb

SIZE: Size = (224, 224)
MEMORY = "memory of a step, batch {}, float32"
STEP = "step, 224x224, batch {}, float32"
_CPU = torch.device("cpu")
_SECONDS = 120


def measure(bench: Bench) -> Iterator[Row]:
    ours = preset_contenders()
    with_dropout = replace(ours[0], name=f"{ours[0].name}, with dropout", encoder_dropout=True)
    contenders: list[Contender] = [ours[0], Floor(ours[0])]
    if not bench.is_quick:
        contenders += [with_dropout, Floor(with_dropout)]
    if bench.authors is not None:
        # Theirs has other ranks and more layers with updates than our default, so ours is timed with those, too.
        contenders.append(replace(ours[0], name=f"{ours[0].name}, authors' ranks", lora_preset="authors"))
        contenders.append(Authors(bench.authors))
    others = [] if bench.is_quick else [each for model in ours[1:] for each in (model, Floor(model))]
    trainings = {each.name: prepare_training(each) for each in (*contenders, *others)}
    yield from time_steps(bench, 1, [*contenders, *others], trainings)
    if bench.is_quick:
        yield left_out(STEP.format(2), "all", "left out by --quick")
        for batch_size in (1, 2):
            yield left_out(MEMORY.format(batch_size), "all", "left out by --quick")
        return
    yield from time_steps(bench, 2, [*contenders, *others] if bench.is_full else contenders, trainings)
    trainings.clear()  # the processes that follow need the room
    for each in contenders:
        for batch_size, numbers in weigh(partial(weigh_steps, each, SIZE, (1, 2))).items():
            yield Row(MEMORY.format(batch_size), each.name, each.reads(SIZE), numbers=numbers)


def time_steps(
    bench: Bench, batch_size: int, contenders: Sequence[Contender], trainings: Mapping[str, Training]
) -> Iterator[Row]:
    """Steps of all in turns."""
    labels = make_labels(SIZE, batch_size)
    calls = {
        each.name: partial(trainings[each.name].step, each.inputs(SIZE, batch_size), labels) for each in contenders
    }
    times = time_rounds(calls, bench.rounds, _SECONDS)
    for each in contenders:
        weights = trainings[each.name].module.parameters()
        numbers = {"trained_parameters": sum(weight.numel() for weight in weights if weight.requires_grad)}
        reference = reference_of(each.name, list(calls))
        yield Row(
            STEP.format(batch_size), each.name, each.reads(SIZE), times[each.name], batch_size, reference, numbers
        )


def weigh_steps(contender: Contender, size: Size, batch_sizes: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Peak of two steps at each batch size, the second with the optimiser's state in place. In MB."""
    import timm  # noqa: F401 (as in a forward pass)

    libraries = resident_mb(_CPU)
    training = prepare_training(contender)
    forget_peak(_CPU)
    numbers = {}
    for batch_size in sorted(batch_sizes):
        for _ in range(2):
            training.step(contender.inputs(size, batch_size), make_labels(size, batch_size))
        peak = peak_memory_mb(_CPU)
        numbers[batch_size] = {"peak_memory_mb": peak, "memory_above_libraries_mb": peak - libraries}
    return numbers


__all__ = ["MEMORY", "SIZE", "STEP", "measure", "time_steps", "weigh_steps"]
