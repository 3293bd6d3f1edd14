"""The exported folder: what is in it, that it runs without what it was made with, and that it appears whole or not."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import GPT2Config, LlamaConfig

import llm_mde
from llm_mde import LLMMDEDepthEstimationPipeline, LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.export import ExportedModel, export_model
from llm_mde.export import folder as folder_module
from llm_mde.export import parity as parity_module
from llm_mde.export.network import FoldedReprogramming
from llm_mde.processing import read_depth_png
from tests.conftest import make_model, make_pair
from tests.export.conftest import make_photograph, make_photographs
from tests.export.test_standalone import STANDALONE
from tests.modeling.test_encoders import VISION
from tests.processing.conftest import make_bert_tokenizer, make_gpt_tokenizer

FORMATS = ["onnx", "openvino", "torch"]
# Runs predict.py for pairs of photograph and depth; the first argument are packages that are not there.
WITHOUT = """
import runpy, sys
from pathlib import Path
missing, folder, *names = sys.argv[1:]
sys.modules |= dict.fromkeys(missing.split(","))  # as if they were not installed
sys.dont_write_bytecode = True
sys.path.insert(0, folder)
while names:
    sys.argv[1:], names = names[:2], names[2:]
    runpy.run_path(str(Path(folder, "predict.py")), run_name="__main__")
"""


def predict_without(missing: str, folder: Path, *pairs: Path) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT), missing, *map(str, (folder, *pairs))],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.fixture
def photographs(tmp_path) -> list[Path]:
    """Turned by EXIF, smaller than the network's images, and grey."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    make_photograph(50, 80).save(tmp_path / "turned.jpg", exif=exif)
    make_photograph(24, 20, seed=1, top=90).save(tmp_path / "small.png")
    make_photograph(60, 44, seed=2, top=200).convert("L").save(tmp_path / "grey.png")
    return [tmp_path / name for name in ("turned.jpg", "small.png", "grey.png")]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_folder_alone_predicts_what_the_pipeline_predicts(format, exported, photographs):
    model, processor = make_pair()
    estimate = LLMMDEDepthEstimationPipeline(model=model, processor=processor)
    missing = "llm_mde,transformers,torchvision" + ("" if format == "torch" else ",torch")
    pairs = [path for photograph in photographs for path in (photograph, photograph.with_suffix(".depth.png"))]
    lines = predict_without(missing, exported(format), *pairs)
    for index, photograph in enumerate(photographs):
        expected = estimate(str(photograph))
        depth = expected["predicted_depth"].numpy()
        assert lines[2 * index] == expected["prompt"]
        nearest, farthest, width, height = re.match(
            r"(\S+) m to (\S+) m, (\d+) x (\d+) pixels", lines[2 * index + 1]
        ).groups()
        assert (int(height), int(width)) == depth.shape
        assert [float(nearest), float(farthest)] == pytest.approx([depth.min(), depth.max()], abs=0.0051)
        written = read_depth_png(photograph.with_suffix(".depth.png"))
        np.testing.assert_allclose(written, depth, rtol=0, atol=0.00061)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_batch_is_read_row_by_row_whatever_its_padding(format, exported):
    model, processor = make_pair()
    network = ExportedModel(exported(format)).network
    images = make_photographs(3)
    inputs = processor(images=images, prompt=["near", "far and close and far", "class"], return_tensors="pt")
    assert inputs["attention_mask"].sum(1).unique().numel() > 1
    with torch.no_grad():
        expected = model(**inputs).predicted_depth.numpy()
    depth = network({name: tensor.numpy() for name, tensor in inputs.items()})
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, rtol=1e-5)
    length = int(inputs["attention_mask"][1].sum())
    row = {name: tensor[1:2] if name == "pixel_values" else tensor[1:2, -length:] for name, tensor in inputs.items()}
    np.testing.assert_allclose(network({n: tensor.numpy() for n, tensor in row.items()})[0], expected[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_settings_say_what_was_exported_and_how_well(format, exported):
    folder = exported(format)
    settings = json.loads((folder / "export.json").read_text())
    assert (settings["format"], settings["dtype"], settings["unit"]) == (format, "float32", "metres")
    assert settings["model"] == "model"  # and not where it lies on this machine
    assert (settings["min_depth"], settings["max_depth"]) == (0.001, 10.0)
    assert (folder / settings["model_file"]).is_file()
    assert settings["versions"]["llm-mde"] == llm_mde.__version__
    assert settings["versions"]["torch"] == torch.__version__.partition("+")[0] or "+" in settings["versions"]["torch"]
    parity = settings["parity"]
    assert parity["photographs"] == 3
    assert 0 <= parity["mean_relative_difference"] <= parity["largest_relative_difference"] < 1e-4
    names = {line.partition(">=")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    runtime = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}[format]
    assert names == {"numpy", "pillow", "tokenizers", runtime}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_the_command_tells_what_it_made_and_how_to_use_it(format, exported):
    folder = exported(format)
    told = (folder.parents[1] / f"{format}.txt").read_text()
    assert "on 3 photographs" in told
    assert all(str(path) in told for path in folder.iterdir())
    assert f"python {folder / 'predict.py'}" in told


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_nothing_in_the_folder_names_a_folder_of_this_machine(format, exported):
    places = [str(Path(llm_mde.__file__).parents[1]), "site-packages", str(exported(format).parents[1])]
    for file in exported(format).rglob("*"):
        assert not [place for place in places if place.encode() in file.read_bytes()], file


@pytest.mark.slow
@pytest.mark.parametrize(("format", "largest"), [("onnx", 0.01), ("openvino", 0.02)])
def test_eight_bits_are_near_to_the_model_and_smaller(format, largest, exported):
    folder = exported(format, int8=True)
    settings = json.loads((folder / "export.json").read_text())
    assert settings["dtype"] == "int8"
    assert settings["photographs_quantised_by"] == (6 if format == "openvino" else 0)
    parity = settings["parity"]
    assert parity["photographs"] == (1 if format == "openvino" else 3)
    assert 1e-6 < parity["mean_relative_difference"] < largest
    sizes = {
        int8: sum(file.stat().st_size for file in exported(format, int8).glob("model*") if file.suffix != ".xml")
        for int8 in (True, False)
    }
    assert sizes[True] < sizes[False]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "decoder"), [("onnx", "gpt2"), ("openvino", "llama")])
