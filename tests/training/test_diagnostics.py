"""Failure signatures: each number by hand, each warning where it belongs."""

import math

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from llm_mde.training import DiagnosticsCallback, measure_health, prepare_for_training
from llm_mde.training.diagnostics import SIGNATURES, attention_health, border_ratio
from tests.conftest import make_pair
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer


def test_uniform_attention_has_entropy_one_and_uses_all_prototypes():
    health = attention_health(torch.full((1, 2, 3, 8), 1 / 8))
    assert health == pytest.approx({"prototype_entropy": 1.0, "prototype_usage": 1.0})


def test_attention_to_one_prototype_has_entropy_zero_and_uses_one():
    health = attention_health(torch.eye(8)[[5] * 6].reshape(1, 2, 3, 8))
    assert health == pytest.approx({"prototype_entropy": 0.0, "prototype_usage": 1 / 8})


def test_patches_that_read_one_prototype_each_use_as_many():
    health = attention_health(torch.eye(8)[[0, 1, 2, 3]].reshape(1, 1, 4, 8))
    assert health == pytest.approx({"prototype_entropy": 0.0, "prototype_usage": 4 / 8})


def test_steps_at_patch_borders_show_in_the_ratio():
    columns = torch.arange(16).float()
    ramp = torch.exp(0.1 * columns).expand(1, 16, 16)  # the same jump between all columns, none between rows
    assert border_ratio(ramp, (4, 4)) == pytest.approx(1.0)
    steps = torch.exp(0.1 * columns + (columns // 4)).expand(1, 16, 16)
    assert border_ratio(steps, (4, 4)) == pytest.approx(1.1 / 0.1, rel=1e-4)
    assert border_ratio(torch.ones(1, 4, 4), (4, 4)) == 1.0  # one patch has no border


def test_health_is_measured_for_a_model_and_for_an_adapted_one(frames):
    model, processor = make_pair()
    model.requires_grad_(False).train()
    health = measure_health(model, processor, frames, frames)
    assert model.training
    assert 0 < health["prototype_entropy"] <= 1
    assert 0.85 < health["valid_share"] < 0.95  # a tenth is missing
    assert health["cut_prompts"] == health["unknown_words"] == 0
    assert health["distinct_prompts"] > 0.5
    ratio = [
        (p / torch.from_numpy(f.depth))[f.depth > 0].median().log()
        for f, p in zip(
            frames,
            model.eval()(**processor(images=[f.image for f in frames], return_tensors="pt")).predicted_depth,
            strict=True,
        )
    ]
    assert health["scale_bias"] == pytest.approx(math.exp(sum(ratio) / len(ratio)), rel=1e-3)
    adapted = measure_health(prepare_for_training(model, "lora"), processor, frames, frames)
    assert 0 < adapted["trained_share"] < 1
    assert adapted["prototype_entropy"] == pytest.approx(health["prototype_entropy"])


def test_words_that_the_tokenizer_does_not_know_and_cut_prompts_are_seen(frames):
    model, processor = make_pair()
    processor.dataset_prompt = "Xylophon quartz zebra."
    assert measure_health(model, processor, frames, frames)["unknown_words"] > 0
    processor.task_prompt = "distance " * 200
    assert measure_health(model, processor, frames, frames)["cut_prompts"] == 1


def evaluate(callback, arguments, model, times):
    state = TrainerState(is_world_process_zero=True)
    for _ in range(times):
        callback.on_evaluate(arguments, state, TrainerControl(), model=model)
    return state


def test_a_warning_comes_once_and_only_after_some_patience(frames, monkeypatch, tmp_path):
    from llm_mde.training import DepthTrainingArguments, diagnostics

    model, processor = make_pair()
    with torch.no_grad():
        model.depth_head.to_logits.bias.fill_(8.0)  # everything is far away
    callback = DiagnosticsCallback(processor, frames, frames, patience=2)
    warnings = []
    monkeypatch.setattr(diagnostics.logger, "warning", warnings.append)
    arguments = DepthTrainingArguments(output_dir=str(tmp_path))
    evaluate(callback, arguments, model, times=1)
    assert warnings == []
    state = evaluate(callback, arguments, model, times=3)
    assert callback.warned == ["scale_bias"]
    assert len(warnings) == 1
    assert "Inconsistent domains" in warnings[0]
    assert state.log_history[-1]["health_scale_bias"] > 1.25


class Reporter(TrainerCallback):
    """Stands where TensorBoard stands: before the callbacks of the user."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))


def test_reporters_see_the_health_of_each_evaluation_once(frames, tmp_path):
    model, processor = make_pair()
    reporter = Reporter()
    trainer = make_trainer(
        tmp_path,
        model,
        processor,
        frames,
        callbacks=[reporter, DiagnosticsCallback(processor, frames[:2], frames[:2])],
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    seen = [(step, logs["health_scale_bias"]) for step, logs in reporter.logs if "health_scale_bias" in logs]
    assert [step for step, _ in seen] == [1, 2]
    kept = [entry for entry in trainer.state.log_history if "health_scale_bias" in entry]
    assert [(entry["step"], entry["health_scale_bias"]) for entry in kept] == seen


def test_a_healthy_model_has_a_range_for_every_number(frames):
    model, processor = make_pair()
    health = measure_health(prepare_for_training(model, "lora"), processor, frames, frames)
    assert set(health) | {"lora_gradient_norm"} == {signature.name for signature in SIGNATURES}


def test_no_frames_are_refused():
    model, processor = make_pair()
    with pytest.raises(ValueError, match="`train_frames` or `eval_frames` is empty"):
        measure_health(model, processor, [], make_frames(1))
