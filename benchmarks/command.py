"""The command line: which sections, how often, and where the results go; or two results, compared."""

import argparse
import importlib.util
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from .sections import SECTIONS, Bench

if TYPE_CHECKING:
    from .record import Results

DEFAULT_OUTPUT = Path("outputs/speed")
_ROUNDS, _QUICK_ROUNDS = 5, 2


def main(arguments: Sequence[str]) -> int:
    """Runs `python -m benchmarks ...`.

    Returns:
        `int`: 0; 1 if a section failed; 2 for a wrong argument or input, told in one line.
    """
    try:
        if arguments[:1] == ["compare"]:
            return _compare(arguments[1:])
        return _measure(_parser().parse_args(arguments), arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"benchmarks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times LLM-MDE beside its bare encoders and other depth models, all with random weights.",
        epilog="`python -m benchmarks compare OLD.json NEW.json` sets two runs of one machine side by side. Sections: "
        + "; ".join(f"{name}, {about}" for name, about in SECTIONS.items())
        + ".",
        allow_abbrev=False,
    )
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rounds", type=_positive, help="most rounds of a setting; slow settings take fewer, but two")
    parser.add_argument("--threads", type=_positive, help="threads of PyTorch; by default as many as it takes")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="fewer rounds, sizes and contenders: minutes")
    extent.add_argument("--full", action="store_true", help="also batches of large images, every floor: an hour")
    parser.add_argument("--authors", type=Path, metavar="FOLDER", help="a clone of the authors' release")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="RGB-D frames of your own, for the loader")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=DEFAULT_OUTPUT)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _compare(arguments: Sequence[str]) -> int:
    from .compare import compare_files

    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description="New over old, row by row.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    files = parser.parse_args(arguments)
    print(compare_files(files.old, files.new))
    return 0


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    for package in ("matplotlib", "peft"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"benchmarks need {package}: pip install {package}.")

    import torch
    from transformers import logging

    from llm_mde.public_names import public_command
    from llm_mde.studies.run_log import versions

    from .authors import Authors
    from .machine import describe_machine, measure_gemm
    from .record import open_results

    if options.data is not None and not options.data.is_dir():
        raise ValueError(f"`data` is {str(options.data)!r}, and there is no such folder.")
    if options.authors is not None:
        Authors(options.authors)  # refuses what is none before anything is measured
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    machine = describe_machine()
    results = open_results(options.output, machine, versions())
    gemm = measure_gemm(torch.device("cpu"))
    print(f"{machine}\n{gemm} GFLOP/s", flush=True)
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    bench = Bench(rounds, gemm, options.quick, options.full, options.authors, options.data)
    return run_sections(
        options.only, bench, results, options.output, public_command(["python", "-m", "benchmarks", *arguments])
    )


def run_sections(
    names: Sequence[str],
    bench: Bench,
    results: "Results",
    folder: Path,
    command: str,
    find: Callable[[str], Callable[[Bench], Iterator]] | None = None,
) -> int:
    """
    Measures one section after the other and writes everything after each. One that fails keeps the rows it had.

    Args:
        names (`Sequence[str]`): Of `SECTIONS`.
        bench ([`Bench`]): What they are told.
        results ([`Results`]): Where they go; a section that is there already is replaced.
        folder (`Path`): Where the files go.
        command (`str`): As it was typed.
        find (`Callable`, *optional*): Gives the function that measures; `find_section` by default.

    Returns:
        `int`: 1 if a section failed, else 0.
    """
    from .record import SectionRecord
    from .report import section_parts, write_report
    from .sections import find_section

    has_failed = False
    for name in names:
        started = time.perf_counter()
        record = SectionRecord(date.today().isoformat(), command, bench.is_quick, bench.gemm)
        try:
            for row in (find or find_section)(name)(bench):
                record.rows.append(row)
        except Exception as error:  # whatever it is, the other sections are still worth measuring
            traceback.print_exc()
            record.failed = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            has_failed = True
        results.sections[name] = record
        results.write(folder)
        write_report(folder, results)
        print(f"\n## {name} ({time.perf_counter() - started:.0f} s)\n", flush=True)
        print("\n\n".join(section_parts(record)), flush=True)
    return int(has_failed)


__all__ = ["DEFAULT_OUTPUT", "main", "run_sections"]
