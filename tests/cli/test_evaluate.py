"""`llm-mde evaluate` from the first argument to the last file."""

import csv
import json
import os
import shutil
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
from llm_mde.processing import RGBDFolder, load_depth_dataset
from llm_mde.processing.datasets import REQUIRED_COLUMNS
from tests.conftest import make_pair
from tests.processing.data_folders import write_noise_pairs


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("models") / "mine", *make_pair())


@pytest.fixture
def frames(tmp_path):
    """Ten pairs; two of them are `val`."""
    return write_noise_pairs(tmp_path / "frames", 10, (24, 32))


def evaluate(model_folder, frames, output, *arguments):
    main(["evaluate", "--model", str(model_folder), "--data", str(frames), "--output", str(output), *arguments])


def test_the_command_prints_a_table_and_leaves_five_files(model_folder, frames, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "results"
    for _ in range(2):  # a second run replaces the first
        evaluate(model_folder, frames, output, "--num_resamples", "20", "--device", "cpu")
    printed = capsys.readouterr().out
    assert printed.count("| abs_rel ") == 2
    assert "baselines: fitted to frames / train, inside the protocol's range and crop" in printed
    assert str(tmp_path) not in (output / "table.md").read_text() + (output / "model-index.yaml").read_text()
    assert "protocol: plain" in printed and "input size (height x width): 32 x 32" in printed
    names = ["metrics.json", "model-index.yaml", "per_image.csv", "table.md", "worst.png"]
    assert sorted(path.name for path in output.iterdir()) == names

    stored = json.loads((output / "metrics.json").read_text())
    median, *means = stored["baselines"]
    assert median.startswith("median depth")
    assert means == [f"per-pixel mean depth ({mean}, 60 x 80 grid)" for mean in ("geometric", "arithmetic")]
    command = "llm-mde evaluate --model mine --data frames --output results --num_resamples 20 --device cpu"
    assert stored["command"].startswith(command)
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


SCALED = ("--train_depth_scale", "0.0005")
QUICK = ("--num_worst", "0", "--num_resamples", "2", "--boundaries", "false", "--device", "cpu")


def test_the_baselines_see_only_what_the_protocol_counts(model_folder, frames, tmp_path):
    output = tmp_path / "results"
    evaluate(model_folder, frames, output, "--max_depth", "3", *QUICK)
    median, *_ = json.loads((output / "metrics.json").read_text())["baselines"]
    everything = MedianDepthBaseline.fit(RGBDFolder(frames, split="train"))
    counted = MedianDepthBaseline.fit(RGBDFolder(frames, split="train"), get_protocol("plain", max_depth=3.0))
    assert median == counted.name != everything.name


def test_how_the_data_was_read_is_kept(model_folder, frames, tmp_path, capsys):
    flags = ["--depth_scale", "0.002", "--layout", "pairs", "--allow_implausible_depth", "--shots", "3"]
    for name, more in (("with", []), ("without", ["--baselines", "false"])):
        evaluate(model_folder, frames, tmp_path / name, *flags, *more, *QUICK)
    evaluate(model_folder, frames, tmp_path / "default", "--shots_seed", "42", *QUICK)  # which chooses no shots
    assert json.loads((tmp_path / "default" / "metrics.json").read_text())["setting"]["data_flags"] == {}
    settings = [json.loads((tmp_path / name / "metrics.json").read_text())["setting"] for name in ("with", "without")]
    expected = {"depth_scale": 0.002, "layout": "pairs", "allow_implausible_depth": True}
    assert [setting["data_flags"] for setting in settings] == [expected | {"shots": "3"}, expected]
    assert settings[0]["train_split"] == "train" and settings[1]["train_data"] is None
    assert "data flags: layout=pairs, depth_scale=0.002, shots=3, allow_implausible_depth=True" in (
        capsys.readouterr().out
    )


def test_baselines_of_a_set_without_a_training_part_come_from_another(model_folder, frames, tmp_path, capsys):
    """Symptom: a set with nothing but a test part could be measured with `--baselines false` alone."""
    table = tmp_path / "test_only"
    shutil.copytree(frames, table)
    rows = [f"rgb/{index}.png,depth/{index}.png,test,rooms,one,png16,0.001,0,0" for index in range(4)]
    (table / "index.csv").write_text("\n".join([",".join(REQUIRED_COLUMNS), *rows]) + "\n")
    flags = ["--eval_split", "test", "--dataset", "rooms", *QUICK]
    with pytest.raises(SystemExit):
        evaluate(model_folder, table, tmp_path / "results", *flags)
    assert "the baselines need a training set (--train_data, or --baselines false)" in capsys.readouterr().err

    evaluate(model_folder, table, tmp_path / "results", *flags, "--train_data", str(frames))
    median, *_ = json.loads((tmp_path / "results" / "metrics.json").read_text())["baselines"]
    assert median == MedianDepthBaseline.fit(RGBDFolder(frames, split="train"), "plain").name
    printed = capsys.readouterr().out
    assert "data: test_only / rooms / test" in printed and "baselines: fitted to frames / train," in printed

    evaluate(model_folder, table, tmp_path / "results", *flags, "--train_data", str(frames), *SCALED)
    setting = json.loads((tmp_path / "results" / "metrics.json").read_text())["setting"]
    assert setting["data_flags"] == {"train_depth_scale": 0.0005}
    median, *_ = json.loads((tmp_path / "results" / "metrics.json").read_text())["baselines"]
    halved = load_depth_dataset(frames, split="train", depth_scale=0.0005)
    assert median == MedianDepthBaseline.fit(halved, "plain").name


def test_numbers_are_refused_before_anything_is_loaded():
    """Symptom: `--num_resamples 0` ended the command when everything had been measured."""
    for name, value in {"num_resamples": 0, "bootstrap_seed": -1, "batch_size": 0, "num_worst": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` is {value}; pass"):
            EvaluateArguments(model="mine", **{name: value})
    with pytest.raises(ValueError, match="`max_depth` -1"):
        EvaluateArguments(model="mine", max_depth=-1.0)
    with pytest.raises(ValueError, match="`train_data` is 'frames' with `baselines` off"):
        EvaluateArguments(model="mine", train_data="frames", baselines=False)
    with pytest.raises(ValueError, match=r"`train_depth_scale` is 0\.001 without `train_data`"):
        EvaluateArguments(model="mine", train_depth_scale=0.001)


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
        (["--train_split", "test"], "the baselines need a training set (--train_data, or --baselines false)"),
        (["--num_worst", "-1"], "`num_worst` is -1"),
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
