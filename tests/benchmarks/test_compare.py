"""Two runs are compared where they can be."""

from dataclasses import replace

import pytest

from benchmarks.command import main
from benchmarks.compare import compare_files
from benchmarks.record import RESULTS_FILE
from benchmarks.rows import Row
from tests.benchmarks.conftest import MACHINE, make_results


def write(folder, rows, **changes):
    results = replace(make_results(inference=rows), machine=replace(MACHINE, **changes))
    results.write(folder)
    return folder / RESULTS_FILE


def test_rows_in_common_get_new_over_old(tmp_path):
    old = write(tmp_path / "old", [Row("s", "a", seconds=[2.0, 2.0, 9.0], numbers={"gflop": 5.0}), Row("s", "gone")])
    new = write(tmp_path / "new", [Row("s", "a", seconds=[1.0, 7.0, 1.0], numbers={"gflop": 5.0, "new": 1.0})])
    lines = compare_files(old, new).splitlines()
    assert lines[2:] == [
        "| inference | s | a | seconds | 2 | 1 | 0.500 |",
        "| inference | s | a | gflop | 5 | 5 | 1.000 |",
    ]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [({"threads": 1}, "threads is 2 and 1"), ({"cpu": "Abacus 4000"}, "cpu is 'Abacus 3000' and 'Abacus 4000'")],
)
def test_other_machines_and_thread_counts_are_refused_in_one_line(tmp_path, capsys, changes, difference):
    rows = [Row("s", "a", seconds=[1.0])]
    files = [write(tmp_path / "old", rows), write(tmp_path / "new", rows, **changes)]
    assert main(["compare", *map(str, files)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert difference in error


def test_runs_without_a_common_row_are_refused(tmp_path):
    old, new = write(tmp_path / "old", [Row("s", "a", seconds=[1.0])]), write(tmp_path / "new", [])
    with pytest.raises(ValueError, match="no measurement in common"):
        compare_files(old, new)


def test_a_comparison_is_printed(tmp_path, capsys):
    path = write(tmp_path, [Row("s", "a", seconds=[1.0])])
    assert main(["compare", str(path), str(path)]) == 0
    assert "| 1.000 |" in capsys.readouterr().out
