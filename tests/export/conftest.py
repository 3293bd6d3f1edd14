"""What `llm-mde export` makes of a small model, once for all tests."""

import os
from contextlib import redirect_stdout

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from llm_mde.cli import main
from llm_mde.hub import write_model_folder
from tests.conftest import make_pair


def make_photograph(height: int = 48, width: int = 60, seed: int = 0, top: int = 256) -> Image.Image:
    """Noise of levels below `top`, as a photograph in memory."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype=np.uint8))


def make_photographs(count: int) -> list[Image.Image]:
    """Of several sizes and brightnesses, so that their prompts differ."""
    return [make_photograph(40 + 3 * seed, 70 - 5 * seed, seed, top=256 - 29 * seed) for seed in range(count)]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Exports the small pair in a format, once for all processes of a run; returns the folder.

    What the command printed is two folders above, in a file of its name and `.txt`. Eight bits of OpenVINO are found
    by seven photographs.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "exported"
    root.mkdir(exist_ok=True)
    with FileLock(root / "model.lock"):
        if not (root / "model").exists():
            (root / "photographs").mkdir()
            for index, photograph in enumerate(make_photographs(7)):
                photograph.save(root / "photographs" / f"{index}.png")
            write_model_folder(root / "model", *make_pair())

    def export(format: str, int8: bool = False):
        for package in {"onnx": ["onnxscript", "onnxruntime"], "openvino": ["openvino", "nncf"]}.get(format, []):
            pytest.importorskip(package)
        folder = root / "deep" / (f"{format}-int8" if int8 else format)
        words = ["--model", str(root / "model"), "--output", str(folder), "--format", format]
        if int8:
            words += ["--int8"]
        if int8 and format == "openvino":
            words += ["--calibration_data", str(root / "photographs"), "--num_photographs", "7"]
        with FileLock(root / f"{folder.name}.lock"):
            if not folder.exists():
                with (root / f"{folder.name}.txt").open("w") as told, redirect_stdout(told):
                    main(["export", *words])
        return folder

    return export
