"""Exported networks beside eager PyTorch, in miniature."""

import json

import numpy as np
import pytest
import torch

from benchmarks import export_speed
from llm_mde import LLMMDEImageProcessor
from tests.conftest import make_config

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(export_speed, "LLMMDEConfig", make_config)
    monkeypatch.setattr(
        export_speed, "LLMMDEImageProcessor", lambda: LLMMDEImageProcessor(size={"height": 32, "width": 32})
    )
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def test_eight_bits_are_found_by_other_photographs_than_those_compared_on():
    _, compared, others = export_speed.paper_model(prompt_length=5)
    assert len(compared) == 3 and len(others) > 8
    for inputs in compared:
        assert not any(np.allclose(inputs["pixel_values"], other["pixel_values"]) for other in others)


@pytest.mark.slow
def test_every_network_of_a_format_is_timed_and_compared(tmp_path, monkeypatch, capsys):
    output = tmp_path / "results.json"
    words = ["--formats", "onnx", "--rounds", "2", "--threads", "1", "--prompt_length", "5", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["export_speed", *words])
    export_speed.main()
    record = json.loads(output.read_text())
    rows = {row["network"]: row for row in record["rows"]}
    assert list(rows) == [export_speed.EAGER, "onnx, float32", "onnx, int8"]
    assert record["tokens"] == 5 and record["size"] == [32, 32]
    assert all(len(row["seconds"]) == 2 and row["times_as_fast"] > 0 for row in rows.values())
    assert rows[export_speed.EAGER]["mean_relative_difference"] == 0
    assert rows["onnx, float32"]["largest_relative_difference"] < 1e-3
    assert 0 < rows["onnx, int8"]["megabytes"] < rows["onnx, float32"]["megabytes"]
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in rows)
