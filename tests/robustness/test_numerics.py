"""Numbers at their limits: depth stays in its range, gradients that overflow change nothing, no NaN is saved."""

import math
import warnings
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from tests.conftest import make_model, make_pair
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer, weights_of

TYPES = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "autocast": (torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("bias", [-1e4, -90.0, 90.0, 1e4])
def test_saturated_depth_is_the_end_of_its_range_and_has_a_gradient_of_zero_and_no_nan(name, bias):
    dtype, autocast = TYPES[name]
    model = make_model().to(dtype).train()
    with torch.no_grad():
        model.depth_head.to_logits.bias.fill_(bias)
    pixels = torch.randn(2, 3, 32, 32).to(dtype)
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        outputs = model(pixel_values=pixels, labels=torch.full((2, 32, 32), 3.0))
    depth, config = outputs.predicted_depth, model.config
    end = config.min_depth if bias < 0 else config.max_depth
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth, torch.full_like(depth, end), rtol=1e-2, atol=0)
    assert ((depth >= config.min_depth) & (depth <= config.max_depth)).all()
    outputs.loss.backward()
    assert math.isfinite(outputs.loss.item())
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_pixels_far_from_any_photograph_give_depth_in_range(name, value):
    """In float16 an encoder may overflow, which shows as NaN and is refused where files are written."""
    dtype, autocast = TYPES[name]
    model = make_model().to(dtype)
    pixels = torch.full((1, 3, 32, 32), value).to(dtype)
    with torch.no_grad(), nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        depth = model(pixel_values=pixels).predicted_depth
    in_range = (depth >= model.config.min_depth) & (depth <= model.config.max_depth)
    assert in_range.all() or (dtype == torch.float16 and depth.isnan().any())


def test_relative_depth_of_huge_logits_is_finite():
    model = make_model(depth_estimation_type="relative")
    for bias in (-1e4, 80.0):
        with torch.no_grad():
            model.depth_head.to_logits.bias.fill_(bias)
            depth = model(pixel_values=torch.randn(1, 3, 32, 32)).predicted_depth
        assert depth.isfinite().all() and (depth > 0).all()


def spoil_gradients(model, steps: set[int], value: float):
    """Makes one gradient `value` in these backward passes, the first of which is 1; returns the counter."""
    count = [0]

    def spoil(gradient):
        count[0] += 1
        return torch.full_like(gradient, value) if count[0] in steps else gradient

    model.depth_head.to_logits.weight.register_hook(spoil)
    return count


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0], ids=["clipped", "not clipped"])
def test_a_step_of_gradients_that_overflow_changes_no_weight(value, max_grad_norm, tmp_path, caplog):
    pytest.importorskip("accelerate")
    model, processor = make_pair()
    spoil_gradients(model, {2}, value)
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append(weights_of(model))

    options = {"max_steps": 3, "max_grad_norm": max_grad_norm, "callbacks": [Watch()]}
    make_trainer(tmp_path, model, processor, make_frames(8), **options).train()
    first, second, third = seen
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(second[name], third[name]) for name in first)
    assert all(weight.isfinite().all() for weight in third.values())


def scale_gradients(trainer, scale: float) -> None:
    """Autocast to float16 with a scaler. `--fp16` asks for an accelerator, but PyTorch has both on the CPU, too."""
    accelerator = trainer.accelerator
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)


@pytest.fixture
def without_accelerator_state():
    """What Accelerate keeps for the whole process is as it was."""
    state = pytest.importorskip("accelerate").state.AcceleratorState
    yield
    state._reset_state()


@pytest.mark.usefixtures("without_accelerator_state")
def test_float16_overflows_until_its_scale_fits_and_then_learns(tmp_path):
    model, processor = make_pair()
    seen, dtypes = [], set()
    model.depth_head.to_logits.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append(weights_of(model)["depth_head.to_logits.weight"])

    options = {"max_steps": 40, "learning_rate": 1e-3, "logging_steps": 5, "callbacks": [Watch()]}
    trainer = make_trainer(tmp_path, model, processor, make_frames(8), **options)
    scale_gradients(trainer, 2.0**30)
    before = weights_of(model)["depth_head.to_logits.weight"]
    trainer.train()
    num_skipped = sum(torch.equal(one, other) for one, other in pairwise([before, *seen]))
    assert 5 <= num_skipped <= 25 and torch.float16 in dtypes
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (30 - num_skipped)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.isfinite().all() for weight in weights_of(model).values())


