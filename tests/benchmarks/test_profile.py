"""Operators are sorted by what they are part of."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.sections.profile import KINDS, LONGEST, OTHER, kind_of, profile_call, sum_by_kind


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::addmm", "matmul"),
        ("aten::mm", "matmul"),
        ("aten::bmm", "matmul"),
        ("aten::mkldnn_linear", "matmul"),
        ("aten::linear", "matmul"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::native_layer_norm", "normalisation"),
        ("aten::native_group_norm_backward", "normalisation"),
        ("aten::linalg_vector_norm", "elementwise and copies"),
        ("aten::gelu", "activation"),
        ("aten::_softmax_backward_data", "activation"),
        ("aten::clamp_min", "activation"),
        ("aten::copy_", "elementwise and copies"),
        ("aten::addcmul_", "elementwise and copies"),
        ("aten::comm", "elementwise and copies"),
        ("AddmmBackward0", OTHER),
        ("Optimizer.step#AdamW.step", OTHER),
    ],
)
def test_operators_have_kinds(operator, kind):
    assert kind_of(operator) == kind


def event(name: str, microseconds: float, caller: SimpleNamespace | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, self_cpu_time_total=microseconds, cpu_parent=caller)


def test_an_operator_counts_for_the_outermost_that_called_it():
    node = event("AddmmBackward0", 1)
    linear = event("aten::linear", 2, node)
    product = event("aten::addmm", 30, linear)
    bias = event("aten::copy_", 4, product)
    alone = event("aten::copy_", 5)
    kinds, operators = sum_by_kind([node, linear, product, bias, alone])
    assert kinds == {OTHER: 1, "matmul": 36, "elementwise and copies": 5}
    assert operators["aten::copy_", "matmul"] == 4


def test_shares_sum_to_the_whole_and_a_matrix_product_is_seen():
    network = nn.Sequential(nn.Linear(300, 300), nn.LayerNorm(300), nn.GELU())
    rows = list(profile_call("forward", lambda: network(torch.ones(200, 300))))
    shares = {row.contender: row.numbers["percent"] for row in rows if row.setting == "forward"}
    assert list(shares) == [*KINDS, OTHER]
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["matmul"] > 0 and shares["normalisation"] > 0 and shares["activation"] > 0
    assert shares["convolution"] == shares["attention"] == 0
    longest = [row.numbers["ms"] for row in rows if row.setting == LONGEST.format("forward")]
    assert longest == sorted(longest, reverse=True) and 0 < len(longest) <= 10
