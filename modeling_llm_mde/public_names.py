"""What results may say of where they come from: names as they were given, without the folders of this machine."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def without_place(value: Any) -> Any:
    """A value as it was given, but of an absolute path, `.` or `..` the last part alone, also in the settings behind
    the colon of `path:name=value,...`: results travel, folders stay."""
    if not isinstance(value, str):
        return value
    place, settings = split_settings(value)
    if settings:
        parts = (part.partition("=") for part in settings.split(","))
        shortened = (f"{name}{sign}{without_place(setting)}" for name, sign, setting in parts)
        return f"{without_place(place)}:{','.join(shortened)}"
    if Path(value).is_absolute() or Path(value).name in ("", ".."):
        return Path(os.path.abspath(value)).name
    return value


def split_settings(value: str) -> tuple[str, str]:
    """The two sides of the colon in `path:name=value,...`; the second is empty where there are no settings."""
    match = re.fullmatch(r"(.+?):(\w+=.*)", value, re.DOTALL)
    return (match[1], match[2]) if match else (value, "")


def public_command(words: Sequence[str]) -> str:
    """A command line as it was typed, but without the folders of this machine, which a comment behind it says, and
    with dots for what follows a flag such as `--hub_token`."""
    words = _without_tokens(words)
    parts = [word.partition("=") if re.match(r"--\w+=", word) else ("", "", word) for word in words]
    shortened = [f"{flag}{equals}{without_place(value)}" for flag, equals, value in parts]
    comment = "" if shortened == words else "  # absolute paths are shortened to their last part"
    return f"{shlex.join(shortened)}{comment}"


def _without_tokens(words: Sequence[str]) -> list[str]:
    words = [re.sub(r"^(--\w*token)=.*", r"\1=...", word, flags=re.DOTALL) for word in words]
    flags = ["", *words[:-1]]
    return ["..." if re.fullmatch(r"--\w*token", flag) else word for flag, word in zip(flags, words, strict=True)]


__all__ = ["public_command", "split_settings", "without_place"]
