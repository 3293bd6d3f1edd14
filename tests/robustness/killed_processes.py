"""Starts work in child processes, kills each at a random moment, and reports what can be seen after each kill.

    killed_processes.py {training,model,adapter,predict,publish} FOLDER NUM_KILLS

A child is a fork of this process, which has imported everything, so that the moment falls into the work itself. Every
second kill waits until something unfinished is in sight, so that it falls into the writing.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.cli import main as main_command
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.prediction_files import PredictionLog
from llm_mde.processing import read_depth
from llm_mde.training import last_complete_checkpoint, prepare_for_training
from tests.conftest import make_pair
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer

_chance = random.Random(0)
_WITHIN = 0.005  # seconds within which a kill follows the first sight of something unfinished
_HAS_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def in_child(work: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                work()
            status = 0
        finally:
            os._exit(status)
    return process


def kill_after(process: int, seconds: float, is_writing: Callable[[], bool] | None = None) -> bool:
    """Kills so many seconds from now, or from when `is_writing`; whether the process was still running."""
    while is_writing is not None and not is_writing() and os.waitid(os.P_PID, process, _HAS_ENDED) is None:
        time.sleep(0.0002)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work itself failed"
    return os.WIFSIGNALED(status)


class WriteSteps(TrainerCallback):
    def __init__(self, file: Path):
        self.file = file

    def on_step_end(self, args, state, control, **kwargs):
        with self.file.open("a") as lines:
            lines.write(f"{state.global_step}\n")


def train(folder: Path, num_steps: int) -> None:
    model, processor = make_pair()
    trainer = make_trainer(
        folder,
        model,
        processor,
        make_frames(8),
        callbacks=[WriteSteps(folder.with_suffix(".steps"))],
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        max_steps=num_steps,
        learning_rate=1e-3,
    )
    checkpoint = last_complete_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_file({name: weight.clone() for name, weight in model.state_dict().items()}, folder / "final.safetensors")


def broken_checkpoints(folder: Path) -> list[str]:
    broken = []
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        try:
            LLMMDEForDepthEstimation.from_pretrained(checkpoint)
            TrainerState.load_from_json(checkpoint / "trainer_state.json")
            for name in ("optimizer.pt", "scheduler.pt"):
                torch.load(checkpoint / name, weights_only=True)
            assert (checkpoint / "rng_state.pth").is_file()
        except Exception as error:
            broken.append(f"{checkpoint.name}: {type(error).__name__}: {error}")
    return broken


def is_saving(folder: Path) -> bool:
    return any(folder.glob(".unfinished*/*"))


def kill_trainings(folder: Path, num_kills: int) -> list[dict]:
    whole, killed = folder / "whole", folder / "killed"
    for each in (whole, killed):
        each.mkdir()
    num_steps, kills = 10 + 4 * num_kills, []
    os.waitpid(in_child(lambda: train(whole, num_steps)), 0)
    while len(kills) < num_kills:
        before = last_complete_checkpoint(killed)
        process = in_child(lambda: train(killed, num_steps))
        deadline = time.monotonic() + 60
        while last_complete_checkpoint(killed) == before:
            assert time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.002)
        is_targeted = len(kills) % 2 == 1
        seconds = _chance.uniform(0, _WITHIN if is_targeted else 0.25)
        if not kill_after(process, seconds, partial(is_saving, killed) if is_targeted else None):
            raise RuntimeError(f"the training ended after {len(kills)} kills; give it more steps")
        within = is_saving(killed)
        last = int(last_complete_checkpoint(killed).name.rpartition("-")[2])
        lines = killed.with_suffix(".steps").read_text().splitlines(keepends=True)
        steps = [int(line) for line in lines if line.endswith("\n")][-1]
        kills.append({"broken": broken_checkpoints(killed), "within": within, "last": last, "steps": steps})
    os.waitpid(in_child(lambda: train(killed, num_steps)), 0)
    return kills


def kill_writers(
    num_kills: int,
    write: Callable[[], None],
    broken: Callable[[], list[str]],
    unfinished: Callable[[], list[Path]],
    most: float,
) -> list[dict]:
    kills = []
    while len(kills) < num_kills:
        is_targeted = len(kills) % 2 == 1
        process = in_child(write)
        seconds = _chance.uniform(0, _WITHIN if is_targeted else most)
        if kill_after(process, seconds, (lambda: bool(unfinished())) if is_targeted else None):
            left = unfinished()
            kills.append({"broken": broken(), "within": bool(left)})
            for path in left:  # the next kill is to see its own
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write()
    assert not broken(), "the last, whole run is broken"
    return kills


def kill_folder_writers(kind: str, folder: Path, num_kills: int) -> list[dict]:
    model, processor = make_pair()
    base = write_model_folder(folder / "base", model, processor)
    target = folder / "target"

    def write() -> None:
        for _ in range(3):
            if target.exists():
                target.rename(folder / f"old-{time.monotonic_ns()}")
            if kind == "model":
                write_model_folder(target, model, processor)
            else:
                adapted = prepare_for_training(LLMMDEForDepthEstimation.from_pretrained(base), "lora")
                write_adapter_folder(target, adapted, processor)

    def broken() -> list[str]:
        problems = []
        for path in [target, *folder.glob("old-*")]:
            try:
                if path.exists():
                    load_model_and_processor(path, device="cpu")
            except Exception as error:
                problems.append(f"{path.name}: {error}")
            if path != target:
                shutil.rmtree(path)
        return problems

    return kill_writers(num_kills, write, broken, lambda: list(folder.glob(".target-*")), most=0.4)


def kill_predictions(folder: Path, num_kills: int) -> list[dict]:
    """Of `llm-mde predict`, but for the start of its interpreter; each run goes on from what is there."""
    base = write_model_folder(folder / "base", *make_pair())
    (folder / "photos").mkdir()
    for index, frame in enumerate(make_frames(30, size=(90, 120))):
        frame.image.save(folder / "photos" / f"{index:02d}.png")
    out = folder / "out"
    words = ["predict", str(folder / "photos"), "--model", str(base), "--output", str(out), "--batch_size", "1"]
    words += ["--formats", "png", "npy", "colour", "--num_workers", "0"]

    def write() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            main_command(words)

    def broken() -> list[str]:
        rows, problems = PredictionLog(out).merge() if out.exists() else {}, []
        for row in rows.values():
            for name, path in row["outputs"].items():
                try:
                    if name == "npy":
                        assert read_depth(out / path, "npy", scale=1).shape == (90, 120)
                    else:
                        from PIL import Image

                        Image.open(out / path).load()
                except Exception as error:
                    problems.append(f"{path}: {error}")
        if len(rows) == 30:
            shutil.rmtree(out)  # the next run begins anew
        return problems

    def unfinished() -> list[Path]:
        told = ""
        for path in out.glob("predictions.*"):
            with contextlib.suppress(FileNotFoundError):  # a part that has just been merged
                told += path.read_text(errors="replace")
        return [path for path in out.rglob("*.*") if path.suffix in (".png", ".npy", ".tmp") and path.name not in told]

    return kill_writers(num_kills, write, broken, unfinished, most=1.5)


def kill_pushes(folder: Path, num_kills: int) -> list[dict]:
    """The Hub is in this process, in threads, which a fork leaves behind: a child has the client alone."""
    import multiprocessing

    from tests.hub.hub_server import HubServer

    model, processor = make_pair()
    with HubServer() as hub:
        os.environ |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "home"),
            "NO_PROXY": "127.0.0.1",
        }
        versions = []
        for seed in range(2):
            torch.manual_seed(seed)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
            versions.append(write_model_folder(folder / f"version-{seed}", model, processor))
        whole = [{path.name: path.read_bytes() for path in each.iterdir() if path.is_file()} for each in versions]
        context, kills = multiprocessing.get_context("spawn"), []
        pool = [context.Process(target=push_when_told, args=(folder / f"go-{index}",)) for index in range(num_kills)]
        started = []
        while len(kills) < num_kills:
            while len(started) < 3 and pool:  # importing takes its time: the next ones are on their way
                pool[0].start()
                started.append((pool.pop(0), folder / f"go-{num_kills - len(pool) - 1}"))
            process, sign = started.pop(0)
            while not sign.with_suffix(".ready").exists():
                assert process.is_alive(), "it ended before it was told to push"
                time.sleep(0.01)
            num_requests = len(hub.requests)
            sign.write_text(str(versions[len(kills) % 2]))
            while len(kills) % 2 and len(hub.requests) == num_requests and process.is_alive():
                time.sleep(0.0005)
            time.sleep(_chance.uniform(0, 0.1 if len(kills) % 2 else 0.4))
            within = process.is_alive() and len(hub.requests) > num_requests
            process.kill()
            process.join()
            kills.append({"broken": broken_repositories(hub, whole), "within": within})
    return kills


def push_when_told(sign: Path) -> None:
    from llm_mde.hub.publishing import push

    parent = os.getppid()
    sign.with_suffix(".ready").touch()
    while not (sign.is_file() and (folder := sign.read_text())):
        time.sleep(0.002)
        if os.getppid() != parent:
            sys.exit("nobody is there to tell")
    push(folder, "tester/rooms", update=True)


def broken_repositories(hub, whole: list[dict[str, bytes]]) -> list[str]:
    """A repository that can be seen has all files of one version."""
    if "tester/rooms" not in hub.repositories() or hub.is_private("tester/rooms"):
        return []
    files = {name: content for name, content in hub.files("tester/rooms", "main").items() if name != ".gitattributes"}
    return [] if files in whole else [f"visible with {sorted(files)}"]


def main() -> None:
    what, folder, num_kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is shared with forks, and a killed one would keep it
    if what == "training":
        kills = kill_trainings(folder, num_kills)
    elif what == "predict":
        kills = kill_predictions(folder, num_kills)
    elif what == "publish":
        kills = kill_pushes(folder, num_kills)
    else:
        kills = kill_folder_writers(what, folder, num_kills)
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
