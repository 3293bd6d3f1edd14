"""Formats by name, and what each needs."""

import importlib.util

import pytest

from llm_mde.export import FORMATS
from llm_mde.export import formats as formats_module
from llm_mde.export.formats import find_format
from llm_mde.export.network import trace
from tests.conftest import make_pair


def test_an_unknown_format_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="`format` is 'tflite'; choose one of onnx, openvino, torch"):
        find_format("tflite")


def test_eight_bits_are_refused_where_there_are_none():
    assert find_format("torch").name == "torch"
    with pytest.raises(ValueError, match=r"`int8` is on but `format` is 'torch'.*choose onnx or openvino"):
        find_format("torch", int8=True)


@pytest.mark.parametrize(
    ("name", "int8", "missing"),
    [("onnx", False, "onnxscript"), ("openvino", False, "openvino"), ("openvino", True, "nncf")],
)
def test_a_missing_package_is_named_with_what_to_install(name, int8, missing, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name) or True)
    with pytest.raises(ImportError, match=rf"`format` '{name}' needs {missing}: pip install {missing}"):
        find_format(name, int8)


def test_what_eight_bits_need_is_not_asked_for_without_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else True)
    assert find_format("openvino") is FORMATS["openvino"]


@pytest.mark.slow
def test_weights_too_many_for_one_onnx_file_lie_in_a_second_one(
    exported, tmp_path, monkeypatch, pixel_values, prompts
):
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = {"pixel_values": pixel_values.numpy(), **{name: value.numpy() for name, value in prompts.items()}}
    (tmp_path / "two").mkdir()
    monkeypatch.setattr(formats_module, "LARGEST_ONNX", 1000)
    find_format("onnx").write(trace(make_pair()[0], (32, 32)), tmp_path / "two" / "model.onnx")
    assert len(list((tmp_path / "two").iterdir())) == 2
    depths = []
    find_format("onnx").quantise(tmp_path / "two" / "model.onnx", tmp_path / "int8.onnx")
    for path in (exported("onnx") / "model.onnx", tmp_path / "two" / "model.onnx", tmp_path / "int8.onnx"):
        (depth,) = onnxruntime.InferenceSession(path).run(None, inputs)
        depths.append(depth)
    assert (depths[0] == depths[1]).all()
    assert 0 < abs(depths[0] - depths[2]).mean() < 0.1
