"""Turns are taken."""

import math
from functools import partial

from benchmarks.timing import time_rounds


def make_calls(names: str) -> tuple[list[str], dict]:
    log: list[str] = []
    return log, {name: partial(log.append, name) for name in names}


def test_every_contender_runs_once_in_each_round_after_all_were_warmed_up():
    log, calls = make_calls("abc")
    times = time_rounds(calls, rounds=3, budget=math.inf)
    assert "".join(log) == "abc" + 3 * "abc"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_spent_budget_leaves_two_rounds():
    log, calls = make_calls("ab")
    times = time_rounds(calls, rounds=9, budget=0)
    assert "".join(log) == "ab" + 2 * "ab"
    assert [len(seconds) for seconds in times.values()] == [2, 2]


def test_one_round_is_one_round():
    log, calls = make_calls("ab")
    time_rounds(calls, rounds=1, budget=0)
    assert "".join(log) == "ab" + "ab"


def test_something_smaller_can_warm_up():
    log, calls = make_calls("ab")
    time_rounds(calls, rounds=2, budget=math.inf, warm_ups={"a": partial(log.append, "w")})
    assert "".join(log) == "w" + 2 * "ab"
