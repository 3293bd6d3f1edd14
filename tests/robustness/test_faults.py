"""Processes that are killed and disks that are full: what can be seen is whole, and the next run goes on from it.

`LLM_MDE_LONG=1` kills twenty times each, as for benchmarks/results/robustness.md.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.prediction_files import PredictionLog
from llm_mde.training import last_complete_checkpoint
from tests.conftest import ROOT, child_environment, make_pair
from tests.robustness.hostile_images import picture
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer

pytest.importorskip("accelerate")
NUM_KILLS = 20 if os.environ.get("LLM_MDE_LONG") == "1" else 4


def drive(*words) -> dict:
    """Runs `killed_processes.py`, which reports what it has seen."""
    script = Path(__file__).parent / "killed_processes.py"
    process = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        env=child_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def check_within(kills: list[dict]) -> None:
    """Enough of them fell into a write, which left something unfinished."""
    within = sum(seen["within"] for seen in kills)
    print(f"{within} of {len(kills)} kills fell into a write")
    assert within >= len(kills) // 4


@pytest.mark.slow
def test_kills_of_one_training_lose_one_step_at_most_and_change_no_weight(tmp_path, tally):
    """A checkpoint after each step, two of them kept; after each kill, every one in sight loads."""
    report = drive("training", tmp_path, NUM_KILLS)
    counts = tally("kills of a training")
    for seen in report["kills"]:
        is_right = seen["broken"] == [] and 0 <= seen["steps"] - seen["last"] <= 1
        counts.count("handled" if is_right else "wrong", str(seen))
    counts.check(least=NUM_KILLS)
    check_within(report["kills"])
    whole, killed = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(weight, killed[name]) for name, weight in whole.items())
    assert not list((tmp_path / "killed").glob(".unfinished*"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "adapter", "predict", "publish"])
def test_kills_while_files_are_written_leave_them_whole_or_absent(what, tmp_path, tally):
    report = drive(what, tmp_path, NUM_KILLS)
    counts = tally(f"kills while writing: {what}")
    for seen in report["kills"]:
        counts.count("wrong" if seen["broken"] else "handled", str(seen))
    counts.check(least=NUM_KILLS)
    check_within(report["kills"])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "train"])
def test_workers_that_read_end_with_the_process_that_was_killed(command, tiny_folder, tmp_path):
    psutil = pytest.importorskip("psutil")
    (tmp_path / "frames" / "rgb").mkdir(parents=True)
    (tmp_path / "frames" / "depth").mkdir()
    from llm_mde.processing import write_depth_png

    for index, frame in enumerate(make_frames(20, size=(300, 400))):
        frame.image.save(tmp_path / "frames" / "rgb" / f"{index}.png")
        write_depth_png(tmp_path / "frames" / "depth" / f"{index}.png", frame.depth)
    out = str(tmp_path / "out")
    words = {
        # With points the pixels travel, too, and fill the pipe that nobody empties any more.
        "predict": [
            *(str(tmp_path / "frames" / "rgb"), "--output", out, "--num_workers", "2", "--batch_size", "1"),
            *("--formats", "ply"),
        ],
        "train": [
            *("--data", str(tmp_path / "frames"), "--output_dir", out, "--dataloader_num_workers", "2"),
            *("--recipe", "full", "--num_train_epochs", "500", "--eval_strategy", "no", "--save_strategy", "no"),
            *("--load_best_model_at_end", "false"),
        ],
    }[command]
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_mde.cli", command, *words, "--model", str(tiny_folder)],
        env=child_environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline, workers = time.monotonic() + 120, []
        while len(workers) < 2:
            assert process.poll() is None and time.monotonic() < deadline, "no workers were seen"
            workers = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(workers, timeout=15)
    for worker in alive:
        worker.kill()
    assert not alive


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """Mounts memory of so many kilobytes as a disk, and unmounts it."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk of {kilobytes}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            done = subprocess.run(words, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            done = False
        if not done:
            pytest.skip("no file system can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)  # whatever is still open


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_full_disk_ends_a_training_in_one_line_and_leaves_its_checkpoint(method, small_disk, tmp_path, tally):
    pytest.importorskip("peft")
    from llm_mde.training import prepare_for_training

    def trainer_in(folder, **options):
        model, tools = make_pair()
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, **options}
        return make_trainer(folder, prepare_for_training(model, method), tools, make_frames(8), **options)

    trainer_in(tmp_path / "enough", max_steps=1).train()
    needed = size_of(tmp_path / "enough" / "checkpoint-1")
    counts = tally("full and read-only disks")
    for share in (0.1, 0.3, 0.6, 0.9):
        disk = small_disk(int((1 + share) * needed) + 40)
        with pytest.raises(OSError, match=r"`output_dir` is .* checkpoint-2 could not be saved") as refused:
            trainer_in(disk).train()
        assert "\n" not in str(refused.value) and "--resume_from_checkpoint" in str(refused.value)
        assert [path.name for path in disk.iterdir() if "checkpoint" in path.name] == ["checkpoint-1"]
        assert last_complete_checkpoint(disk).name == "checkpoint-1"
        resumed = trainer_in(tmp_path / f"resumed {share}", max_steps=2)
        resumed.train(resume_from_checkpoint=str(disk / "checkpoint-1"))
        assert resumed.state.global_step == 2
        counts.count("refused")


