"""What a study leaves in the end: a table as CSV and Markdown, and a plot, all made of the lines of `runs.jsonl`."""

import csv
import io
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from llm_mde.evaluation import METRIC_NAMES
from llm_mde.evaluation.report import LOWER_OR_HIGHER

from . import STUDIES
from .run_log import Row, without_place, write_whole

if TYPE_CHECKING:
    from .runner import Study

_SHOWN_METRICS = ("abs_rel", "rmse", "delta1")
_LABELS = {
    "abs_rel": "abs_rel: error / measured depth (lower is better)",
    "delta1": "delta1: share of pixels within 25 % (higher is better)",
    "latency_ms": "latency of a forward pass in ms",
    "rank": "rank of LoRA in both encoders",
    "shots": "shots, frames trained on",
    "prototypes": "number of text prototypes",
}


@dataclass(frozen=True)
class Line:
    """One line of a table: means and sample standard deviations over the runs that have the number."""

    variant: str
    at: Any
    num_runs: int
    means: dict[str, float]
    stds: dict[str, float]


def aggregate(rows: list[Row]) -> list[Line]:
    """Rows of one variant and place become one line, in the order in which they first come. A number that only one row
    has gets no deviation."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["at"]), []).append(row)
    lines = []
    for (variant, at), group in groups.items():
        names = dict.fromkeys(name for row in group for name in row if name not in ("variant", "at"))
        values = {name: [row[name] for row in group if row.get(name) is not None] for name in names}
        means = {name: fmean(column) for name, column in values.items() if column}
        stds = {name: stdev(column) for name, column in values.items() if len(column) > 1}
        lines.append(Line(variant, at, len(group), means, stds))
    return lines


def write_report(
    folder: Path, study: "Study", options: Any, data: Any, command: str, records: list[dict[str, Any]]
) -> None:
    """Writes `table.csv`, `table.md` and `plot.png`; each appears whole or not at all."""
    lines = aggregate([row for record in records for row in record["rows"]])
    conditions = _conditions(options, data, command, records)
    contents = {
        "table.csv": _csv(study, lines).encode(),
        "table.md": _markdown(study, lines, conditions).encode(),
        "plot.png": _plot(study, lines),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)


def public_command(words: list[str]) -> str:
    """A command line as it was typed, but without the folders of this machine."""
    parts = [word.rpartition("=") if word.startswith("--") else ("", "", word) for word in words]
    return shlex.join(f"{flag}{equals}{without_place(value)}" for flag, equals, value in parts)


def _csv(study: "Study", lines: list[Line]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(dict.fromkeys(name for line in lines for name in line.means))
    place = [] if study.at is None else [study.at]
    writer.writerow(["variant", *place, "num_runs", *(f"{name}_{kind}" for name in names for kind in ("mean", "std"))])
    for line in lines:
        numbers = [kind.get(name, "") for name in names for kind in (line.means, line.stds)]
        writer.writerow([line.variant, *([line.at] if place else []), line.num_runs, *numbers])
    return buffer.getvalue()


def _markdown(study: "Study", lines: list[Line], conditions: dict[str, str]) -> str:
    place = [] if study.at is None else [study.at]
    names = [name for name in (*_SHOWN_METRICS, *study.columns) if any(name in line.means for line in lines)]
    cells = [["variant", *place, "runs", *names]]
    for line in lines:
        at = "" if line.at is None else str(line.at)
        cells.append([line.variant, *([at] if place else []), str(line.num_runs), *(_cell(line, n) for n in names)])
    rule = ["---", *["--:"] * (len(cells[0]) - 1)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
    listing = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    return (
        f"# {study.name}: {STUDIES[study.name]}\n\n{study.about.strip()}\n\n{table}\n\n"
        f"{study.note}{' ' + LOWER_OR_HIGHER if set(names) & set(_SHOWN_METRICS) else ''}\n\n{listing}\n"
    )


def _cell(line: Line, name: str) -> str:
    if name not in line.means:
        return ""
    mean = _number(line.means[name])
    return f"{mean} ± {_number(line.stds[name])}" if line.stds.get(name) else mean


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.{4 if size < 1 else 3}f}"


def _conditions(options: Any, data: Any, command: str, records: list[dict[str, Any]]) -> dict[str, str]:
    conditions = {"command": f"`{command}`"}
    rows = [row for record in records for row in record["rows"]]
    if data is not None:
        conditions |= options.chosen_protocol().summary()
        parts = (data.data, data.data_revision, data.dataset)
        conditions["data"] = " / ".join(str(without_place(part)) for part in parts if part)
        trained = sorted({row["num_train_frames"] for row in rows if "num_train_frames" in row})
        measured = sorted({row["num_images"] for row in rows if "num_images" in row})
        conditions["frames trained on"] = ", ".join(map(str, trained)) or "none"
        conditions["images measured with"] = ", ".join(map(str, measured))
    for name in ("versions", "device"):
        found = dict.fromkeys(_words(record[name]) for record in records)
        conditions[name] = "; or ".join(found)
    return conditions


def _words(value: dict[str, str] | str) -> str:
    return value if isinstance(value, str) else ", ".join(f"{name} {number}" for name, number in value.items())


def _plot(study: "Study", lines: list[Line]) -> bytes:
    """Over numbers a curve for each variant (a dashed line without one), otherwise a bar for each line; with error
    bars of one standard deviation, or from quartile to quartile where a run has its own spread."""
    from matplotlib.figure import Figure

    shown = next(name for name in (study.plot, *METRIC_NAMES) if any(name in line.means for line in lines))
    lines = [line for line in lines if shown in line.means]
    spreads = [line.stds.get(shown, line.means.get(f"{shown}_iqr", math.nan) / 2) for line in lines]
    variants = list(dict.fromkeys(line.variant for line in lines))
    colours = [f"C{variants.index(line.variant) % 10}" for line in lines]
    has_curves = any(isinstance(line.at, int) for line in lines)
    figure = Figure(figsize=(7, 4.5) if has_curves else (8, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    draw = _draw_curves if has_curves else _draw_bars
    draw(axes, lines, [line.means[shown] for line in lines], spreads, colours)
    label = _LABELS.get(shown, shown)
    if has_curves:
        axes.set(xlabel=_LABELS.get(study.at, study.at), ylabel=label)
    else:
        axes.set(xlabel=label)
    figure.suptitle(f"{study.name}: {STUDIES[study.name]}", fontsize="small")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw_curves(axes, lines: list[Line], means: list[float], spreads: list[float], colours: list[str]) -> None:
    curves: dict[str, list[tuple]] = {}
    for line, mean, spread, colour in zip(lines, means, spreads, colours, strict=True):
        if line.at is not None:
            curves.setdefault(line.variant, []).append((line.at, mean, spread, colour))
            continue
        axes.axhline(mean, linestyle="--", color=colour, label=line.variant)
        if not math.isnan(spread):
            axes.axhspan(mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    for variant, points in curves.items():
        places, means, spreads, (colour, *_) = zip(*sorted(points), strict=True)
        axes.errorbar(places, means, spreads, marker="o", capsize=3, color=colour, label=variant)
    ticks = sorted({line.at for line in lines if line.at is not None})
    if ticks[-1] >= 10 * ticks[0]:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize="small")


def _draw_bars(axes, lines: list[Line], means: list[float], spreads: list[float], colours: list[str]) -> None:
    axes.barh(range(len(lines)), means, xerr=spreads, color=colours, capsize=3)
    names = [line.variant if line.at is None else f"{line.at}: {line.variant}" for line in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.invert_yaxis()


__all__ = ["Line", "aggregate", "public_command", "write_report"]
