"""The command `llm-mde`."""

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Runs `llm-mde COMMAND ...`.

    Args:
        arguments (`Sequence[str]`, *optional*): Words of the command line; defaults to those of the process.
    """
    from .demo import add_demo_command

    parser = argparse.ArgumentParser(prog="llm-mde", description="Metric depth from one photograph (LLM-MDE).")
    commands = parser.add_subparsers(dest="command", required=True)
    add_demo_command(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, ValueError) as error:
        parser.exit(2, f"llm-mde {options.command}: {error}\n")


__all__ = ["main"]
