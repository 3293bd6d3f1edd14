"""What a machine is, and when bfloat16 is worth a measurement."""

import pytest
import torch

from benchmarks import machine
from benchmarks.machine import GemmRate, describe_machine, measure_gemm


def test_bfloat16_is_refused_with_both_rates_where_it_is_slower():
    reason = GemmRate(float32=41.2, bfloat16=0.1).refusal_of_bfloat16
    assert reason == "bfloat16 GEMM runs at 0.1 GFLOP/s here against 41.2 in float32"
    assert GemmRate(float32=40.0, bfloat16=80.0).refusal_of_bfloat16 is None


def test_the_machine_says_its_threads():
    described = describe_machine()
    assert described.threads == torch.get_num_threads()
    assert described.cores >= 1 and described.cpu and described.isa


@pytest.mark.parametrize(("small_rate", "sides"), [(1.0, [8, 8, 64]), (9.0, [8, 8, 64, 64])])
def test_large_matrices_are_not_multiplied_in_an_emulated_type(monkeypatch, small_rate, sides):
    seen = []

    def rate(side: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
        seen.append(side)
        return small_rate if dtype == torch.bfloat16 and side == 8 else 10.0

    monkeypatch.setattr(machine, "_SMALL", 8)
    monkeypatch.setattr(machine, "_LARGE", 64)
    monkeypatch.setattr(machine, "_gemm_rate", rate)
    assert measure_gemm(torch.device("cpu")) == GemmRate(10.0, small_rate if small_rate == 1.0 else 10.0)
    assert sorted(seen) == sides


def test_a_rate_is_finite():
    assert 0 < machine._gemm_rate(32, torch.float32, torch.device("cpu"), repeats=2) < 1e9
