"""`llm-mde train` as a user starts it: frames in, an adapter or a model and a table out."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.processing import write_depth_png
from llm_mde.training import last_complete_checkpoint
from tests.conftest import make_pair
from tests.training.conftest import make_frames

pytest.importorskip("peft")
pytest.importorskip("datasets")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path) -> Path:
    """Twenty pairs: sixteen to train on, four to measure with."""
    folder = tmp_path / "frames"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index, frame in enumerate(make_frames(20, size=(48, 64))):
        frame.image.save(folder / "rgb" / f"{index}.png")
        write_depth_png(folder / "depth" / f"{index}.png", frame.depth)
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    return write_model_folder(tmp_path / "base", *make_pair())


def train(data: Path, output: Path, *flags: str) -> None:
    main(["train", "--data", str(data), "--output_dir", str(output), "--disable_tqdm", "true", *flags])


def depth_of(folder: Path, photograph: Path) -> torch.Tensor:
    model, processor = load_model_and_processor(folder, device="cpu")
    with torch.no_grad():
        return model(**processor(images=Image.open(photograph), return_tensors="pt")).predicted_depth


SHORT = ("--num_train_epochs", "2", "--mixed_precision", "no", "--learning_rate", "3e-3")


@pytest.mark.slow
def test_frames_become_an_adapter_and_a_table(data, base, tmp_path, capsys):
    output = tmp_path / "output"
    train(data, output, "--model", str(base), "--vision_rank", "4", "--shots", "12", *SHORT)
    printed = capsys.readouterr().out
    assert "depth_head" in printed  # the parameter table
    assert "median depth" in printed  # the table of results
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert metrics["metrics"]["num_images"] == 4
    assert len(metrics["baselines"]) == 2
    rows = list(csv.DictReader((output / "learning_curve.csv").open()))
    assert rows[-1]["eval_abs_rel"]
    assert list((output / "panels").glob("*.png"))
    assert list((output / "runs").rglob("events.out.tfevents*"))
    weights = load_file(output / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in weights)
    config = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["base_model_name_or_path"]) == ("FEATURE_EXTRACTION", str(base))
    assert not torch.equal(
        depth_of(output / "adapter", data / "rgb" / "0.png"), depth_of(base, data / "rgb" / "0.png")
    )


@pytest.mark.slow
def test_training_stops_when_it_gets_no_better(data, base, tmp_path):
    flags = ("--learning_rate", "0.0", "--num_train_epochs", "9", "--early_stopping_patience", "2")
    train(data, tmp_path / "output", "--model", str(base), "--recipe", "frozen", *flags)
    curve = list(csv.DictReader((tmp_path / "output" / "learning_curve.csv").open()))
    assert float(curve[-1]["epoch"]) == 3  # the first is the best, two follow


@pytest.mark.slow
def test_half_the_bytes_in_bfloat16(data, base, tmp_path):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        train(data, tmp_path / dtype, "--model", str(base), "--adapter_dtype", dtype, "--max_steps", "1", *SHORT)
        weights = load_file(tmp_path / dtype / "adapter" / "adapter_model.safetensors")
        sizes[dtype] = sum(weight.nbytes for weight in weights.values())
    assert sizes["float32"] == 2 * sizes["bfloat16"]
    photograph = data / "rgb" / "0.png"
    whole, half = (depth_of(tmp_path / dtype / "adapter", photograph) for dtype in sizes)
    torch.testing.assert_close(half, whole, rtol=2e-2, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "frozen"])
def test_other_recipes_leave_a_whole_model(recipe, data, base, tmp_path):
    (tmp_path / "run.yaml").write_text(f"recipe: {recipe}\nmodel: {base}\nmax_steps: 2\nmixed_precision: 'no'\n")
    main(["train", str(tmp_path / "run.yaml"), "--data", str(data), "--output_dir", str(tmp_path / "output")])
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "output" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"depth_head", "reprogramming", "text_prototypes"} | (
        {"vision_tower", "language_model"} if recipe == "full" else set()
    )


@pytest.mark.slow
def test_from_scratch_needs_no_model(data, tmp_path):
    train(
        data, tmp_path / "output", "--recipe", "from-scratch", "--max_steps", "2", "--per_device_eval_batch_size", "2"
    )
    assert depth_of(tmp_path / "output" / "model", data / "rgb" / "0.png").shape == (1, 96, 128)


@pytest.mark.slow
def test_two_folders_of_encoders_become_a_base_and_an_adapter_on_it(data, base, tmp_path):
    model, processor = make_pair()
    model.vision_tower.save_pretrained(tmp_path / "vit")
    model.language_model.save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    output = tmp_path / "output"
    encoders = ("--vision_model", str(tmp_path / "vit"), "--language_model", str(tmp_path / "bert"))
    train(data, output, *encoders, "--max_steps", "2", *SHORT)
    assert (output / "base" / "model.safetensors").is_file()
    assert depth_of(output / "adapter", data / "rgb" / "0.png").shape == (1, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_a_killed_run_resumes_to_the_same_weights(recipe, data, base, tmp_path):
    """SIGKILL in mid-epoch, in a process of its own."""
    flags = ["--recipe", recipe, "--model", str(base), "--mixed_precision", "no", "--num_train_epochs", "8"]
    flags += ["--per_device_train_batch_size", "4", "--save_strategy", "steps", "--save_steps", "3"]
    flags += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--learning_rate", "1e-3"]
    train(data, tmp_path / "whole", *flags)

    cut = tmp_path / "cut"
    words = ["-m", "llm_mde.cli", "train", "--data", str(data), "--output_dir", str(cut), *flags]
    process = subprocess.Popen(
        [sys.executable, *words], env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    while last_complete_checkpoint(cut) is None:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / ("adapter" if recipe == "lora" else "model")).exists()

    with pytest.raises(SystemExit):  # never by accident
        train(data, cut, *flags)
    train(data, cut, *flags, "--resume_from_checkpoint", "true")
    name = "adapter/adapter_model.safetensors" if recipe == "lora" else "model/model.safetensors"
    whole, resumed = load_file(tmp_path / "whole" / name), load_file(cut / name)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "everything"], "`recipe` is 'everything'"),
        (["--from_scratch", "true"], "`method` is 'lora'"),
        (["--from_scratch", "true", "--method", "full", "--model", "x"], "give one of the two"),
        (["--model", "x", "--quantization", "4bit"], "needs a CUDA GPU"),
        (["--resume_from_checkpoint", "/no/such/folder"], "is no folder"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--vision_model", "/no/such/vit"], "`vision_model` is '/no/such/vit'"),
        (["--recipe", "from-scratch", "--shots", "500"], "500"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(flags, message, data, tmp_path, capsys):
    if "4bit" in flags and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(SystemExit) as exit_info:
        train(data, tmp_path / "output", *flags)
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1]
