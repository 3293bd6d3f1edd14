"""Several processes on one machine, as a user starts them; on the CPU, with gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import llm_mde.training
from llm_mde.hub import load_model_and_processor
from tests.training.conftest import make_frames

pytest.importorskip("accelerate")
ROOT = Path(__file__).parents[2]
CONFIGURATIONS = Path(llm_mde.training.__file__).parent / "accelerate_configs"
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(*words: str | Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900
    )
    assert process.returncode == 0, process.stderr[-3000:]


def assert_equal_weights(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 2e-5, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "batch_size"),
    [((), 2), (("dinov2",), 2), ((), 1)],
    ids=["vit", "an encoder with an unused weight, checkpointed", "a batch without any label on one of two"],
)
def test_two_processes_equal_one_with_twice_the_batch(encoder, batch_size, tmp_path):
    """Through the Trainer, two epochs with augmentation; one process meets a frame without a label."""
    script = ROOT / "tests" / "training" / "train_script.py"
    run(script, tmp_path / "one", 2 * batch_size, *encoder)
    run(*ACCELERATE, CONFIGURATIONS / "ddp.yaml", script, tmp_path / "two", batch_size, *encoder)
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert two.pop("num_processes") == 2 * one.pop("num_processes")
    assert one["metric.num_images"] == two["metric.num_images"] == 5
    assert_equal_weights(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_that_shard_every_weight_end_as_one_does(method, tmp_path):
    """FSDP2 by hand: Accelerate 1.15 ignores it on CPUs. Same weights, health, panel, and folder that predicts."""
    pytest.importorskip("matplotlib")
    if method == "lora":
        pytest.importorskip("peft")
    script = ROOT / "tests" / "training" / "shard_script.py"
    run(script, tmp_path / "one", method)
    run(*TORCHRUN, script, tmp_path / "two", method)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    num_weights = sum(not name.startswith("health.") for name in two) - 1
    assert (one.pop("num_sharded"), two.pop("num_sharded")) == (0, num_weights)
    for name in [name for name in one if name.startswith("health.")]:
        assert two.pop(name).item() == pytest.approx(one.pop(name).item(), rel=1e-3), name
    assert_equal_weights(one, two)
    files = [sorted(path.name for path in (tmp_path / name / "folder").iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    assert len(list((tmp_path / "two" / "panels").iterdir())) == 1
    depths = []
    for name in ("one", "two"):
        model, processor = load_model_and_processor(tmp_path / name / "folder", device="cpu")
        with torch.no_grad():
            depths.append(model(**processor(images=make_frames(1)[0].image, return_tensors="pt")).predicted_depth)
    torch.testing.assert_close(depths[0], depths[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_understands_every_configuration(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))
    assert config.num_processes == 2
    assert config.distributed_type.value == yaml.safe_load(path.read_text())["distributed_type"]
