"""What a measurement leaves: raw times and numbers, or why there are none. Everything else is worked out of these."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass(frozen=True)
class Row:
    """One contender in one setting. Rows of one setting that have times took turns.

    Args:
        setting (`str`): What was done, such as "224x224, batch 1, float32".
        contender (`str`): Who did it.
        reads (`str`, *optional*): Pixels and tokens, where contenders differ in them.
        seconds (`list[float]`, *optional*): Of each round.
        images (`int`, *optional*, defaults to 0): Images in one call; 0 where throughput means nothing.
        reference (`str`, *optional*): Contender of the same setting to which the ratio is.
        numbers (`dict[str, float]`, *optional*): Anything else, with its unit in the name.
        not_measured (`str`, *optional*): The reason, where there is neither.
    """

    setting: str
    contender: str
    reads: str = ""
    seconds: list[float] = field(default_factory=list)
    images: int = 0
    reference: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    not_measured: str | None = None


@dataclass(frozen=True)
class Spread:
    """The middle of several values, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
        return cls(median(values), low, high)


def ratio_by_round(seconds: Sequence[float], reference: Sequence[float]) -> Spread:
    """
    How many times as long as the reference: a ratio for each round, then the middle of them. A machine that is slower
    in some rounds is so for both.

    Raises:
        ValueError: If the two were not measured in the same rounds.
    """
    if not seconds or len(seconds) != len(reference):
        raise ValueError(
            f"`seconds` has {len(seconds)} rounds and `reference` {len(reference)}; take both from one setting."
        )
    return Spread.of([mine / other for mine, other in zip(seconds, reference, strict=True)])


def find_row(rows: Sequence[Row], setting: str, contender: str) -> Row | None:
    """The row of this contender in this setting, if it is there."""
    return next((row for row in rows if (row.setting, row.contender) == (setting, contender)), None)


__all__ = ["Row", "Spread", "find_row", "ratio_by_round"]
