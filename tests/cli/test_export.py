"""`llm-mde export`: what it refuses in one line, and adapters. Of what it makes, tests/export/test_folder.py."""

import importlib.util

import pytest
import torch
from transformers import ViTConfig, ViTModel

from llm_mde.cli import main
from llm_mde.export import ExportedModel
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from tests.conftest import make_pair
from tests.export.conftest import make_photograph


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("models") / "model", *make_pair())


def refusal(capsys, *words) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, words)])
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-mde export: ")]
    return line


@pytest.mark.slow
def test_an_adapter_is_merged_into_what_is_exported(model_folder, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base, processor = load_model_and_processor(model_folder, device="cpu")
    config = peft.LoraConfig(r=4, lora_alpha=400, init_lora_weights=False, target_modules=["self.query"])
    adapter = write_adapter_folder(tmp_path / "adapter", peft.get_peft_model(base, config), processor)
    main(["export", "--model", str(adapter), "--output", str(tmp_path / "exported"), "--format", "torch"])
    inputs = processor(images=make_photograph(), return_tensors="pt")
    with torch.no_grad():
        merged = load_model_and_processor(adapter, device="cpu")[0](**inputs).predicted_depth[0]
        unadapted = load_model_and_processor(model_folder, device="cpu")[0](**inputs).predicted_depth[0]
    (depth,) = ExportedModel(tmp_path / "exported")([make_photograph()])
    torch.testing.assert_close(depth, merged, rtol=1e-5, atol=0)
    assert (depth - unadapted).abs().max() > 1e-3


def test_what_the_flags_exclude_is_refused_before_anything_is_loaded(tmp_path, capsys):
    words = ["--model", "nowhere", "--output", tmp_path / "exported"]
    assert "`format` is 'tflite'; choose one of" in refusal(capsys, *words, "--format", "tflite")
    assert "written in float32 alone" in refusal(capsys, *words, "--format", "torch", "--int8")
    assert "`num_photographs` is 0" in refusal(capsys, *words, "--num_photographs", "0")
    assert "there are none without `calibration_data`" in refusal(capsys, *words, "--num_photographs", "9")
    pytest.importorskip("nncf")
    assert "which finds its ranges by photographs" in refusal(capsys, *words, "--format", "openvino", "--int8")
    folder = ["--calibration_data", tmp_path, "--num_photographs", "1"]
    told = refusal(capsys, *words, "--format", "openvino", "--int8", *folder)
    assert "`photographs` has 1 of them; give at least 2" in told
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    told = refusal(capsys, "--model", "nowhere", "--output", tmp_path / "exported")
    assert "onnxscript" in told
    assert "pip install onnxscript" in told


def test_an_output_that_is_there_is_left_alone(model_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path, tmp_path / "file"):
        told = refusal(capsys, "--model", model_folder, "--output", output, "--format", "torch")
        assert "exists and is not empty" in told
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_of_another_kind_are_refused_and_nothing_is_written(tmp_path, capsys):
    output = ["--output", tmp_path / "out", "--format", "torch"]
    assert "there is no such folder" in refusal(capsys, "--model", tmp_path / "nowhere", *output)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    assert "which holds a 'vit' model" in refusal(capsys, "--model", tmp_path / "vit", *output)
    relative = write_model_folder(tmp_path / "relative", *make_pair(depth_estimation_type="relative"))
    assert "what is exported promises metres" in refusal(capsys, "--model", relative, *output)
    assert {path.name for path in tmp_path.iterdir()} == {"vit", "relative"}


def test_photographs_that_cannot_be_read_are_refused(model_folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "words.jpg").write_text("no picture")
    words = ["--model", model_folder, "--output", tmp_path / "out", "--format", "torch", "--calibration_data"]
    assert "cannot be read as an image" in refusal(capsys, *words, tmp_path / "photos")
    assert "is no folder" in refusal(capsys, *words, tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
