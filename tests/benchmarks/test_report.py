"""The report says what was measured, what was not, and why."""

import pytest

from benchmarks.report import (
    PLOT_FILE,
    REPORT_FILE,
    draw_ratios,
    markdown,
    plotted,
    setting_table,
    targets_table,
    write_report,
)
from benchmarks.rows import Row
from benchmarks.sections import memory as memory_section
from benchmarks.sections.inference import Plan
from tests.benchmarks.conftest import make_results

PAPER, FLOOR = "LLM-MDE paper", "floor of LLM-MDE paper"
SETTING = Plan("224x224", 1).setting
ROWS = [
    Row(SETTING, PAPER, "224x224", [2.2, 22.0, 3.3], 1, FLOOR, {"gflop": 66.0}),
    Row(SETTING, FLOOR, "224x224", [2.0, 20.0, 3.0], 1, FLOOR, {"gflop": 60.0}),
]


def cells_of(table: str, name: str) -> dict[str, str]:
    header, _, *body = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines())
    return next(dict(zip(header, row, strict=False)) for row in body if row[0] == name)


def target_line(results, words: str) -> str:
    (line,) = (line for line in targets_table(results).splitlines() if words in line)
    return line


def test_a_table_has_times_throughput_ratio_and_share_of_gemm():
    results = make_results(inference=ROWS)
    cells = cells_of(setting_table(ROWS, results.sections["inference"]), PAPER)
    assert (cells["rounds"], cells["ms"], cells["to"]) == ("3", "3,300", FLOOR)
    assert cells["ratio"] == "1.1"
    assert cells["images/s"] == "0.303"
    assert cells["GFLOP/s"] == "20" and cells["% of GEMM"] == "50"  # of 40


def test_what_was_not_measured_stands_there_with_its_reason():
    missing = Row(Plan("224x224", 1).setting, "all", not_measured="bfloat16 GEMM runs at 0.1 GFLOP/s here")
    report = markdown(make_results(inference=[missing], gpu=[Row("all", "all", not_measured="no CUDA device")]))
    assert "Not measured: bfloat16 GEMM runs at 0.1 GFLOP/s here." in report
    assert "Not measured: no CUDA device." in report
    assert "compiled: not measured" in markdown(
        make_results(compiled=[Row("s", "LLM-MDE paper, compiled", not_measured="no compiler")])
    )


def test_the_report_names_machine_versions_date_and_command():
    report = markdown(make_results(inference=ROWS))
    for words in (
        "Abacus 3000",
        "threads: 2",
        "torch 2.11.0",
        "2026-01-02",
        "`python -m benchmarks`",
        "GEMM 40 GFLOP/s",
    ):
        assert words in report


def test_a_failed_section_shows_the_error_and_the_rows_it_had():
    results = make_results(inference=ROWS)
    results.sections["inference"].failed = "RuntimeError: half way"
    report = markdown(results)
    assert "**The section failed**: RuntimeError: half way" in report
    assert "| 3,300 |" in report


def test_targets_are_met_or_not_by_the_ratio_of_the_rounds():
    words = "forward at 224x224, float32, batch 1"
    assert target_line(make_results(inference=ROWS), words).endswith("| yes |")
    slow = [Row(SETTING, PAPER, seconds=[3.0, 30.0, 4.5]), ROWS[1]]
    line = target_line(make_results(inference=slow), words)
    assert "| <= 1.15 x | 1.5 x | 1.5 to 1.5 | **no** |" in line
    uneven = [Row(SETTING, PAPER, seconds=[2.0, 22.4, 3.6]), ROWS[1]]  # 1, 1.12 and 1.2 times
    assert target_line(make_results(inference=uneven), words).endswith("| yes, within its quartiles |")


def test_targets_without_a_measurement_say_why():
    reason = "bfloat16 GEMM runs at 0.1 GFLOP/s here against 40 in float32"
    left_out = Row(Plan("224x224", 1).setting.replace("float32", "bfloat16"), "all", not_measured=reason)
    results = make_results(inference=[*ROWS, left_out])
    assert f"not measured: {reason}" in target_line(results, "bfloat16, batch 1")
    assert "not measured: section training was not run" in target_line(results, "LoRA step, batch 1, of its floor")
    assert "not measured: Depth Anything Base did not take part" in target_line(
        make_results(inference=[Row(SETTING, "LLM-MDE fast", seconds=[1.0])]), "`fast` at 224x224"
    )
    steps = [Row("step, 224x224, batch 1, float32", name, seconds=[1.0]) for name in (PAPER, FLOOR)]
    assert "not measured: needs --authors" in target_line(
        make_results(training=steps), "batch 1, time of the authors'"
    )
    memory = [Row(memory_section.SETTING, name, numbers={memory_section.PER_IMAGE: 0.0}) for name in (PAPER, FLOOR)]
    line = target_line(make_results(memory=memory), "memory of a further image")
    assert f"not measured: {memory_section.PER_IMAGE} of {FLOOR} is 0" in line
    results.sections["inference"].failed = "RuntimeError: half way"
    assert "the section failed: RuntimeError: half way" in target_line(results, "float32, batch 4")


def test_the_plot_sets_all_beside_one_floor(tmp_path):
    own_floor = "floor of LLM-MDE fast"
    fast = Row(SETTING, "LLM-MDE fast", "224x224", [1.0, 10.0, 1.5], 1, own_floor)
    results = make_results(inference=[*ROWS, fast, Row(SETTING, own_floor, "224x224", [0.5, 5.0, 0.5], 1, own_floor)])
    ratios = {row.contender: ratio.median for row, ratio in plotted(results)[SETTING]}
    assert ratios == {PAPER: pytest.approx(1.1), "LLM-MDE fast": 0.5, own_floor: 0.25}
    assert draw_ratios(results).startswith(b"\x89PNG")
    write_report(tmp_path, results)
    assert f"({PLOT_FILE})" in (tmp_path / REPORT_FILE).read_text()
    assert (tmp_path / PLOT_FILE).stat().st_size > 1000
    without = make_results(memory=[Row("m", PAPER, numbers={"peak_memory_mb": 1.0})])
    assert draw_ratios(without) is None
    assert PLOT_FILE not in markdown(without)
