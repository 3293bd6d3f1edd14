"""`llm-mde study NAME`: one of the studies, from its flags to a table and a plot."""

import importlib.util
import sys
from collections.abc import Sequence
from functools import partial

from llm_mde.studies import STUDIES, find_study

from .arguments import parse_arguments
from .data_arguments import DataArguments


def run(arguments: Sequence[str]) -> None:
    """`llm-mde study`: read the arguments, do the runs that are missing, write the results.

    Raises:
        ValueError: If there is no such study, or for the reasons of `run_study`.
        ImportError: If a package of the extra `train` is missing.
    """
    name, *rest = list(arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if arguments else 2)
    study = find_study(name)
    options, *data = parse_arguments(
        f"study {name}",
        [study.arguments, *([DataArguments] if study.needs_data else [])],
        rest,
        f"{study.about} Writes runs.jsonl (a line for each finished run), table.csv, table.md and plot.png; started "
        "again, it does the runs that are missing.",
    )
    absent = [package for package in ("matplotlib", "peft") if importlib.util.find_spec(package) is None]
    if absent:
        raise ImportError(f"studies need {absent[0]}: pip install {' '.join(absent)}.")

    from transformers import logging

    from llm_mde.public_names import public_command
    from llm_mde.studies.runner import run_study

    logging.disable_progress_bar()
    command = public_command(["llm-mde", "study", *arguments])
    folder = run_study(study, options, data[0] if data else None, command, partial(print, flush=True))
    print(f"\n{(folder / 'table.md').read_text()}")
    print("Written:", *(f"  {path}" for path in sorted(folder.iterdir())), sep="\n")


def _usage() -> str:
    lines = [f"  {name:<14} {question}" for name, question in STUDIES.items()]
    return "\n".join(
        [
            "usage: llm-mde study NAME ...",
            "",
            "Measures what the paper claims or leaves open, over several seeds. Studies:",
            *lines,
            "",
            "`llm-mde study NAME --help` describes the flags of one.",
        ]
    )


__all__ = ["run"]
