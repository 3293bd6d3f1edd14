"""Results are written whole, read back, and never mixed with another machine's."""

from dataclasses import replace

import pytest

from benchmarks.record import RESULTS_FILE, open_results, read_results
from benchmarks.rows import Row
from tests.benchmarks.conftest import MACHINE, make_results

ROWS = [
    Row("224x224", "LLM-MDE paper", "224x224", [2.0, 2.5], 1, None, {"gflop": 91.0}),
    Row("all", "all", not_measured="no"),
]
VERSIONS = {"torch": "2.11.0"}


def test_results_come_back_as_they_were_written(tmp_path):
    results = make_results(inference=ROWS, gpu=[])
    results.sections["gpu"].failed = "RuntimeError: no"
    results.write(tmp_path / "deep" / "folder")
    assert read_results(tmp_path / "deep" / "folder" / RESULTS_FILE) == results


def test_a_section_joins_those_that_are_there(tmp_path):
    make_results(inference=ROWS).write(tmp_path)
    results = open_results(tmp_path, MACHINE, VERSIONS)
    assert results.rows("inference") == ROWS
    assert results.rows("memory") == []
    assert open_results(tmp_path / "new", MACHINE, VERSIONS).sections == {}


@pytest.mark.parametrize(
    ("changes", "versions", "message"),
    [
        ({"threads": 1}, VERSIONS, "threads 2, but here it is 1"),
        ({"cpu": "Abacus 4000"}, VERSIONS, "cpu 'Abacus 3000', but here it is 'Abacus 4000'"),
        ({}, {"torch": "2.12.0"}, "torch '2.11.0', but here it is '2.12.0'; give another folder"),
    ],
)
def test_results_of_another_machine_or_version_are_not_joined(tmp_path, changes, versions, message):
    make_results(inference=ROWS).write(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_results(tmp_path, replace(MACHINE, **changes), versions)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 7}', '{"format": 1, "machine": {"cpu": "x"}}'])
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other.json' holds no results"):
        read_results(path)
    with pytest.raises(ValueError, match=r"absent.json' is not a file"):
        read_results(tmp_path / "absent.json")
