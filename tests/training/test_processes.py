"""Several processes on one machine, as a user starts them; on the CPU, with gloo."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import llm_mde.training
from llm_mde.hub import load_model_and_processor
from tests.conftest import ROOT, child_environment
from tests.training.conftest import make_frames

pytest.importorskip("accelerate")
CONFIGURATIONS = Path(llm_mde.training.__file__).parent / "accelerate_configs"
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(*words: str | Path) -> None:
    command, environment = [sys.executable, *map(str, words)], child_environment()
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]


def assert_equal_weights(one: dict, two: dict, case: str) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 2e-5, (case, name)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    """Through the Trainer, two epochs with augmentation; one process meets a frame without a label."""
    script = ROOT / "tests" / "training" / "train_script.py"
    run(script, tmp_path / "one")
    run(*ACCELERATE, CONFIGURATIONS / "ddp.yaml", script, tmp_path / "two")
    cases = sorted(path.name for path in (tmp_path / "one").glob("*.safetensors"))
    assert len(cases) == 3
    for case in cases:
        one, two = (load_file(tmp_path / name / case) for name in ("one", "two"))
        assert two.pop("num_processes") == 2 * one.pop("num_processes")
        assert one["metric.num_images"] == two["metric.num_images"] == 5
        assert_equal_weights(one, two, case)


@pytest.mark.slow
def test_two_processes_that_shard_every_weight_end_as_one_does(tmp_path):
    """FSDP2 by hand: Accelerate 1.15 ignores it on CPUs. Same weights, health, panel, and folder that predicts."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("peft")
    script = ROOT / "tests" / "training" / "shard_script.py"
    run(script, tmp_path / "one")
    run(*TORCHRUN, script, tmp_path / "two")
    for method in ("full", "lora"):
        folders = [tmp_path / name / method for name in ("one", "two")]
        one, two = (load_file(folder / "weights.safetensors") for folder in folders)
        num_weights = sum(not name.startswith("health.") for name in two) - 1
        assert (one.pop("num_sharded"), two.pop("num_sharded")) == (0, num_weights)
        for name in [name for name in one if name.startswith("health.")]:
            assert two.pop(name).item() == pytest.approx(one.pop(name).item(), rel=1e-3), (method, name)
        assert_equal_weights(one, two, method)
        files = [sorted(path.name for path in (folder / "folder").iterdir()) for folder in folders]
        assert files[0] == files[1]
        assert len(list((folders[1] / "panels").iterdir())) == 1
        depths = []
        for folder in folders:
            model, processor = load_model_and_processor(folder / "folder", device="cpu")
            with torch.no_grad():
                depths.append(model(**processor(images=make_frames(1)[0].image, return_tensors="pt")).predicted_depth)
        torch.testing.assert_close(depths[0], depths[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_every_configuration(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    assert config.num_processes == 2
    assert config.distributed_type.value == yaml.safe_load(path.read_text())["distributed_type"]
