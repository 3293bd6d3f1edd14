"""What a study leaves in the end: a table as CSV and Markdown, and a plot, all made of the lines of `runs.jsonl`."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from llm_mde.evaluation import METRIC_NAMES
from llm_mde.evaluation.report import LOWER_OR_HIGHER
from llm_mde.public_names import without_place

from . import STUDIES
from .run_log import Row, write_whole

if TYPE_CHECKING:
    from .runner import Study, Workbench

_WORDS = ("variant", "at", "loss")  # of a row; the rest are numbers
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
    """Rows of one variant and place become one line, in the order in which they first come; where places are names,
    lines of one place stand together. A number that only one row has gets no deviation, and the mean of equal whole
    numbers stays whole."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["at"]), []).append(row)
    if any(isinstance(at, str) for _, at in groups):
        places = list(dict.fromkeys(at for _, at in groups))
        groups = dict(sorted(groups.items(), key=lambda item: places.index(item[0][1])))
    lines = []
    for (variant, at), group in groups.items():
        names = dict.fromkeys(name for row in group for name in row if name not in _WORDS)
        values = {name: [row[name] for row in group if row.get(name) is not None] for name in names}
        means = {name: _mean(column) for name, column in values.items() if column}
        stds = {name: stdev(column) for name, column in values.items() if len(column) > 1}
        lines.append(Line(variant, at, len(group), means, stds))
    return lines


def _mean(column: list[float]) -> float:
    is_whole = all(isinstance(value, int) for value in column) and len(set(column)) == 1
    return column[0] if is_whole else fmean(column)


def write_report(
    folder: Path, study: "Study", bench: "Workbench", command: str, records: list[dict[str, Any]]
) -> None:
    """Writes `table.csv`, `table.md` and `plot.png`; each appears whole or not at all."""
    lines = aggregate([row for record in records for row in record["rows"]])
    conditions = _conditions(study, bench, command, records)
    contents = {
        "table.csv": _csv(study, lines).encode(),
        "table.md": _markdown(study, lines, conditions).encode(),
        "plot.png": _plot(study, lines),
    }
    for name, content in contents.items():
        write_whole(folder / name, content)


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
    left = 2 if any(isinstance(line.at, str) for line in lines) else 1
    rule = [*["---"] * left, *["--:"] * (len(cells[0]) - left)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])
    listing = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    return (
        f"# {study.name}: {STUDIES[study.name]}\n\n{study.about.strip()}\n\n{table}\n\n"
        f"{study.note}{' ' + LOWER_OR_HIGHER if set(names) & set(_SHOWN_METRICS) else ''}\n\n{listing}\n"
    )


def _cell(line: Line, name: str) -> str:
    if name not in line.means:
        return ""
    mean, std = line.means[name], line.stds.get(name)
    if not std:
        return _number(mean)
    return f"{_number(mean)} ± {_number(std)}" if std >= 5e-5 else f"{_number(mean)} ± <0.0001"


def _number(value: float) -> str:
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.{4 if size < 1 else 3}f}"


def _conditions(study: "Study", bench: "Workbench", command: str, records: list[dict[str, Any]]) -> dict[str, str]:
    conditions = {"command": f"`{command}`"}
    options, data = bench.options, bench.data
    rows = [row for record in records for row in record["rows"]]
    if data is not None:
        conditions |= options.chosen_protocol().summary()
        parts = (data.data, data.data_revision, data.dataset)
        conditions["data"] = " / ".join(str(without_place(part)) for part in parts if part)
        for name, number in (("frames trained on", "num_train_frames"), ("images measured with", "num_images")):
            found = sorted({row[number] for row in rows if number in row})
            conditions[name] = ", ".join(map(str, found)) or "none"
        if study.conditions is not None:
            conditions |= study.conditions(bench)
    losses = dict.fromkeys((row["variant"], row["loss"]) for row in rows if "loss" in row)
    if len({loss for _, loss in losses}) == 1:
        conditions["training loss, the same in all runs"] = next(iter(losses))[1]
    else:
        conditions |= {f"training loss of {variant}": loss for variant, loss in losses}
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
    points = [
        _Point(line.variant, line.at, line.means[shown], _spread(line, shown)) for line in lines if shown in line.means
    ]
    has_curves = any(isinstance(point.at, int) for point in points)
    label = _LABELS.get(shown, shown)
    if has_curves:
        figure = Figure(figsize=(7.5, 5.5), layout="constrained")
        axes = figure.add_subplot()
        _draw_curves(axes, points)
        axes.set(xlabel=_LABELS.get(study.at, study.at), ylabel=label)
    else:
        num_places = len({point.at for point in points})
        figure = Figure(figsize=(9, 1.6 + 0.26 * len(points) + 0.2 * num_places), layout="constrained")
        axes = figure.add_subplot()
        _draw_bars(axes, points)
        axes.set(xlabel=label)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.suptitle(f"{study.name}: {STUDIES[study.name]}", fontsize="small")
    axes.grid(axis="both" if has_curves else "x", alpha=0.3)
    axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Point:
    """A number of the plot; the spread is NaN where one run alone was done."""

    variant: str
    at: Any
    mean: float
    spread: float

    @property
    def ends(self) -> tuple[float, float]:
        spread = 0.0 if math.isnan(self.spread) else self.spread
        return self.mean - spread, self.mean + spread

    @property
    def text(self) -> str:
        return _number(self.mean) + (f" ± {_number(self.spread)}" if self.spread >= 5e-5 else "")


