"""A Space with a tiny model and two adapters: its module, and a server that runs it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.hub import write_adapter_folder, write_model_folder
from tests.conftest import make_pair

SPACE = Path(__file__).parents[2] / "spaces_demo"


def make_photograph(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """Soft blobs, uint8 (height, width, 3): neighbouring pixels differ little, as in photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("base") / "base", *make_pair())


@pytest.fixture(scope="session")
def adapters(base, tmp_path_factory) -> dict[str, Path]:
    """Two adapter folders on the base, each with weights of its own."""
    pytest.importorskip("peft", reason="adapters need PEFT")
    from llm_mde.training import add_lora, lora_config

    folders = {}
    for seed, name in enumerate(("indoor", "street")):
        torch.manual_seed(seed)
        model = LLMMDEForDepthEstimation.from_pretrained(base)
        model = add_lora(model, lora_config(model, vision_rank=4, language_rank=2)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        folders[name] = write_adapter_folder(tmp_path_factory.mktemp(name) / name, model, make_pair()[1])
        file = folders[name] / "adapter_config.json"
        stated = {**json.loads(file.read_text()), "base_model_name_or_path": str(base)}
        file.write_text(json.dumps(stated))
    return folders


def load_app(path: Path = SPACE / "app.py"):
    """The application as a module of its own: what it has cached is gone."""
    pytest.importorskip("gradio", reason="the Space needs gradio")
    pytest.importorskip("matplotlib", reason="the Space needs matplotlib")
    spec = importlib.util.spec_from_file_location("space_app", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(base, monkeypatch, tmp_path):
    """The application's module, with the tiny model."""
    set_environment(monkeypatch, LLM_MDE_MODEL=base, GRADIO_TEMP_DIR=tmp_path / "gradio")
    return load_app()


def set_environment(monkeypatch, **environment) -> None:
    for name in ("LLM_MDE_MODEL", "LLM_MDE_REVISION", "LLM_MDE_ADAPTERS", "SPACES_ZERO_GPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


def run_app(tmp_path: Path, **environment) -> tuple[subprocess.Popen, Path]:
    """`python app.py` with temporary files below `tmp_path`, and the file with what it says."""
    for name in ("tmp", "gradio"):
        (tmp_path / name).mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLM_MDE_", "GRADIO_", "SPACES_"))
    }
    environment = {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": tmp_path / "tmp",
        "GRADIO_TEMP_DIR": tmp_path / "gradio",
        "PYTHONPATH": SPACE.parent,
        **environment,
    }
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(SPACE / "app.py")],
            env={name: str(value) for name, value in environment.items()},
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return process, log


@pytest.fixture(scope="session")
def server(base, tmp_path_factory):
    """The page at `url`; `folder` holds its temporary files and its log. LLM_MDE_DEMO_MODEL names another model."""
    pytest.importorskip("gradio", reason="the Space needs gradio")
    pytest.importorskip("matplotlib", reason="the Space needs matplotlib")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = os.environ.get("LLM_MDE_DEMO_MODEL") or base
    process, log = run_app(folder, LLM_MDE_MODEL=model, GRADIO_SERVER_PORT=port, GRADIO_SERVER_NAME="127.0.0.1")
    url = f"http://127.0.0.1:{port}/"
    try:
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield SimpleNamespace(url=url, folder=folder, log=log)
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False
