"""What the project aims at, and whether a run shows it."""

from collections.abc import Callable
from dataclasses import dataclass

from .contenders import our_name
from .peers import DEPTH_ANYTHING_BASE
from .record import Results
from .rows import Row, Spread, find_row, ratio_by_round
from .sections import compiled, end_to_end, growth, memory, parts, startup, training
from .sections.compiled import COMPILED

PAPER, FAST, AUTHORS = our_name("paper"), our_name("fast"), "authors' release"
FLOOR = f"floor of {PAPER}"


@dataclass(frozen=True)
class Finding:
    """A measured value, or the reason why there is none."""

    value: float | None = None
    spread: Spread | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Target:
    """Something to reach. `unit` is "x" for ratios, "%" for shares, "s" for differences of seconds."""

    aim: str
    limit: float
    unit: str
    find: Callable[[Results], Finding]

    def is_met(self, finding: Finding) -> bool | None:
        return None if finding.value is None else finding.value <= self.limit

    def is_undecided(self, finding: Finding) -> bool:
        """Whether the quartiles of what was measured lie on both sides of the limit."""
        return finding.spread is not None and finding.spread.low <= self.limit < finding.spread.high


@dataclass(frozen=True)
class _Place:
    section: str
    setting: str

    def pair(self, results: Results, contender: str, reference: str) -> tuple[Row, Row] | str:
        """Both rows, or why they are not there."""
        if self.section not in results.sections:
            return f"section {self.section} was not run"
        record = results.sections[self.section]
        rows = []
        for name in (contender, reference):
            everybody = find_row(record.rows, self.setting, "all") or find_row(record.rows, "all", "all")
            row = find_row(record.rows, self.setting, name) or everybody
            if row is None and name == AUTHORS and not record.failed:
                return "needs --authors"
            if row is None:
                cause = f"the section failed: {record.failed}" if record.failed else f"{name} did not take part"
                return f"{cause} (--quick)" if record.is_quick and not record.failed else cause
            if row.not_measured is not None:
                return row.not_measured
            rows.append(row)
        return rows[0], rows[1]


def time_ratio(section: str, setting: str, contender: str, reference: str) -> Callable[[Results], Finding]:
    """How many times as long as the reference, round by round."""
    return _by_round(_Place(section, setting), contender, reference, 1.0)


def time_share(section: str, setting: str, contender: str, whole: str) -> Callable[[Results], Finding]:
    """Percent of the whole, round by round."""
    return _by_round(_Place(section, setting), contender, whole, 100.0)


def _by_round(place: _Place, contender: str, reference: str, factor: float) -> Callable[[Results], Finding]:
    def find(results: Results) -> Finding:
        rows = place.pair(results, contender, reference)
        if isinstance(rows, str):
            return Finding(reason=rows)
        ratio = ratio_by_round(rows[0].seconds, rows[1].seconds)
        spread = Spread(*(factor * value for value in (ratio.median, ratio.low, ratio.high)))
        return Finding(spread.median, spread)

    return find


def number_ratio(
    section: str, setting: str, number: str, contender: str, reference: str
) -> Callable[[Results], Finding]:
    """How many times as much of a number as the reference has."""

    def find(results: Results) -> Finding:
        rows = _Place(section, setting).pair(results, contender, reference)
        if isinstance(rows, str):
            return Finding(reason=rows)
        if rows[1].numbers[number] == 0:
            return Finding(reason=f"{number} of {reference} is 0, to which there is no ratio")
        return Finding(rows[0].numbers[number] / rows[1].numbers[number])

    return find


def seconds_beyond(section: str, setting: str, contender: str, reference: str) -> Callable[[Results], Finding]:
    """By how many seconds it takes longer than the reference, round by round."""

    def find(results: Results) -> Finding:
        rows = _Place(section, setting).pair(results, contender, reference)
        if isinstance(rows, str):
            return Finding(reason=rows)
        spread = Spread.of([mine - other for mine, other in zip(rows[0].seconds, rows[1].seconds, strict=True)])
        return Finding(spread.median, spread)

    return find


