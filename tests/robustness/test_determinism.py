"""The same seed on the same machine gives the same: training, few shots, prompts, predictions, reports."""

import hashlib
import subprocess
import sys

import pytest
import torch

from llm_mde.hub import load_model_and_processor
from llm_mde.processing import RGBDFolder
from tests.conftest import ROOT, child_environment, make_pair
from tests.processing.data_folders import write_pairs
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer, weights_of


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_trainings_of_one_seed_end_in_the_same_bits_and_of_another_in_others(method, tmp_path):
    """With dropout and augmentation; the order of the frames is the seed's, too."""
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from llm_mde.processing import DepthAugmentation
    from llm_mde.training import AugmentedFrames, prepare_for_training

    results = []
    for seed in (7, 7, 8):
        model, processor = make_pair()
        frames = AugmentedFrames(make_frames(8), DepthAugmentation(), seed=seed)
        torch.manual_seed(0)
        model = prepare_for_training(model, method)
        make_trainer(tmp_path, model, processor, frames, max_steps=4, seed=seed).train()
        results.append(weights_of(model))
    first, second, other = results
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


PREDICTION = """
import hashlib, sys
from llm_mde.hub import load_model_and_processor
from llm_mde.processing import RGBDFolder
import torch
model, processor = load_model_and_processor(sys.argv[1], device="cpu")
data = RGBDFolder(sys.argv[2], split=None)
digest = hashlib.sha256("".join(data.few_shot(5, seed=3).names).encode())
for index in range(3):
    inputs = processor(images=data[index].image, return_prompt=True, return_tensors="pt")
    digest.update(inputs.pop("prompt")[0].encode())
    with torch.no_grad():
        digest.update(model(**inputs).predicted_depth.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_processes_of_any_hash_seed_draw_write_and_predict_the_same(tiny_folder, tmp_path):
    pytest.importorskip("datasets")
    write_pairs(tmp_path / "frames", range(12), metres=2.0)
    digests = set()
    for seed in ("0", "random"):
        environment = child_environment(PYTHONHASHSEED=seed)
        words = [sys.executable, "-c", PREDICTION, str(tiny_folder), str(tmp_path / "frames")]
        digests.add(
            subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        )
    assert len(digests) == 1


def test_a_prediction_and_a_sample_repeat_to_the_bit(tiny_folder, tmp_path):
    pytest.importorskip("datasets")
    write_pairs(tmp_path, range(12), metres=2.0)
    data = RGBDFolder(tmp_path, split=None)
    assert data.few_shot(5, seed=3).names == RGBDFolder(tmp_path, split=None).few_shot(5, seed=3).names
    assert data.few_shot(5, seed=3).names != data.few_shot(5, seed=4).names
    model, processor = load_model_and_processor(tiny_folder, device="cpu")
    inputs = processor(images=data[0].image, return_tensors="pt")
    digests = set()
    for _ in range(5):
        with torch.no_grad():
            digests.add(hashlib.sha256(model(**inputs).predicted_depth.numpy().tobytes()).hexdigest())
    assert len(digests) == 1
