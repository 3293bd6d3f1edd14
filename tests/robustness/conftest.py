"""What happened to hostile input, counted: `LLM_MDE_ROBUSTNESS=FILE pytest tests/robustness` writes the table."""

import os
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llm_mde.hub import write_model_folder
from tests.conftest import make_pair

OUTCOMES = ("refused", "handled", "wrong")
_COUNTS: dict[str, Counter] = {}


class Tally:
    """Counts of one kind of input. `refused` is one clear line, `handled` is a right result, all else is `wrong`."""

    def __init__(self, name: str):
        self.counts = _COUNTS.setdefault(name, Counter())
        self.wrong: list[str] = []

    def count(self, outcome: str, about: str = "") -> str:
        self.counts[outcome] += 1
        if outcome == "wrong":
            self.wrong.append(about)
        return outcome

    def attempt(
        self,
        case: str,
        call: Callable[[], Any],
        is_right: Callable[[Any], bool] | None,
        names: str = "",
        refusal: type[Exception] = ValueError,
    ) -> str:
        """Calls, and counts what came of it. Without `is_right` it has to be refused; a refusal says `names`."""
        try:
            result = call()
        except refusal as error:
            line = str(error)
            is_clear = names in line and line.strip() and "\n" not in line and "Traceback" not in line
            return self.count("refused" if is_clear else "wrong", f"{case}: unclear: {line[:300]!r}")
        except BaseException as error:
            return self.count("wrong", f"{case}: {type(error).__name__}: {str(error)[:300]}")
        is_right = is_right is not None and is_right(result)
        return self.count("handled" if is_right else "wrong", f"{case}: gave {str(result)[:200]}")

    def check(self, least: int) -> None:
        """Fails with everything that went wrong, or if fewer than `least` were tried."""
        assert not self.wrong, "\n".join(self.wrong)
        assert sum(self.counts.values()) >= least


@pytest.fixture
def tally() -> Callable[[str], Tally]:
    return Tally


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("tiny") / "model", *make_pair())


def pytest_sessionfinish() -> None:
    if "LLM_MDE_ROBUSTNESS" not in os.environ or not _COUNTS:
        return
    from llm_mde.environment import describe_environment

    environment = describe_environment()
    versions = ", ".join(
        f"{name} {environment['versions'][name]}" for name in ("torch", "transformers", "peft", "pillow", "gradio")
    )
    lines = [
        "# Hostile input, and what came of it",
        "",
        "Refused: one clear line that names the argument. Handled: the right result. Wrong: anything else, a stack "
        "trace, a result of the wrong size, a file lost or half written. `LLM_MDE_ROBUSTNESS=FILE pytest "
        f"tests/robustness` writes this table; {date.today().isoformat()}, Python "
        f"{environment['package']['python']}, {versions}.",
        "",
        "| input | tried | refused | handled | wrong |",
        "| --- | --: | --: | --: | --: |",
    ]
    total = Counter()
    for name, counts in sorted(_COUNTS.items()):
        total.update(counts)
        lines.append(f"| {name} | {counts.total()} | {' | '.join(str(counts[each]) for each in OUTCOMES)} |")
    lines.append(f"| all | {total.total()} | {' | '.join(str(total[each]) for each in OUTCOMES)} |")
    Path(os.environ["LLM_MDE_ROBUSTNESS"]).write_text("\n".join(lines) + "\n", encoding="utf-8")
