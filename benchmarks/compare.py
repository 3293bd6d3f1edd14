"""Two runs on one machine, row by row: what a change made faster or slower."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

from .record import Results, difference, read_results
from .report import table
from .rows import Row, find_row


def compare_files(old: Path, new: Path) -> str:
    """
    A table of new over old: times as medians of all rounds (the two runs did not take turns), and all other numbers.

    Raises:
        ValueError: If the runs are of different machines or thread counts, or have no row in common.
    """
    before, after = read_results(old), read_results(new)
    found = difference(asdict(before.machine), asdict(after.machine))
    if found is not None:
        name, first, second = found
        raise ValueError(
            f"{str(old)!r} and {str(new)!r} are of different machines, {name} is {first!r} and {second!r}; run both "
            "on one."
        )
    cells = [
        [section, row.setting, row.contender, name, f"{first:.4g}", f"{second:.4g}", f"{second / first:.3f}"]
        for section, row, name, first, second in _pairs(before, after)
        if first
    ]
    if not cells:
        raise ValueError(f"{str(old)!r} and {str(new)!r} have no measurement in common; run the same sections twice.")
    return table([["section", "setting", "contender", "what", "old", "new", "new / old"], *cells], num_words=4)


def _pairs(before: Results, after: Results) -> Iterator[tuple[str, Row, str, float, float]]:
    for section, record in before.sections.items():
        for row in record.rows:
            other = find_row(after.rows(section), row.setting, row.contender)
            if other is None:
                continue
            first, second = _values(row), _values(other)
            for name in first:
                if name in second:
                    yield section, row, name, first[name], second[name]


def _values(row: Row) -> dict[str, float]:
    return ({"seconds": median(row.seconds)} if row.seconds else {}) | row.numbers


__all__ = ["compare_files"]
