"""Training arguments: what follows from them, and what is refused."""

import pytest
import torch

from llm_mde.training import DepthTrainingArguments
from llm_mde.training.arguments import has_native_bfloat16


def test_early_stopping_goes_on_counting_after_a_resume(tmp_path):
    stopping = DepthTrainingArguments(output_dir=str(tmp_path), early_stopping_patience=2)
    assert stopping.restore_callback_states_from_checkpoint
    assert not DepthTrainingArguments(output_dir=str(tmp_path)).restore_callback_states_from_checkpoint


@pytest.mark.parametrize(("metric", "larger"), [("abs_rel", False), ("eval_delta1", True), ("loss", False)])
def test_only_of_deltas_is_a_larger_one_better(metric, larger, tmp_path):
    assert DepthTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric).greater_is_better is larger


@pytest.mark.parametrize("optimiser", ["galore_adamw", "apollo_adamw_layerwise", "lomo", "adalomo"])
def test_optimisers_that_group_the_weights_themselves_are_refused(optimiser, tmp_path):
    with pytest.raises(ValueError, match=f"`optim` is '{optimiser}'"):
        DepthTrainingArguments(output_dir=str(tmp_path), optim=optimiser)


@pytest.mark.parametrize("has_amx", [False, True])
def test_training_on_the_cpu_asks_the_cpu_for_bfloat16_not_the_gpu_beside_it(has_amx, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not has_amx)
    assert has_native_bfloat16() is not has_amx
    assert DepthTrainingArguments(output_dir=str(tmp_path), use_cpu=True).bf16 is has_amx
