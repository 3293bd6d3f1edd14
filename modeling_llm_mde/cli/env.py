"""`llm-mde env`: a report to paste into an issue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import parse_arguments


@dataclass
class EnvArguments:
    """What to report."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a model or an adapter, to tell of."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    as_json: bool = field(default=False, metadata={"help": "Whether to print JSON."})


def run(arguments: Sequence[str]) -> None:
    """`llm-mde env`: prints the report.

    Raises:
        ValueError: For the reasons of `describe_model`.
    """
    (options,) = parse_arguments(
        "env",
        [EnvArguments],
        arguments,
        "Prints machine, versions and settings, and with --model what a model is and how it was trained. Nothing is "
        "sent anywhere; no token and no folder of this machine is in it.",
    )
    from llm_mde.environment import describe_environment, describe_model, format_report

    environment = describe_environment()
    model = None if options.model is None else describe_model(options.model, options.revision)
    if options.as_json:
        print(json.dumps({"environment": environment, "model": model}, indent=1))
    else:
        print(format_report(environment, model), end="")


__all__ = ["EnvArguments", "run"]
