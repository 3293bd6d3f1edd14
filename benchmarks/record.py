"""`results.json`: everything that was measured, section by section, on one machine with one set of libraries."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_mde.studies.run_log import write_whole

from .machine import GemmRate, Machine
from .rows import Row

RESULTS_FILE = "results.json"
_FORMAT = 1


@dataclass
class SectionRecord:
    """One section: when and how it was run, and its rows; of a section that failed those it had, and the error."""

    date: str
    command: str
    is_quick: bool
    gemm: GemmRate
    rows: list[Row] = field(default_factory=list)
    failed: str | None = None


@dataclass
class Results:
    """A machine, versions of libraries, and the sections that were run there."""

    machine: Machine
    versions: dict[str, str]
    sections: dict[str, SectionRecord] = field(default_factory=dict)

    def rows(self, section: str) -> list[Row]:
        """The rows of a section, none if it was not run."""
        return self.sections[section].rows if section in self.sections else []

    def write(self, folder: Path) -> None:
        """Writes the file, whole or not at all."""
        content = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULTS_FILE, content.encode())


def read_results(path: Path) -> Results:
    """
    What a file holds.

    Raises:
        ValueError: If it is missing, or not a file of results.
    """
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file; give a {RESULTS_FILE}, as `python -m benchmarks` writes it.")
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r} instead of {_FORMAT}")
        sections = {name: _section(values) for name, values in content["sections"].items()}
        return Results(Machine(**content["machine"]), content["versions"], sections)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} holds no results of `python -m benchmarks`: {error!r}.") from None


def _section(values: dict[str, Any]) -> SectionRecord:
    rows = [Row(**row) for row in values["rows"]]
    return SectionRecord(**{**values, "gemm": GemmRate(**values["gemm"]), "rows": rows})


def open_results(folder: Path, machine: Machine, versions: dict[str, str]) -> Results:
    """
    The results of a folder, to add to; empty ones if it has none.

    Raises:
        ValueError: If it holds those of another machine or other versions, which would not be comparable.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        return Results(machine, versions)
    results = read_results(path)
    found = difference(asdict(results.machine), asdict(machine)) or difference(results.versions, versions)
    if found is not None:
        name, before, now = found
        raise ValueError(
            f"`output` is {str(folder)!r}, which holds results with {name} {before!r}, but here it is {now!r}; give "
            "another folder."
        )
    return results


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first name under which two dictionaries differ, and both values."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return (names[0], first.get(names[0]), second.get(names[0])) if names else None


__all__ = ["RESULTS_FILE", "Results", "SectionRecord", "difference", "open_results", "read_results"]
