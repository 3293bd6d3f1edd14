"""Long runs and many at once: nothing piles up, answers reach who asked, and threads predict what one would.

`LLM_MDE_LONG=1` takes the numbers of benchmarks/results/robustness.md, which are minutes; without it they are smaller.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from tests.conftest import child_environment, make_pair
from tests.hub.conftest import hub_environment
from tests.hub.hub_server import HubServer
from tests.robustness.hostile_images import encoded, picture
from tests.space.conftest import base, server  # noqa: F401
from tests.training.conftest import make_frames

IS_LONG = os.environ.get("LLM_MDE_LONG") == "1"
NUM_CLIENTS, NUM_REQUESTS = 32, 500 if IS_LONG else 96
NUM_PREDICTIONS, NUM_STEPS = (5000, 500) if IS_LONG else (600, 60)


class PageClient:
    """A visitor with an own connection: uploads a photograph and asks the endpoint about it."""

    def __init__(self, url: str):
        self.host, self.session = urlsplit(url).netloc, uuid.uuid4().hex

    def _ask(self, method: str, path: str, body=None, headers=None) -> bytes:
        connection = http.client.HTTPConnection(self.host, timeout=300)
        try:
            connection.request(method, f"/gradio_api/{path}", body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, (answer.status, content[:300])
            return content
        finally:
            connection.close()

    def upload(self, content: bytes) -> str:
        boundary = uuid.uuid4().hex
        disposition = 'Content-Disposition: form-data; name="files"; filename="photo.png"'
        head = f"--{boundary}\r\n{disposition}\r\nContent-Type: image/png\r\n\r\n".encode()
        body = head + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self._ask("POST", "upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return json.loads(answer)[0]

    def predict(self, path: str, prompt: str) -> dict:
        """The summary; raises an `AssertionError` with what the page said instead."""
        photograph = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [photograph, prompt, None, None], "session_hash": self.session})
        event = json.loads(self._ask("POST", "call/predict", body, {"Content-Type": "application/json"}))["event_id"]
        lines = self._ask("GET", f"call/predict/{event}").decode().splitlines()
        answers = {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if key}
        assert answers["event"] == "complete", answers
        return json.loads(answers["data"])[0]


@pytest.mark.slow
def test_32_visitors_at_once_get_their_own_answers(server, tally):  # noqa: F811
    """Each asks about photographs of a size and with a prompt that nobody else has; memory and threads stay."""
    psutil = pytest.importorskip("psutil")
    process = next(
        each for each in psutil.process_iter(["cmdline"]) if "app.py" in " ".join(each.info["cmdline"] or [])
    )
    counts, lock = tally(f"requests of {NUM_CLIENTS} visitors at once"), threading.Lock()

    def visit(number: int) -> None:
        client = PageClient(server.url)
        for turn in range(NUM_REQUESTS // NUM_CLIENTS + (number < NUM_REQUESTS % NUM_CLIENTS)):
            height, width = 20 + number, 30 + turn
            prompt = f"a room, visitor {number}, turn {turn}"
            try:
                path = client.upload(encoded(picture(height, width, seed=number), "PNG"))
                summary = client.predict(path, prompt)
                is_right = (summary["height"], summary["width"], summary["prompt"]) == (height, width, prompt)
                problem = "" if is_right else f"{number}/{turn}: {summary}"
            except Exception as error:
                problem = f"{number}/{turn}: {type(error).__name__}: {error}"
            with lock:
                counts.count("wrong" if problem else "handled", problem)

    client = PageClient(server.url)
    for turn in range(20):  # warm-up
        client.predict(client.upload(encoded(picture(40, 50 + turn), "PNG")), "a room")
    before = process.memory_info().rss, process.num_threads()
    with ThreadPoolExecutor(NUM_CLIENTS) as visitors:
        list(visitors.map(visit, range(NUM_CLIENTS)))
    counts.check(least=NUM_REQUESTS)
    after = process.memory_info().rss, process.num_threads()
    print(f"memory of the server: {before[0] / 2**20:.0f} MiB before, {after[0] / 2**20:.0f} MiB after")
    assert after[0] < 1.25 * before[0]  # of requests at once, whose buffers the C library keeps
    assert after[1] <= before[1] + NUM_CLIENTS + 16
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_a_queue_that_is_full_says_so(server):  # noqa: F811
    """128 at once are more than the 32 that wait and the 2 that are served: who is turned away is told."""
    client = PageClient(server.url)
    path = client.upload(encoded(picture(30, 40), "PNG"))
    outcomes = []

    def ask(number: int) -> None:
        try:
            outcomes.append(PageClient(server.url).predict(path, f"visitor {number}")["prompt"] == f"visitor {number}")
        except AssertionError as told:
            outcomes.append(str(told))

    with ThreadPoolExecutor(128) as visitors:
        list(visitors.map(ask, range(128)))
    assert outcomes.count(True) >= 34
    assert all(each is True or "full" in each.lower() for each in outcomes), [e for e in outcomes if e is not True][:3]
    assert client.predict(path, "afterwards")["prompt"] == "afterwards"


WORK = """
import gc, os, sys, tempfile, threading
import torch
from transformers import set_seed
torch.set_num_threads(1)
from tests.conftest import child_environment, make_pair
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer
from transformers import TrainerCallback