@pytest.mark.usefixtures("without_accelerator_state")
@pytest.mark.parametrize("is_scaled", [False, True], ids=["float32", "float16 with a scaler"])
def test_a_training_that_only_overflows_ends_and_says_so(is_scaled, tmp_path, monkeypatch):
    from llm_mde.training import trainer as module

    monkeypatch.setattr(module, "MAX_SKIPPED_STEPS", 3)
    model, processor = make_pair()
    before = weights_of(model)
    spoil_gradients(model, set(range(1, 100)), math.nan)
    trainer = make_trainer(tmp_path, model, processor, make_frames(8), max_steps=9)
    if is_scaled:
        scale_gradients(trainer, 2.0**10)
    with pytest.raises(ValueError, match=r"`learning_rate` is 0\.01, and the gradients of 3 steps in a row"):
        trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(model).items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_nan_is_not_saved_and_what_was_there_stays(value, tmp_path):
    model, processor = make_pair()
    folder = write_model_folder(tmp_path / "model", model, processor)
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.depth_head.to_logits.weight[0, 3] = value
    message = r"`depth_head.to_logits.weight` has \d+ of \d+ values that are not finite"
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=message):
        write_model_folder(tmp_path / "other", model, processor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    loaded, _ = load_model_and_processor(folder, device="cpu")
    assert all(weight.isfinite().all() for weight in loaded.state_dict().values())


def test_an_adapter_with_nan_is_not_saved(tmp_path):
    pytest.importorskip("peft")
    from llm_mde.training import prepare_for_training

    model, processor = make_pair()
    model = prepare_for_training(model, "lora")
    weight = next(each for name, each in model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"lora_B.* values that are not finite"):
        write_adapter_folder(tmp_path / "adapter", model, processor)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_that_has_turned_nan_keeps_its_last_good_checkpoint(method, tmp_path):
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from llm_mde.training import prepare_for_training

    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                trained = [weight for weight in model.parameters() if weight.requires_grad]
                with torch.no_grad():
                    trained[-1].fill_(math.nan)

    model, processor = make_pair()
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "callbacks": [Spoil()]}
    trainer = make_trainer(tmp_path, prepare_for_training(model, method), processor, make_frames(8), **options)
    with pytest.raises(ValueError, match="values that are not finite"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir() if "checkpoint" in path.name) == ["checkpoint-2"]
    (file,) = (tmp_path / "checkpoint-2").glob("*.safetensors")
    assert all(weight.isfinite().all() for weight in load_file(file).values())


def test_integers_and_empty_weights_are_no_nan():
    from llm_mde.finite_weights_llm_mde import refuse_undefined

    refuse_undefined(
        {
            "integers": torch.arange(3),
            "nothing": torch.empty(0),
            "meta": torch.empty(3, device="meta"),
            "eight bits": torch.ones(3).to(torch.float8_e4m3fn),
            "largest": torch.full((3,), torch.finfo(torch.float16).max, dtype=torch.float16),
        }
    )
    with pytest.raises(ValueError, match="`eight bits` has 1 of 3"):
        refuse_undefined({"eight bits": torch.tensor([1.0, math.nan, 2.0]).to(torch.float8_e4m3fn)})


def test_depth_that_is_not_finite_gives_no_warning_of_numpy_in_the_pipeline(tiny_folder):
    """A model in float16 may overflow: the picture is black there, and the metres say NaN."""
    from transformers import pipeline

    estimate = pipeline("depth-estimation", model=str(tiny_folder), trust_remote_code=True)
    with torch.no_grad():
        estimate.model.depth_head.to_logits.bias.fill_(math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = estimate(make_frames(1)[0].image)
    assert result["predicted_depth"].isnan().all()
    assert np.asarray(result["depth"]).max() == 0
