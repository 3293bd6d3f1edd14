"""A saved folder runs on machines without this package."""

import ast
import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.hub import write_model_folder
from tests.conftest import make_pair

CLEAN_PROCESS = """
import sys
sys.modules["llm_mde"] = None  # as if it were not installed
import numpy as np, torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForDepthEstimation, AutoProcessor, AutoTokenizer, pipeline
)

folder, saved_again, photo, output = sys.argv[1:]
remote = {"trust_remote_code": True}
assert AutoConfig.from_pretrained(folder, **remote).model_type == "llm_mde"
model = AutoModelForDepthEstimation.from_pretrained(folder, **remote).eval()
assert type(AutoModel.from_pretrained(folder, **remote)).__name__ == type(model).__name__
processor = AutoProcessor.from_pretrained(folder, **remote)
image_processor = AutoImageProcessor.from_pretrained(folder, **remote)
tokenizer = AutoTokenizer.from_pretrained(folder, **remote)
assert type(processor).__name__ == "LLMMDEProcessor", type(processor)
assert type(image_processor).__name__ == "LLMMDEImageProcessor", type(image_processor)
assert tokenizer("near")["input_ids"] == processor.tokenizer("near")["input_ids"]

image = Image.open(photo)
inputs = processor(images=image, return_tensors="pt")
assert torch.equal(image_processor(images=image, return_tensors="pt")["pixel_values"], inputs["pixel_values"])
with torch.no_grad():
    outputs = model(**inputs)
(direct,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
piped = pipeline("depth-estimation", model=folder, **remote)
assert type(piped).__name__ == "LLMMDEDepthEstimationPipeline", type(piped)
result = piped(photo)
assert torch.equal(result["predicted_depth"], direct["predicted_depth"])
assert "llm_mde" not in {name for name, module in sys.modules.items() if module is not None}
np.save(output, direct["predicted_depth"].numpy())
model.save_pretrained(saved_again)
processor.save_pretrained(saved_again)
"""


def run_in_clean_process(folder: Path, saved_again: Path, photo: Path, output: Path) -> np.ndarray:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLEAN_PROCESS), *map(str, (folder, saved_again, photo, output))],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums are rounded in another order by others
            "HF_HOME": str(saved_again.parent / "hf_home"),
            "HOME": str(saved_again.parent),
        },
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return np.load(output)


@pytest.fixture
def photo(tmp_path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.slow
def test_a_saved_folder_runs_without_the_package_and_so_does_one_saved_from_there(tmp_path, photo):
    model, processor = make_pair()
    folder = write_model_folder(tmp_path / "first", model, processor)
    with torch.no_grad():
        outputs = model(**processor(images=Image.open(photo), return_tensors="pt"))
    (here,) = processor.post_process_depth_estimation(outputs, target_sizes=[(40, 60)])
    first = run_in_clean_process(folder, tmp_path / "second", photo, tmp_path / "first.npy")
    second = run_in_clean_process(tmp_path / "second", tmp_path / "third", photo, tmp_path / "second.npy")
    assert np.array_equal(first, here["predicted_depth"].numpy())
    assert np.array_equal(second, first)
    python_files = {path.name: path.read_bytes() for path in folder.glob("*.py")}
    assert python_files == {path.name: path.read_bytes() for path in (tmp_path / "second").glob("*.py")}


def test_every_relative_import_of_a_travelling_file_is_a_sibling(tmp_path):
    folder = write_model_folder(tmp_path / "model", *make_pair())
    files = list(folder.glob("*.py"))
    assert {"configuration_llm_mde.py", "modeling_llm_mde.py", "pipeline_llm_mde.py"} <= {f.name for f in files}
    assert {"processing_llm_mde.py", "image_processing_llm_mde.py", "prompting_llm_mde.py"} <= {f.name for f in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{file.name} imports from a parent package"
                assert (folder / f"{node.module}.py").exists(), f"{file.name} imports {node.module}"


def test_travelling_files_import_only_what_every_user_of_transformers_has():
    allowed = {"torch", "torchvision", "transformers", "safetensors", "huggingface_hub", "numpy", "PIL"} | set(
        sys.stdlib_module_names
    )
    travelling = [
        file
        for package in ("llm_mde", "llm_mde.processing")
        for file in Path(importlib.util.find_spec(package).origin).parent.glob("*_llm_mde.py")
    ]
    assert len({file.name for file in travelling}) == len(travelling) >= 8
    for file in travelling:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            assert {name.split(".")[0] for name in names} <= allowed, file.name


def test_no_checkpoint_names_a_path_of_the_machine_it_was_made_on(tmp_path):
    folder = write_model_folder(tmp_path / "model", *make_pair())
    for file in folder.glob("*.json"):
        assert str(tmp_path) not in json.dumps(json.loads(file.read_text()))


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`folder` is .* not empty"):
        write_model_folder(tmp_path, *make_pair())
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_processor_with_longer_prompts_than_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`processor\.max_prompt_length` is 97"):
        write_model_folder(tmp_path / "model", *make_pair(max_prompt_length=97))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_mid_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(LLMMDEProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        write_model_folder(tmp_path / "model", *make_pair())
    assert list(tmp_path.iterdir()) == []


def test_a_written_folder_loads_with_the_package(tmp_path, pixel_values):
    model, processor = make_pair()
    folder = write_model_folder(tmp_path / "model", model, processor)
    loaded = LLMMDEForDepthEstimation.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).predicted_depth, model(pixel_values).predicted_depth)
    assert LLMMDEProcessor.from_pretrained(folder).max_prompt_length == 96
