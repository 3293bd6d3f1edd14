"""The command measures what is asked for, and loses nothing on the way."""

from dataclasses import replace

import pytest
import torch

from benchmarks import machine as machines
from benchmarks.command import main, run_sections
from benchmarks.record import RESULTS_FILE, Results, read_results
from benchmarks.rows import Row
from benchmarks.sections import SECTIONS, find_section
from tests.benchmarks.conftest import GEMM, MACHINE, make_results


def measure_one(bench):
    yield Row("s", "first", seconds=[1.0] * bench.rounds)


def fail_half_way(bench):
    yield Row("s", "before", seconds=[2.0])
    raise RuntimeError("half\nway")


def test_a_section_that_fails_keeps_its_rows_and_the_other_sections(tmp_path, bench, capsys):
    written = []

    def find(name):
        def measure(bench):
            if (tmp_path / RESULTS_FILE).exists():
                written.append(sorted(read_results(tmp_path / RESULTS_FILE).sections))
            yield from {"memory": fail_half_way}.get(name, measure_one)(bench)

        return measure

    results = Results(MACHINE, {})
    assert run_sections(["loader", "memory", "growth"], bench, results, tmp_path, "command", find) == 1
    found = read_results(tmp_path / RESULTS_FILE)
    assert written == [["loader"], ["loader", "memory"]]  # after each section everything is on disk
    assert found.sections["memory"].failed == "RuntimeError: half way"
    assert [row.contender for row in found.rows("memory")] == ["before"]
    assert found.sections["growth"].failed is None and found.rows("growth")[0].seconds == [1.0, 1.0]
    assert "**The section failed**: RuntimeError: half way" in (tmp_path / "report.md").read_text()
    assert "half" in capsys.readouterr().err


def test_a_section_is_replaced_when_it_is_run_again(tmp_path, bench):
    results = make_results(loader=[Row("s", "old")], growth=[Row("s", "kept")])
    assert run_sections(["loader"], bench, results, tmp_path, "command", lambda name: measure_one) == 0
    found = read_results(tmp_path / RESULTS_FILE)
    assert [row.contender for row in found.rows("loader")] == ["first"]
    assert [row.contender for row in found.rows("growth")] == ["kept"]


def test_every_section_can_be_found():
    assert all(callable(find_section(name)) for name in SECTIONS)
    with pytest.raises(ValueError, match="`only` has 'sleep'"):
        find_section("sleep")


def test_the_command_line_reaches_the_sections(tmp_path, monkeypatch):
    seen = []

    def measure(bench):
        seen.append((bench.rounds, bench.is_quick, bench.data, torch.get_num_threads()))
        yield Row("s", "first", seconds=[1.0])

    monkeypatch.setattr(machines, "measure_gemm", lambda device: GEMM)
    monkeypatch.setattr("benchmarks.sections.find_section", lambda name: measure)
    threads = torch.get_num_threads()
    flags = [
        "--only",
        "loader",
        "--quick",
        "--threads",
        "1",
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    try:
        assert main(flags) == 0
        assert main([*flags, "--rounds", "9"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert seen == [(2, True, tmp_path, 1), (9, True, tmp_path, 1)]
    record = read_results(tmp_path / "out" / RESULTS_FILE).sections["loader"]
    assert record.is_quick and record.gemm == GEMM
    assert (
        record.command.startswith("python -m benchmarks --only loader --quick") and str(tmp_path) not in record.command
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "`data` is 'nowhere'"),
        (["--authors", "nowhere"], "`authors` is 'nowhere'"),
        (["compare", "a.json", "b.json"], "'a.json' is not a file"),
    ],
)
def test_wrong_input_ends_in_one_line_before_anything_is_measured(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_machine_is_left_alone(tmp_path, monkeypatch, capsys):
    replace(make_results(), machine=replace(MACHINE, cpu="another")).write(tmp_path)
    monkeypatch.setattr(machines, "describe_machine", lambda: MACHINE)
    before = (tmp_path / RESULTS_FILE).read_bytes()
    assert main(["--output", str(tmp_path)]) == 2
    assert "cpu 'another', but here it is 'Abacus 3000'" in capsys.readouterr().err
    assert (tmp_path / RESULTS_FILE).read_bytes() == before


@pytest.mark.parametrize("flags", [["--only", "sleep"], ["--rounds", "0"], ["--thr", "1"], ["--quick", "--full"]])
def test_wrong_flags_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
