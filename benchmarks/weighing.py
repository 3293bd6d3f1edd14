"""Memory that is held, in a process of its own."""

import os
from collections.abc import Callable
from typing import TypeVar
from unittest import mock

from llm_mde.studies.memory import in_fresh_process

Result = TypeVar("Result")

# The C library of Linux otherwise keeps what was freed, and the peak depends on how the pieces happened to fit: what a
# further image adds was 20 to 35 MB for one and the same network. Others pass over the variable.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def weigh(work: Callable[[], Result]) -> Result:
    """What `work()` returns in a process started for it, whose memory above 64 KiB is given back when it is freed."""
    with mock.patch.dict(os.environ, _GIVE_BACK):
        return in_fresh_process(work)


__all__ = ["weigh"]
