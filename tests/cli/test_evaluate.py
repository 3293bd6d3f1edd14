"""`llm-mde evaluate` from the first argument to the last file."""

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from llm_mde.cli import main
from llm_mde.cli.evaluate import EvaluateArguments, _commit
from llm_mde.evaluation import MedianDepthBaseline, evaluate_depth, get_protocol
from llm_mde.hub import write_model_folder
from llm_mde.processing import RGBDFolder, write_depth_png
from tests.conftest import make_pair


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("models") / "mine", *make_pair())


@pytest.fixture
def frames(tmp_path):
    """Ten pairs; two of them are `val`."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "frames"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index in range(10):
        image = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "rgb" / f"{index}.png")
        write_depth_png(folder / "depth" / f"{index}.png", generator.uniform(1, 5, (24, 32)).astype(np.float32))
    return folder


def evaluate(model_folder, frames, output, *arguments):
    main(["evaluate", "--model", str(model_folder), "--data", str(frames), "--output", str(output), *arguments])


def test_the_command_prints_a_table_and_leaves_five_files(model_folder, frames, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "results"
    for _ in range(2):  # a second run replaces the first
        evaluate(model_folder, frames, output, "--num_resamples", "20", "--device", "cpu")
    printed = capsys.readouterr().out
    assert printed.count("| abs_rel ") == 2
    assert "protocol: plain" in printed and "input size (height x width): 32 x 32" in printed
    names = ["metrics.json", "model-index.yaml", "per_image.csv", "table.md", "worst.png"]
    assert sorted(path.name for path in output.iterdir()) == names

    stored = json.loads((output / "metrics.json").read_text())
    median, mean = stored["baselines"]
    assert median.startswith("median depth") and mean == "geometric mean depth of each pixel"
    assert {entry["metrics"]["num_images"] for entry in (stored, *stored["baselines"].values())} == {2}
    train, val = (RGBDFolder(frames, split=split) for split in ("train", "val"))
    expected = evaluate_depth(None, None, val, predict=MedianDepthBaseline.fit(train), progress=False)
    assert stored["baselines"][median]["metrics"] == expected.metrics

    (entry,) = yaml.safe_load((output / "model-index.yaml").read_text())["model-index"]
    assert entry["name"] == "mine"
    with (output / "per_image.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == val.names
    with Image.open(output / "worst.png") as picture:
        assert picture.height > 2 * 180


def test_flags_change_the_protocol_and_switch_parts_off(model_folder, frames, tmp_path, capsys):
    output = tmp_path / "results"
    flags = ["--baselines", "false", "--boundaries", "false", "--num_worst", "0", "--max_depth", "4", "--dtype"]
    evaluate(model_folder, frames, output, *flags, "bfloat16", "--alignment", "scale-shift-depth", "--device", "cpu")
    stored = json.loads((output / "metrics.json").read_text())
    assert stored["baselines"] == {}
    assert "boundary_f1" not in stored["metrics"]
    assert not (output / "worst.png").exists()
    assert stored["setting"]["precision"] == "bfloat16"
    name = "plain (max_depth=4.0, alignment=scale-shift-depth, clamp=True)"
    assert stored["protocol"]["name"] == name
    printed = capsys.readouterr().out
    assert f"protocol: {name}" in printed
    assert "The model predicts up to 10 m, but nothing measured beyond 4 m counted" in printed


def test_the_crop_can_be_taken_off_and_the_mirror_put_on():
    arguments = EvaluateArguments(model="mine", protocol="nyu-eigen", crop="none", flip_averaging=True)
    assert arguments.chosen_protocol() == get_protocol("nyu-eigen", crop=None, flip_averaging=True)
    assert EvaluateArguments(model="mine", protocol="nyu-eigen").chosen_protocol() == get_protocol("nyu-eigen")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocol", "nyu"], "`protocol` is 'nyu'; choose one of plain"),
        (["--protocol", "nyu-eigen"], "defined on maps of 480 x 640"),
        (["--eval_split", "test"], "--eval_split test"),
        (["--train_split", "test"], "the baselines need a training set (or --baselines false)"),
        (["--num_worst", "-1"], "`num_cases` is -1"),
        (["--batch_size", "0"], "`batch_size` is 0"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(flags, message, model_folder, frames, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        evaluate(model_folder, frames, tmp_path / "results", "--device", "cpu", *flags)
    assert exit_info.value.code == 2
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert refusal.startswith("llm-mde evaluate: ")
    assert message in refusal
    assert not (tmp_path / "results" / "metrics.json").exists()


def test_an_output_that_is_a_file_is_refused_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "results").touch()
    with pytest.raises(SystemExit):
        evaluate("no/model", "no/data", tmp_path / "results")
    assert "is a file" in capsys.readouterr().err


def test_the_commit_of_a_hub_model_is_told_and_a_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--user--mine"
    snapshot = repo / "snapshots" / ("0123456789" * 4)
    for folder in (snapshot, repo / "refs"):
        folder.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs" / "main").write_text(snapshot.name)
    assert _commit("user/mine", None) == snapshot.name
    assert _commit("user/other", None) is None
    assert _commit(str(tmp_path), None) is None


@pytest.mark.slow
def test_two_launched_processes_leave_what_one_leaves(model_folder, frames, tmp_path):
    pytest.importorskip("accelerate")
    flags = ["--num_worst", "0", "--num_resamples", "20", "--device", "cpu"]
    evaluate(model_folder, frames, tmp_path / "one", *flags)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines"]
    launch += ["1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    command = ["evaluate", "--model", str(model_folder), "--data", str(frames), "--output", str(tmp_path / "two")]
    subprocess.run([*launch, "-m", "llm_mde.cli", *command, *flags], check=True, env=environment)
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-6)  # batches of other sizes round differently
    assert one["baselines"] == two["baselines"]


@pytest.mark.slow
@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="needs real RGB-D frames in LLM_MDE_DATA")
def test_the_median_of_real_frames_gives_what_numpy_says():
    """Whatever frames they are: their depth, holes and sizes go through NumPy here, without a mask or a batch."""
    train, val = (RGBDFolder(os.environ["LLM_MDE_DATA"], split) for split in ("train", "val"))
    train, val = (frames.select(range(0, len(frames), 1 + len(frames) // 20)) for frames in (train, val))
    baseline = MedianDepthBaseline.fit(train)
    everything = np.concatenate([depth[depth > 0] for depth in train.depth_maps()])
    assert baseline.depth == pytest.approx(np.median(everything), abs=1e-3)

    result = evaluate_depth(None, None, val, predict=baseline, with_boundaries=False, progress=False)
    measured = [depth[(depth > 1e-3) & (depth < 10)].astype(np.float64) for depth in val.depth_maps()]
    ratios = [baseline.depth / depth for depth in measured if depth.size]
    assert result.metrics["abs_rel"] == pytest.approx(np.mean([np.abs(r - 1).mean() for r in ratios]), rel=1e-5)
    within = [np.logical_and(r < 1.25, r > 1 / 1.25).mean() for r in ratios]
    assert result.metrics["delta1"] == pytest.approx(np.mean(within), abs=1e-4)
    assert result.metrics["num_images"] == len(ratios)