def facts():
    gc.collect()
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "temporary": len(os.listdir(tempfile.gettempdir())),
    }

def predictions(count):
    model, processor = make_pair()
    frames = make_frames(8)
    for index in range(count):
        frame = frames[index % 8]
        inputs = processor(images=frame.image, return_tensors="pt", text=f"scene {index % 50}")
        with torch.no_grad():
            outputs = model(**inputs)
        processor.post_process_depth_estimation(outputs, [(40 + index % 7, 50)])
        if index == count // 5:
            yield facts()
    yield facts()

def steps(count):
    seen = []
    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (count // 5, count):
                seen.append(facts())
    model, processor = make_pair()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        make_trainer(folder, model, processor, make_frames(16), callbacks=[Watch()], max_steps=count,
                     learning_rate=1e-3, logging_steps=50).train()
    return seen

what, count = sys.argv[1], int(sys.argv[2])
import json
print(json.dumps(list(predictions(count) if what == "predictions" else steps(count))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which is Linux's")
@pytest.mark.parametrize(("what", "count"), [("predictions", NUM_PREDICTIONS), ("steps", NUM_STEPS)])
def test_long_runs_pile_nothing_up(what, count, tmp_path, tally):
    """After a fifth as warm-up: resident memory grows by less than 2 %, threads, files and folders not at all."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", WORK, what, str(count)],
        env=child_environment(TMPDIR=str(tmp_path / "tmp"), MALLOC_ARENA_MAX="1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    before, after = json.loads(process.stdout.splitlines()[-1])
    print(f"{what}: {before} after a fifth, {after} at the end")
    counts = tally(f"{what} in one process")
    is_steady = after["memory"] < 1.02 * before["memory"]
    is_steady &= all(after[name] <= before[name] for name in ("threads", "files", "temporary"))
    counts.count("handled" if is_steady else "wrong", f"{before} became {after}")
    counts.counts["handled"] += (count - 1) * is_steady
    counts.check(least=count)


def test_threads_predict_what_one_after_the_other_would():
    """With prompts of their own, from the first call on, which fills what is remembered."""
    model, processor = make_pair()
    batches = [
        processor(images=frame.image, text=f"scene {index}", return_tensors="pt")
        for index, frame in enumerate(make_frames(16))
    ]

    def predict(inputs) -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs).predicted_depth

    with ThreadPoolExecutor(8) as threads:
        at_once = list(threads.map(predict, batches * 4))
    for inputs, depth in zip(batches * 4, at_once, strict=True):
        torch.testing.assert_close(depth, predict(inputs), rtol=0, atol=1e-6)


UPLOAD = """
import sys
from huggingface_hub import HfApi
hub = HfApi()
hub.create_repo("tester/frames", repo_type="dataset")
hub.upload_folder(repo_id="tester/frames", folder_path=sys.argv[1], repo_type="dataset")
"""
CONVERSION = """
import json, sys, time
from pathlib import Path
from llm_mde.processing import load_depth_dataset
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
dataset = load_depth_dataset(sys.argv[1], layout="hub", depth_scale=1)
print(json.dumps([float(depth.sum()) for depth in dataset.depth_maps()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_on_hub", [False, True], ids=["converting", "downloading and converting"])
def test_processes_that_convert_the_same_data_at_once_do_not_disturb_each_other(is_on_hub, tmp_path):
    """Parquet becomes Arrow in the cache of `datasets`, empty when all of them begin, as is that of the Hub."""
    datasets = pytest.importorskip("datasets")
    frames, data = make_frames(20), tmp_path / "data"
    rows = {
        "image": [{"bytes": encoded(frame.image, "PNG"), "path": None} for frame in frames],
        "depth": [frame.depth.tolist() for frame in frames],
    }
    features = datasets.Features({"image": datasets.Image(), "depth": datasets.Array2D((32, 32), "float32")})
    data.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(data / "train.parquet")
    with HubServer() if is_on_hub else nullcontext() as hub:
        environment = child_environment(HF_HOME=str(tmp_path / "home"))
        if is_on_hub:
            environment |= hub_environment(hub, tmp_path) | {"HF_HUB_OFFLINE": "0"}
            subprocess.run([sys.executable, "-c", UPLOAD, str(data)], env=environment, check=True)
        source = "tester/frames" if is_on_hub else str(data)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CONVERSION, source, str(tmp_path / f"{index}"), str(tmp_path / "go")],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        while not all((tmp_path / str(index)).exists() for index in range(2)):
            told = [process.stderr.read() for process in processes if process.poll() is not None]
            assert not told, told
            time.sleep(0.01)
        (tmp_path / "go").touch()
        answers = []
        for process in processes:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error[-2000:]
            answers.append(json.loads(out.splitlines()[-1]))
    assert answers[0] == pytest.approx([float(frame.depth.sum()) for frame in frames], rel=1e-6)
    assert answers == answers[:1] * 2
