"""Small models that were exported once for all tests of a process."""

import numpy as np
import pytest
from PIL import Image

from llm_mde.export import export_model
from tests.conftest import make_pair


def make_photograph(height: int = 48, width: int = 60, seed: int = 0, top: int = 256) -> Image.Image:
    """Noise of levels below `top`, as a photograph in memory."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype=np.uint8))


def make_photographs(count: int) -> list[Image.Image]:
    """Of several sizes and brightnesses, so that their prompts differ."""
    return [make_photograph(40 + 3 * seed, 70 - 5 * seed, seed, top=256 - 29 * seed) for seed in range(count)]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Exports the small pair in a format, once for each; returns the folder."""
    folders = {}

    def export(format: str, int8: bool = False):
        if (format, int8) not in folders:
            for package in {"onnx": ["onnxscript", "onnxruntime"], "openvino": ["openvino", "nncf"]}.get(format, []):
                pytest.importorskip(package)
            folder = tmp_path_factory.mktemp("exported") / format
            folders[format, int8] = export_model(folder, *make_pair(), format, int8, make_photographs(6))
        return folders[format, int8]

    return export
