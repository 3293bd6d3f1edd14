"""Ratios are taken round by round."""

import pytest

from benchmarks.rows import Row, Spread, find_row, ratio_by_round


def test_a_ratio_is_taken_in_each_round():
    # In the second round the machine was ten times slower; the ratio of the medians would be 1.
    assert ratio_by_round([2.0, 20.0, 3.0], [1.0, 10.0, 3.0]).median == 2.0


def test_times_of_different_rounds_have_no_ratio():
    with pytest.raises(ValueError, match="2 rounds and `reference` 1"):
        ratio_by_round([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="0 rounds"):
        ratio_by_round([], [])


def test_quartiles_of_five_are_the_second_and_the_fourth():
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(median=3, low=2, high=4)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_row_is_found_by_setting_and_contender():
    rows = [Row("a", "x"), Row("b", "x"), Row("b", "y")]
    assert find_row(rows, "b", "x") is rows[1]
    assert find_row(rows, "a", "y") is None