def test_decoders_with_their_own_tokenizer_and_other_towers_are_exported(format, decoder, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[format])
    tokenizer = make_gpt_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    text_config, vision = {
        "gpt2": (GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=2, n_positions=256), "dinov2-registers"),
        "llama": (
            LlamaConfig(
                **sizes,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=37,
                max_position_embeddings=256,
            ),
            "timm",
        ),
    }[decoder]
    image_processor = LLMMDEImageProcessor(size={"height": 32, "width": 48})
    processor = LLMMDEProcessor(image_processor, tokenizer, max_prompt_length=96)
    model = make_model(VISION[vision], text_config, max_prompt_length=96)
    folder = export_model(tmp_path / "exported", model, processor, format, photographs=make_photographs(2))
    (depth,) = ExportedModel(folder)([make_photograph(seed=5)])
    with torch.no_grad():
        expected = model(**processor(images=make_photograph(seed=5), return_tensors="pt")).predicted_depth[0]
    assert depth.shape == (32, 48)
    torch.testing.assert_close(depth, expected, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_model_without_prompts_is_exported_without_a_word(tmp_path):
    model, processor = make_pair(use_prompt=False)
    folder = export_model(tmp_path / "exported", model, processor, "torch")
    exported = ExportedModel(folder)
    assert exported.settings["prompt"] is None
    inputs, prompt, _ = exported.prepare(make_photograph())
    assert (list(inputs), prompt) == (["pixel_values"], None)
    make_photograph().save(tmp_path / "photograph.png")
    predict_without("llm_mde,transformers", folder, tmp_path / "photograph.png", tmp_path / "depth.png")
    with torch.no_grad():
        expected = model(**processor(images=make_photograph(), return_tensors="pt")).predicted_depth
    (depth,) = exported([make_photograph()])
    torch.testing.assert_close(depth, expected[0], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["the network computes something else", "nothing is near enough"])
def test_a_folder_that_differs_from_its_model_does_not_appear(fault, tmp_path, monkeypatch):
    if fault == "nothing is near enough":
        monkeypatch.setattr(parity_module, "LARGEST_DIFFERENCE", -1)
    else:
        monkeypatch.setattr(FoldedReprogramming, "project_prototypes", lambda self, _: (self.value, self.key))
    with pytest.raises(ValueError, match="the exported depth differs from the model's by"):
        export_model(tmp_path / "exported", *make_pair(), "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_writes_other_prompts_does_not_appear(tmp_path, monkeypatch):
    shutil.copytree(STANDALONE, tmp_path / "standalone")
    reading = tmp_path / "standalone" / "photographs.py"
    reading.write_text(reading.read_text().replace('"minimum": levels.min()', '"minimum": levels.min() + 1'))
    monkeypatch.setattr(folder_module, "_STANDALONE", tmp_path / "standalone")
    with pytest.raises(ValueError, match=r"the folder writes the prompt '.*', but the processor"):
        export_model(tmp_path / "exported", *make_pair(), "torch")
    assert not (tmp_path / "exported").exists()


def test_what_cannot_be_traced_is_refused_in_one_line(tmp_path, monkeypatch):
    def trace(model, size):
        raise RuntimeError("unsupported operation\nwith a long story")

    monkeypatch.setattr(folder_module, "trace", trace)
    with pytest.raises(ValueError, match=r"`model` is made of 'vit' and 'bert'.*RuntimeError: unsupported operation$"):
        export_model(tmp_path / "exported", *make_pair(), "torch")
    assert list(tmp_path.iterdir()) == []


def test_relative_depth_is_no_metres_and_refused(tmp_path):
    with pytest.raises(ValueError, match="what is exported promises metres"):
        export_model(tmp_path / "exported", *make_pair(depth_estimation_type="relative"), "torch")


def test_half_precision_is_refused_with_what_to_load_instead(tmp_path):
    model, processor = make_pair()
    with pytest.raises(ValueError, match="dtype='float32'"):
        export_model(tmp_path / "exported", model.to(torch.bfloat16), processor, "torch")


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty"):
        export_model(tmp_path / "exported", *make_pair(), "torch")
    assert [path.name for path in tmp_path.rglob("*")] == ["exported", "mine.txt"]


def test_too_few_photographs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`photographs` has 0 of them"):
        export_model(tmp_path / "exported", *make_pair(), "torch", photographs=[])


def test_depth_too_far_for_the_png_is_missing_there(tmp_path):
    for file in ("predict.py", "photographs.py"):
        shutil.copyfile(STANDALONE / file, tmp_path / file)
    (tmp_path / "runtime.py").write_text(
        "import numpy as np\n\ndef load_network(file):\n"
        "    return lambda inputs: np.array([[[1.2345, 65.5349, 65.536, 900]]], dtype=np.float32)\n"
    )
    image = {"height": 8, "width": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "rescale_factor": 1 / 255}
    settings = {"inputs": ["pixel_values"], "model_file": "none", "image": image}
    (tmp_path / "export.json").write_text(json.dumps(settings))
    make_bert_tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    make_photograph(1, 4).save(tmp_path / "photograph.png")
    lines = predict_without("torch", tmp_path, tmp_path / "photograph.png", tmp_path / "depth.png")
    assert np.asarray(Image.open(tmp_path / "depth.png")).tolist() == [[1234, 65535, 0, 0]]
    assert "1.23 m to 900.00 m, 4 x 1 pixels" in lines[1]
