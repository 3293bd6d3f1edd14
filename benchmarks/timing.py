"""Contenders in turns: every round calls each of them once, so that a machine that slows down does so for all."""

import time
from collections.abc import Callable, Mapping

from llm_mde.studies.resources import time_in_turns

Call = Callable[[], object]
LEAST_ROUNDS = 2


def time_rounds(
    calls: Mapping[str, Call], rounds: int, budget: float, warm_ups: Mapping[str, Call] | None = None
) -> dict[str, list[float]]:
    """
    Seconds of each call in each round, after each was warmed up.

    Args:
        calls (`Mapping[str, Callable]`): The contenders' work by name.
        rounds (`int`): Most rounds.
        budget (`float`): Seconds after which no further round begins that would not fit; two are made in any case.
        warm_ups (`Mapping[str, Callable]`, *optional*): What warms up; by default the calls themselves. Where one call
            takes many seconds, the same network on fewer pixels does.

    Returns:
        `dict[str, list[float]]`: As many seconds for each.
    """
    for warm_up in (calls if warm_ups is None else warm_ups).values():
        warm_up()
    times: dict[str, list[float]] = {name: [] for name in calls}
    started, done = time.perf_counter(), 0
    while done < min(rounds, LEAST_ROUNDS) or (
        done < rounds and (time.perf_counter() - started) * (done + 1) / done <= budget
    ):
        for name, (seconds,) in time_in_turns(calls, rounds=1, warm_up=False).items():
            times[name].append(seconds)
        done += 1
    return times


__all__ = ["LEAST_ROUNDS", "Call", "time_rounds"]
