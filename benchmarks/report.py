"""Tables and a plot out of the raw times: `report.md` and `ratios.png`."""

import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from llm_mde.studies.run_log import write_whole

from .record import RESULTS_FILE, Results, SectionRecord
from .rows import Row, Spread, find_row, ratio_by_round
from .sections import SECTIONS
from .targets import FLOOR, TARGETS, Finding, Target

REPORT_FILE, PLOT_FILE = "report.md", "ratios.png"
_ABOUT = (
    "Weights are random, as time does not depend on them. In each round every contender of a table runs once, after "
    "all were warmed up; a time is the median of the rounds with its quartiles, a ratio is taken in each round, "
    "then likewise. The floor of a model is a bare ViT-B/16 and a bare BERT-base over the pixels and as many tokens "
    "as the model reads. The prompt of `paper` is drawn out to the 114 tokens that the authors' release reads; "
    "those of `fast` and of end_to_end are a photograph's own. Steps are without dropout of the encoders, as in the "
    "recipe `lora`, where they are not called otherwise; the authors' step has it. Memory is what a process of its "
    "own holds, without what the C library would keep for later. The share of GEMM is of the rate in float32 that "
    "each section states, in settings of bfloat16 of that type's."
)


def write_report(folder: Path, results: Results) -> None:
    """Writes both files, each whole or not at all."""
    write_whole(folder / REPORT_FILE, markdown(results).encode())
    plot = draw_ratios(results)
    if plot is not None:
        write_whole(folder / PLOT_FILE, plot)


def markdown(results: Results) -> str:
    """The whole report."""
    parts = ["# Speed and memory", _ABOUT, _conditions(results), "## Targets", targets_table(results)]
    if draws_anything(results):
        parts.insert(3, f"![Latency over that of the floor of the paper's model]({PLOT_FILE})")
    for name, about in SECTIONS.items():
        if name in results.sections:
            parts += [f"## {name}: {about}", *section_parts(results.sections[name])]
    return "\n\n".join(parts) + "\n"


def _conditions(results: Results) -> str:
    lines = [f"- {name}: {value}" for name, value in asdict(results.machine).items()]
    lines.append("- versions: " + ", ".join(f"{name} {number}" for name, number in results.versions.items()))
    lines.append(f"- raw times: {RESULTS_FILE}")
    return "\n".join(lines)


def targets_table(results: Results) -> str:
    """Each target with what was measured, or why it was not."""
    cells = [["target", "limit", "measured", "quartiles", "met"]]
    for target in TARGETS:
        finding = target.find(results)
        cells.append([target.aim, f"<= {_number(target.limit)} {target.unit}", *_finding_cells(target, finding)])
    return table(cells, num_words=1)


def _finding_cells(target: Target, finding: Finding) -> list[str]:
    if finding.value is None:
        return [f"not measured: {finding.reason}", "", ""]
    quartiles = "" if finding.spread is None else f"{_number(finding.spread.low)} to {_number(finding.spread.high)}"
    verdict = "yes" if target.is_met(finding) else "**no**"
    if target.is_undecided(finding):
        verdict += ", within its quartiles"
    return [f"{_number(finding.value)} {target.unit}", quartiles, verdict]


def section_parts(record: SectionRecord) -> list[str]:
    """A table for each setting, then what is missing."""
    gemm = f"GEMM {_number(record.gemm.float32)} GFLOP/s in float32, {_number(record.gemm.bfloat16)} in bfloat16"
    parts = [f"{record.date}, `{record.command}`; {gemm}."]
    for setting in dict.fromkeys(row.setting for row in record.rows):
        rows = [row for row in record.rows if row.setting == setting]
        measured = [row for row in rows if row.not_measured is None]
        parts += [f"### {setting}"] if setting != "all" else []
        parts += [setting_table(measured, record)] if measured else []
        parts += [_missing(row) for row in rows if row.not_measured is not None]
    if record.failed is not None:
        parts.append(f"**The section failed**: {record.failed}")
    return parts


def _missing(row: Row) -> str:
    subject = "Not measured" if row.contender == "all" else f"{row.contender}: not measured"
    return f"{subject}: {row.not_measured}."