def _spread(line: Line, name: str) -> float:
    return line.stds.get(name, line.means.get(f"{name}_iqr", math.nan) / 2)


def _draw_curves(axes, points: list[_Point]) -> None:
    """Curves side by side rather than on top of each other, and levels; a level so far from the curves that they
    would be flat beside it is told in words."""
    variants = list(dict.fromkeys(point.variant for point in points))
    curves = {name: [point for point in points if point.variant == name and point.at is not None] for name in variants}
    curves = {name: curve for name, curve in curves.items() if curve}
    ticks = sorted({point.at for point in points if point.at is not None})
    is_log = ticks[-1] >= 10 * ticks[0]
    for place, (variant, curve) in enumerate(curves.items()):
        aside = place - (len(curves) - 1) / 2
        curve = sorted(curve, key=lambda point: point.at)
        where = [at * 1.015**aside if is_log else at + 0.006 * aside * (ticks[-1] - ticks[0]) for at in _ats(curve)]
        means, spreads = [point.mean for point in curve], [point.spread for point in curve]
        colour = f"C{variants.index(variant) % 10}"
        axes.errorbar(where, means, spreads, marker="o", capsize=3, color=colour, label=variant)
    ends = [end for curve in curves.values() for point in curve for end in point.ends]
    for point in (point for point in points if point.at is None):
        colour = f"C{variants.index(point.variant) % 10}"
        if not min(ends) / 2 <= point.mean <= 2 * max(ends):
            axes.plot([], [], " ", label=f"{point.variant}: {point.text}, outside of the plot")
            continue
        axes.axhline(point.mean, linestyle="--", color=colour, label=f"{point.variant}: {point.text}")
        if not math.isnan(point.spread):
            axes.axhspan(*point.ends, color=colour, alpha=0.15, linewidth=0)
    if is_log:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _ats(points: list[_Point]) -> list[int]:
    return [point.at for point in points]


def _draw_bars(axes, points: list[_Point]) -> None:
    """A bar for each with its number, in groups of one place; colours tell variants apart where there are groups."""
    variants = list(dict.fromkeys(point.variant for point in points))
    places = list(dict.fromkeys(point.at for point in points))
    heights = [index + 0.8 * places.index(point.at) for index, point in enumerate(points)]
    is_grouped = len(places) > 1
    for index, variant in enumerate(variants):
        chosen = [number for number, point in enumerate(points) if point.variant == variant]
        bars = axes.barh(
            [heights[number] for number in chosen],
            [points[number].mean for number in chosen],
            xerr=[points[number].spread for number in chosen],
            color=f"C{index % 10}" if is_grouped else "C0",
            capsize=3,
            label=variant if is_grouped else None,
        )
        axes.bar_label(bars, [points[number].text for number in chosen], padding=4, fontsize="x-small")
    names = [point.variant for point in points]
    if is_grouped:  # one name in the middle of its group
        placed = list(zip(heights, points, strict=True))
        heights = [fmean(height for height, point in placed if point.at == at) for at in places]
        names = [str(at) for at in places]
    axes.set_yticks(heights, names)
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.01)
    axes.set_xlim(0, 1.25 * max(point.ends[1] for point in points))  # room for the numbers
    axes.invert_yaxis()


__all__ = ["Line", "aggregate", "write_report"]
