"""Several processes on one evaluation, with `torch.distributed`."""

import os
from typing import Any

import torch


def join_processes() -> tuple[int, int]:
    """This process's rank and how many there are; joins the group that `accelerate launch` has announced."""
    if not torch.distributed.is_available():
        return 0, 1
    if not torch.distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return 0, 1
        from accelerate import PartialState

        # Without `cpu` processes on a machine without accelerators would not find each other.
        PartialState(cpu=not torch.accelerator.is_available())
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather_in_order(value: Any) -> list[Any]:
    """What each process passed, by rank, in every process; all of them have to call. Alone, `[value]`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


__all__ = ["gather_in_order", "join_processes"]
