"""Command lines out of dataclasses: flags, a YAML or JSON file, or a file with flags that replace some of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def parse_arguments(
    command: str,
    dataclass_types: Sequence[type],
    arguments: Sequence[str],
    description: str,
    defaults: Path | None = None,
) -> tuple[Any, ...]:
    """
    One instance of each dataclass from words of a command line; fields are flags, as `HfArgumentParser` makes them.

    If the first word is a file that ends in `.yaml`, `.yml` or `.json`, its values are taken as if they were flags,
    and the flags after it replace them.

    Args:
        command (`str`): The subcommand, for its help.
        dataclass_types (`Sequence[type]`): The dataclasses; no two share a field.
        arguments (`Sequence[str]`): Words after the subcommand.
        description (`str`): What `--help` says first.
        defaults (`Path`, *optional*): Another such file, replaced by both.

    Raises:
        ValueError: If the file is missing, not a mapping, or names a field that no dataclass has.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        list(dataclass_types), prog=f"llm-mde {command}", description=description, allow_abbrev=False
    )
    arguments = list(arguments)
    known = {flag.lstrip("-") for action in parser._actions for flag in action.option_strings}
    if starts_with_file(arguments):
        arguments[:1] = _flags_of(Path(arguments[0]), known)
    if defaults is not None:
        arguments[:0] = _flags_of(defaults, known)
    return parser.parse_args_into_dataclasses(arguments)


def starts_with_file(arguments: Sequence[str]) -> bool:
    """Whether the first word is a file of arguments."""
    return bool(arguments) and not arguments[0].startswith("-") and arguments[0].endswith((".yaml", ".yml", ".json"))


def read_argument_file(path: Path) -> dict[str, Any]:
    """
    The values in a YAML or JSON file of arguments.

    Raises:
        ValueError: If it is missing, cannot be read, or is not a mapping.
    """
    import yaml

    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file; give the path of a YAML or JSON file, or flags alone.")
    try:
        values = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} holds {type(values).__name__}; write one `name: value` a line.")
    return values


def _flags_of(path: Path, known: set[str]) -> list[str]:
    flags = []
    for name, value in read_argument_file(path).items():
        if name not in known:
            raise ValueError(f"{str(path)!r} has `{name}`, which is no argument of this command; see its --help.")
        if value is None:
            continue
        flags.append(f"--{name}")
        if isinstance(value, dict):
            flags.append(json.dumps(value))
        elif isinstance(value, list):
            flags += [str(item) for item in value]
        else:
            flags.append(str(value))
    return flags


__all__ = ["parse_arguments", "read_argument_file", "starts_with_file"]