def growth_beyond_tower(first: int, last: int) -> Callable[[Results], Finding]:
    """Growth of the latency between two resolutions, over that of the vision tower."""

    def find(results: Results) -> Finding:
        ratios = []
        for side in (last, first):
            rows = _Place("growth", growth.SETTING.format(side)).pair(results, PAPER, growth.TOWER)
            if isinstance(rows, str):
                return Finding(reason=rows)
            ratios.append(ratio_by_round(rows[0].seconds, rows[1].seconds).median)
        return Finding(ratios[0] / ratios[1])

    return find


_AT_224, _AT_480 = "224x224, batch {}, {}", "480x640, batch 1, float32"
_PHOTOGRAPH = end_to_end.SETTING.format("paper")
_PARTS = "prototypes and reprogramming"

TARGETS = (
    *(
        Target(
            f"forward at 224x224, {dtype}, batch {batch_size}, of its floor",
            limit,
            "x",
            time_ratio("inference", _AT_224.format(batch_size, dtype), PAPER, FLOOR),
        )
        for dtype, limit in (("float32", 1.15), ("bfloat16", 1.20))
        for batch_size in (1, 4)
    ),
    Target("JPEG to metres, of its floor", 1.25, "x", time_ratio("end_to_end", _PHOTOGRAPH, PAPER, FLOOR)),
    Target(
        "processor, of a forward",
        4,
        "%",
        time_share("end_to_end", _PHOTOGRAPH, end_to_end.PROCESSOR, end_to_end.MODEL),
    ),
    Target(
        "`fast` at 224x224, of Depth Anything Base there",
        1.0,
        "x",
        time_ratio("inference", _AT_224.format(1, "float32"), FAST, DEPTH_ANYTHING_BASE),
    ),
    *(
        Target(
            f"`{name.split()[-1]}` at 480x640, of Depth Anything Base at 476x630",
            0.85,
            "x",
            time_ratio("inference", _AT_480, name, DEPTH_ANYTHING_BASE),
        )
        for name in (PAPER, FAST)
    ),
    Target(
        "after torch.compile, of before",
        1.0,
        "x",
        time_ratio("compiled", compiled.SETTING, f"{PAPER}{COMPILED}", PAPER),
    ),
    Target(
        "memory of a further image, of its floor's",
        1.15,
        "x",
        number_ratio("memory", memory.SETTING, memory.PER_IMAGE, PAPER, FLOOR),
    ),
    *(
        Target(
            f"LoRA step, batch {batch_size}, of its floor",
            1.20,
            "x",
            time_ratio("training", training.STEP.format(batch_size), PAPER, FLOOR),
        )
        for batch_size in (1, 2)
    ),
    *(
        Target(
            f"LoRA step, batch {batch_size}, time of the authors', who drop out (2.5 times as fast)",
            1 / 2.5,
            "x",
            time_ratio("training", training.STEP.format(batch_size), PAPER, AUTHORS),
        )
        for batch_size in (1, 2)
    ),
    *(
        Target(
            f"LoRA step, batch {batch_size}, memory of the authors', who drop out",
            0.6,
            "x",
            number_ratio("training", training.MEMORY.format(batch_size), "peak_memory_mb", PAPER, AUTHORS),
        )
        for batch_size in (1, 2)
    ),
    Target(f"{_PARTS}, of a forward", 2, "%", time_share("parts", parts.FORWARD, _PARTS, parts.WHOLE)),
    *(
        Target(
            f"{_PARTS}, of a training step, batch {batch_size}",
            4,
            "%",
            time_share("parts", parts.STEP.format(batch_size), _PARTS, parts.WHOLE),
        )
        for batch_size in parts.BATCH_SIZES
    ),
    Target(
        "growth of latency from 224 to 1024, of the vision tower's",
        1.0,
        "x",
        growth_beyond_tower(growth.SIDES[0], growth.SIDES[-1]),
    ),
    Target(
        "import, beyond that of the peers",
        0.3,
        "s",
        seconds_beyond("startup", startup.SETTING, startup.OURS, startup.PEER),
    ),
)

__all__ = [
    "TARGETS",
    "Finding",
    "Target",
    "growth_beyond_tower",
    "number_ratio",
    "seconds_beyond",
    "time_ratio",
    "time_share",
]
