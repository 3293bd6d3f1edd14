"""The command `llm-mde`: one module for each subcommand, imported when it is called."""

import importlib
import re
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "adapt a model to your RGB-D frames, or train a small one from scratch",
    "evaluate": "measure a model with a named protocol, beside predictors that see no photograph",
    "predict": "write the depth of photographs, thousands of them, as PNG, NPY, pictures and point clouds",
    "export": "write a model for small machines: ONNX, OpenVINO or torch.export, with 8 bits if wanted",
    "study": "ask what the paper claims or leaves open, over several seeds: a table and a plot",
    "publish": "put a model, an adapter or a Space on the Hub, with its card, as one commit",
    "env": "print machine, versions and what a model is made of, to paste into an issue",
    "demo": "train a small model for minutes and predict real photographs with it",
}

_TOKEN = r"hf_[A-Za-z0-9]{20,}"  # whoever mistypes a flag gets its value told


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Runs `llm-mde COMMAND ...`; a wrong argument or input ends in one line and `SystemExit` with status 2.

    Args:
        arguments (`Sequence[str]`, *optional*): Words of the command line; defaults to those of the process.
    """
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command in ("", "-h", "--help"):
        print(_usage())
        sys.exit(0 if command else 2)
    if command not in COMMANDS:
        _refuse("llm-mde", f"there is no command {command!r}; choose one of {', '.join(COMMANDS)}.")
    try:
        status = importlib.import_module(f".{command}", __name__).run(rest)
    except (ImportError, OSError, ValueError) as error:  # an OSError names the file or folder that it is about
        _refuse(f"llm-mde {command}", " ".join(_own_message(error).split()))
    if status:
        sys.exit(status)


def _own_message(error: Exception) -> str:
    """What was raised; from a worker of a `DataLoader` it comes with the worker's traceback in front."""
    message = str(error)
    if "Original Traceback" not in message:
        return message
    return re.split(rf"\n(?:[\w.]+\.)?{type(error).__name__}: ", message)[-1]


def _usage() -> str:
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llm-mde COMMAND ...",
            "",
            "Metric depth from one photograph (LLM-MDE). Commands:",
            *lines,
            "",
            "`llm-mde COMMAND --help` describes one of them.",
        ]
    )


def _refuse(program: str, message: str) -> None:
    print(f"{program}: {re.sub(_TOKEN, '(token)', message)}", file=sys.stderr)
    sys.exit(2)


__all__ = ["COMMANDS", "main"]