def test_a_full_or_read_only_disk_leaves_no_half_of_a_model_folder(small_disk, tally, tmp_path):
    pytest.importorskip("peft")
    from llm_mde.training import prepare_for_training

    model, tools = make_pair()
    needed = size_of(write_model_folder(tmp_path / "enough", model, tools))
    counts = tally("full and read-only disks")
    for share in (0.0, 0.05, 0.5, 0.9):
        disk = small_disk(int(share * needed) + 8)
        counts.attempt(
            str(share), lambda disk=disk: write_model_folder(disk / "model", model, tools), None, str(disk), OSError
        )
        assert list(disk.iterdir()) == []
    disk = small_disk(4 * needed)
    make_read_only(disk)
    adapted = prepare_for_training(model, "lora")
    counts.attempt("read-only", lambda: write_adapter_folder(disk / "new", adapted, tools), None, str(disk), OSError)
    counts.check(least=5)


def test_a_full_disk_stops_predictions_in_one_line_and_the_next_run_goes_on(small_disk, tiny_folder, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for index in range(12):
        picture(120, 160, seed=index).save(tmp_path / "photos" / f"{index:02d}.png")
    disk = small_disk(400)  # of 12 arrays of 77 KB
    words = ["predict", str(tmp_path / "photos"), "--model", str(tiny_folder), "--output", str(disk / "out")]
    words += ["--formats", "npy", "--num_workers", "0", "--batch_size", "1"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-mde predict: ")]
    assert os.strerror(errno.ENOSPC) in line
    written = list((disk / "out").rglob("*_depth.npy"))
    assert 0 < len(written) < 12
    for path in written:
        from llm_mde.processing import read_depth

        assert read_depth(path, "npy", scale=1).shape == (120, 160)
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    main(words)
    assert len(PredictionLog(disk / "out").read()) == 12
    assert not list(disk.rglob("*.tmp"))


@pytest.mark.parametrize("command", ["predict", "evaluate", "train", "export"])
def test_a_folder_that_may_not_be_written_is_one_line(command, small_disk, tiny_folder, tmp_path, capsys, tally):
    pytest.importorskip("datasets")
    pytest.importorskip("peft")
    from tests.processing.data_folders import write_pairs

    write_pairs(tmp_path / "frames", range(10), metres=2.0)
    disk = small_disk(100)
    make_read_only(disk)
    words = {
        "predict": [str(tmp_path / "frames" / "rgb"), "--output", str(disk / "out")],
        "evaluate": ["--data", str(tmp_path / "frames"), "--output", str(disk / "out")],
        "train": ["--data", str(tmp_path / "frames"), "--output_dir", str(disk / "out")],
        "export": ["--output", str(disk / "out"), "--format", "torch"],
    }[command]

    def call():
        try:
            main([command, *words, "--model", str(tiny_folder)])
        except SystemExit as stop:
            lines = capsys.readouterr().err.splitlines()
            told = [line for line in lines if line.startswith(f"llm-mde {command}: ")]
            assert stop.code == 2 and len(told) == 1, lines
            raise ValueError(told[0]) from None

    counts = tally("full and read-only disks")
    counts.attempt(command, call, None, os.strerror(errno.EROFS))
    counts.check(least=1)


def test_a_model_loads_after_any_kill_of_its_writer_by_name(tmp_path):
    """What a killed writer leaves beside a folder is hidden, and no hindrance to the next."""
    (tmp_path / ".model-abc").mkdir()
    shutil.copy(__file__, tmp_path / ".model-abc" / "half")
    folder = write_model_folder(tmp_path / "model", *make_pair())
    load_model_and_processor(folder, device="cpu")