def setting_table(rows: list[Row], record: SectionRecord) -> str:
    """Only columns that some row fills."""
    numbers = dict.fromkeys(name for row in rows for name in row.numbers)
    columns = [[_time_cells(row, rows, record) | {name: _cell(row, name) for name in numbers}] for row in rows]
    names = list(dict.fromkeys(name for (cells,) in columns for name, text in cells.items() if text))
    reads = any(row.reads for row in rows)
    header = ["contender", *(["reads"] if reads else []), *names]
    body = [
        [row.contender, *([row.reads] if reads else []), *(cells.get(name, "") for name in names)]
        for row, (cells,) in zip(rows, columns, strict=True)
    ]
    return table([header, *body], num_words=2 if reads else 1)


def _cell(row: Row, name: str) -> str:
    return _number(row.numbers[name]) if name in row.numbers else ""


def _time_cells(row: Row, rows: list[Row], record: SectionRecord) -> dict[str, str]:
    if not row.seconds:
        return {}
    times = Spread.of([1e3 * seconds for seconds in row.seconds])
    cells = {"rounds": str(len(row.seconds)), "ms": _number(times.median), "quartiles": _range(times)}
    if row.images:
        cells["images/s"] = _number(row.images / times.median * 1e3)
    reference = None if row.reference is None else find_row(rows, row.setting, row.reference)
    if row.reference == row.contender:
        cells["ratio"] = "1"
    elif reference is not None:
        ratio = ratio_by_round(row.seconds, reference.seconds)
        cells |= {"ratio": _number(ratio.median), "ratio's quartiles": _range(ratio), "to": row.reference}
    if "gflop" in row.numbers and "percent_of_gemm" not in row.numbers:
        rate = row.numbers["gflop"] / times.median * 1e3
        peak = record.gemm.bfloat16 if "bfloat16" in row.setting else record.gemm.float32
        cells |= {"GFLOP/s": _number(rate), "% of GEMM": _number(100 * rate / peak)}
    return cells


def _range(spread: Spread) -> str:
    return f"{_number(spread.low)} to {_number(spread.high)}"


def _number(value: float) -> str:
    """Three digits that count, thousands whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(cells: list[list[str]], num_words: int) -> str:
    """Markdown: a header and rows, the first `num_words` columns to the left."""
    rule = [*["---"] * num_words, *["--:"] * (len(cells[0]) - num_words)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])


def plotted(results: Results) -> dict[str, list[tuple[Row, Spread]]]:
    """By setting of the inference, the ratio of every other row to the floor of the paper's model, one for all."""
    found: dict[str, list[tuple[Row, Spread]]] = {}
    rows = results.rows("inference")
    for row in rows:
        floor = find_row(rows, row.setting, FLOOR)
        if row.contender != FLOOR and row.seconds and floor is not None and floor.seconds:
            found.setdefault(row.setting, []).append((row, ratio_by_round(row.seconds, floor.seconds)))
    return found


def draws_anything(results: Results) -> bool:
    return bool(plotted(results))


def draw_ratios(results: Results) -> bytes | None:
    """Latency over that of the paper's floor, a panel for each setting; `None` where inference was not measured."""
    from matplotlib.figure import Figure

    settings = plotted(results)
    if not settings:
        return None
    heights = [len(ratios) + 2 for ratios in settings.values()]
    figure = Figure(figsize=(9, 0.6 + 0.28 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(settings), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (setting, ratios) in zip(panels, settings.items(), strict=True):
        _draw_setting(axes, setting, ratios)
    panels[-1].set_xlabel(f"latency over that of the {FLOOR},\nmedian and quartiles of the rounds", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_setting(axes, setting: str, ratios: Iterable[tuple[Row, Spread]]) -> None:
    ratios = sorted(ratios, key=lambda item: item[1].median)
    for height, (row, ratio) in enumerate(ratios):
        colour = "C1" if row.contender.startswith("LLM-MDE") else "C0"
        axes.plot([ratio.low, ratio.high], [height, height], color=colour, linewidth=3, alpha=0.4)
        axes.plot(ratio.median, height, "o", color=colour)
        axes.annotate(_number(ratio.median), (ratio.median, height), (7, -3), textcoords="offset points", fontsize=8)
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(ratios)), [f"{row.contender} ({row.reads})" for row, _ in ratios], fontsize=8)
    axes.set_ylim(-0.7, len(ratios) - 0.3)
    axes.set_title(setting, fontsize=9, loc="left")
    axes.margins(x=0.12)  # room for the number at the last point
    axes.grid(axis="x", alpha=0.3)


__all__ = ["PLOT_FILE", "REPORT_FILE", "draw_ratios", "markdown", "setting_table", "targets_table", "write_report"]
