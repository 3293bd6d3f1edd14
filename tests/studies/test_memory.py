"""Peak memory is that of one run, whatever its parent holds."""

import os
from functools import partial

import pytest
import torch

from llm_mde.studies.memory import forget_peak, in_fresh_process, is_fresh_process, peak_memory_mb, resident_mb

CPU = torch.device("cpu")
MEGABYTE = 1_000_000


def weigh(megabytes: int) -> tuple[float, bool, int]:
    ballast = torch.ones(megabytes * MEGABYTE // 4)
    return peak_memory_mb(CPU) + 0 * ballast[0].item(), is_fresh_process(), torch.get_num_threads()


@pytest.mark.slow
def test_a_fresh_process_knows_nothing_of_its_parent():
    ballast = torch.ones(500 * MEGABYTE // 4)
    small, is_fresh, num_threads = in_fresh_process(partial(weigh, 1))
    large, *_ = in_fresh_process(partial(weigh, 300))
    assert is_fresh and not is_fresh_process()
    assert num_threads == torch.get_num_threads()
    assert peak_memory_mb(CPU) >= resident_mb(CPU) > ballast.nbytes / MEGABYTE
    assert small < peak_memory_mb(CPU) - 300
    assert large - small == pytest.approx(300, abs=60)


@pytest.mark.slow
def test_a_killed_process_is_an_error_in_one_line():
    with pytest.raises(ValueError, match="lower `batch_size`"):
        in_fresh_process(partial(os._exit, 1))


def test_a_peak_can_be_forgotten_or_stays():
    before = resident_mb(CPU)
    ballast = torch.ones(200 * MEGABYTE // 4)
    high = peak_memory_mb(CPU)
    assert high >= before + 150
    del ballast
    forget_peak(CPU)
    assert resident_mb(CPU) - 1 <= peak_memory_mb(CPU) <= high
