"""The stock Trainer on LLM-MDE: what must be equal is equal, what is frozen stays, what is resumed goes on."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load
from transformers import Trainer, TrainerCallback, set_seed

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.evaluation import DepthMetrics
from llm_mde.hub import write_adapter_folder, write_model_folder
from llm_mde.processing import DepthAugmentation, DepthCollator
from llm_mde.training import (
    AugmentedFrames,
    DepthTrainer,
    DepthTrainingArguments,
    StreamingDepthMetrics,
    last_complete_checkpoint,
    parameter_groups,
    prepare_for_training,
)
from llm_mde.training import trainer as training_module
from tests.conftest import make_pair
from tests.training.conftest import make_frames

pytest.importorskip("accelerate")


def make_arguments(folder, **options) -> DepthTrainingArguments:
    options = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "mixed_precision": "no",
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        **options,
    }
    return DepthTrainingArguments(output_dir=str(folder), **options)


def make_trainer(folder, model, processor, frames, trainer_class=DepthTrainer, callbacks=None, **options) -> Trainer:
    set_seed(0)
    return trainer_class(
        model=model,
        args=make_arguments(folder, **options),
        train_dataset=frames,
        eval_dataset=make_frames(5, seed=1),
        data_collator=DepthCollator(processor),
        compute_metrics=StreamingDepthMetrics(),
        processing_class=processor,
        callbacks=callbacks,
    )


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def without_dropout(**overrides):
    """Dropout draws per forward pass, so that a batch of four and four batches of one would differ by its draws."""
    return make_pair(encoder_dropout=False, **overrides)


@pytest.mark.parametrize("has_empty_frame", [False, True])
def test_gradient_accumulation_of_four_equals_a_batch_of_four(has_empty_frame, tmp_path, frames):
    if has_empty_frame:
        frames[2].depth[:] = 0
    results = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        model, processor = without_dropout()
        trainer = make_trainer(
            tmp_path,
            model,
            processor,
            frames,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
            optim="sgd",
        )
        output = trainer.train()
        results.append((weights_of(model), output.training_loss, trainer.state.log_history[0]["grad_norm"]))
    (weights, loss, norm), (other_weights, other_loss, other_norm) = results
    start = weights_of(without_dropout()[0])
    assert largest_difference(weights, start) > 1e-3
    assert largest_difference(weights, other_weights) < 1e-5
    assert other_loss == pytest.approx(loss, rel=1e-4)
    assert other_norm == pytest.approx(norm, rel=1e-4)


def test_the_stock_trainer_learns_to_read_depth(tmp_path):
    """From the README: nothing but Trainer, collator and labels; the loss falls to a fraction."""
    frames = make_frames(16)
    model, processor = make_pair()
    groups = parameter_groups(model, learning_rate=3e-3)
    set_seed(0)
    trainer = Trainer(
        model=model,
        args=make_arguments(tmp_path, max_steps=60, per_device_train_batch_size=8, batch_eval_metrics=True),
        train_dataset=frames,
        eval_dataset=frames,
        data_collator=DepthCollator(processor),
        compute_metrics=StreamingDepthMetrics(),
        optimizer_cls_and_kwargs=(torch.optim.AdamW, {"params": groups, "lr": 3e-3}),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_abs_rel"] < 0.5 * before["eval_abs_rel"]
    assert after["eval_delta1"] > 0.6


def test_each_part_is_trained_with_its_own_learning_rate(tmp_path, frames):
    model, processor = make_pair()
    trainer = make_trainer(
        tmp_path,
        prepare_for_training(model, "lora"),
        processor,
        frames,
        learning_rate=0.1,
        vision_learning_rate=0.01,
        language_learning_rate=0.0,
        weight_decay=0.5,
        max_steps=1,
    )
    optimizer = trainer.create_optimizer()
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {
        "vision_tower": (0.01, 0.5),
        "language_model": (0.0, 0.5),
        "new_layers": (0.1, 0.5),
        "new_layers_vectors": (0.1, 0.0),
    }
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained}
    assert len(grouped) == len(trained)


def test_a_model_without_trained_weights_is_refused():
    with pytest.raises(ValueError, match="`model` has no weight"):
        parameter_groups(make_pair()[0].requires_grad_(False), 1e-3)


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_frozen_parts_stay_bit_identical(method, tmp_path, frames):
    model, processor = make_pair()
    model = prepare_for_training(model, method)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert frozen
    make_trainer(tmp_path, model, processor, frames, max_steps=3, weight_decay=0.1).train()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    changed = [name for name, value in trained.items() if not torch.equal(after[name], value)]
    assert any("depth_head" in name for name in changed)
    assert method == "frozen" or any("lora_B" in name for name in changed)


class StopAfter(TrainerCallback):
    """An interruption: what follows the step is lost."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_resumes_to_the_same_weights(method, tmp_path):
    """In mid-epoch, with dropout and augmentation: every weight, those of the vision encoder included."""
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    frames = AugmentedFrames(make_frames(8), DepthAugmentation(), seed=5)  # four steps an epoch

    def trainer_in(folder, callbacks=None):
        model, processor = make_pair()
        set_seed(0)
        model = prepare_for_training(model, method)
        return make_trainer(folder, model, processor, frames, callbacks=callbacks, **options)

    whole = trainer_in(tmp_path / "whole")
    whole.train()
    interrupted = trainer_in(tmp_path / "cut", [StopAfter(7)])
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    checkpoint = last_complete_checkpoint(tmp_path / "cut")
    assert checkpoint.name == "checkpoint-6"
    resumed = trainer_in(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == 12
    assert largest_difference(weights_of(interrupted.model), weights_of(whole.model)) > 1e-3
    assert largest_difference(weights_of(resumed.model), weights_of(whole.model)) == 0


def test_the_best_checkpoint_comes_back_with_every_weight(tmp_path, frames):
    """Transformers writes older names for ViT layers, which the Trainer then does not find."""

    class Spoil(TrainerCallback):
        """After the first epoch training goes astray."""

        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            if state.epoch == 1:
                self.best = weights_of(model)
            else:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1.5)

    spoil = Spoil()
    model, processor = make_pair()
    trainer = make_trainer(
        tmp_path,
        model,
        processor,
        frames,
        callbacks=[spoil],
        num_train_epochs=3,
        learning_rate=1e-4,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert largest_difference(weights_of(model), spoil.best) == 0


def test_a_checkpoint_cut_off_while_saving_is_passed_over(tmp_path):
    for step, has_state in ((10, True), (20, True), (30, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if has_state:
            (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text('{"global_st')
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-20"
    assert last_complete_checkpoint(tmp_path / "none") is None


def first_loss(tmp_path, frames, **options) -> float:
    model, processor = without_dropout()
    trainer = make_trainer(tmp_path, model, processor, frames, max_steps=4, learning_rate=1e-3, **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(math.isfinite(loss) for loss in losses)
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"mixed_precision": "bf16"}, 5e-2),  # 3.5 % with torch 2.11, below 2 % with 2.15
        ({"gradient_checkpointing": True}, 1e-5),
        pytest.param({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1e-4, marks=pytest.mark.slow),
    ],
    ids=["bf16", "checkpointing", "compile"],
)
def test_cheaper_training_reaches_the_same_loss(options, tolerance, tmp_path, frames):
    assert first_loss(tmp_path, frames, **options) == pytest.approx(first_loss(tmp_path, frames), rel=tolerance)


def test_metrics_while_training_are_those_of_all_frames_together(tmp_path):
    model, processor = make_pair()
    frames = make_frames(5, seed=1)
    trainer = make_trainer(tmp_path, model, processor, frames, per_device_eval_batch_size=2)
    evaluated = trainer.evaluate()
    batch = DepthCollator(processor)(frames)
    with torch.no_grad():
        predicted = model.eval()(**batch).predicted_depth
    expected = DepthMetrics()
    expected.update(predicted, batch["labels"])
    for name, value in expected.compute().items():
        assert evaluated[f"eval_{name}"] == pytest.approx(value, rel=1e-5), name
    assert trainer.evaluate()["eval_num_images"] == 5  # the sums have been reset


def test_evaluation_keeps_no_maps(tmp_path, monkeypatch):
    """Memory must not grow with the number of evaluation images: no batch outlives the next."""
    import weakref

    model, processor = make_pair()
    alive, most = [], 0
    update = DepthMetrics.update

    def watched(self, predicted_depth, labels):
        nonlocal most
        alive.append(weakref.ref(predicted_depth))
        most = max(most, sum(reference() is not None for reference in alive))
        return update(self, predicted_depth, labels)

    monkeypatch.setattr(DepthMetrics, "update", watched)
    trainer = make_trainer(tmp_path, model, processor, make_frames(2), per_device_eval_batch_size=1)
    trainer.eval_dataset = make_frames(12, seed=1)
    trainer.evaluate()
    assert len(alive) == 12
    assert most <= 2


def test_labels_keep_their_type_where_deepspeed_casts_floats(tmp_path, frames):
    """10.01 m would become 10.0 m in bfloat16."""
    model, processor = make_pair()
    trainer = make_trainer(tmp_path, model, processor, frames)
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    trainer.is_deepspeed_enabled = True
    batch = DepthCollator(processor)(frames)
    batch["labels"][0, 0, 0] = 10.01
    prepared = trainer._prepare_inputs(batch)
    assert prepared["pixel_values"].dtype == torch.bfloat16
    assert prepared["labels"].dtype == torch.float32
    assert torch.equal(prepared["labels"], batch["labels"])


def test_prototypes_over_the_whole_vocabulary_are_not_sharded(tmp_path, frames, monkeypatch):
    build = Trainer.create_accelerator_and_postprocess

    def as_if_launched_with_fsdp(self):
        build(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", as_if_launched_with_fsdp)
    model, processor = make_pair(prototype_parametrization="vocabulary")
    with pytest.raises(ValueError, match="`prototype_parametrization` is 'vocabulary'"):
        make_trainer(tmp_path, model, processor, frames)
    make_trainer(tmp_path, model.convert_prototypes("compact"), processor, frames)


@pytest.mark.parametrize(("reentrant", "finds"), [(False, True), (True, False)])
def test_ddp_looks_for_weights_that_no_forward_uses(reentrant, finds, tmp_path, frames):
    trainer = make_trainer(
        tmp_path,
        *make_pair(),
        frames,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
    )
    assert trainer.accelerator.ddp_handler.find_unused_parameters is finds


def test_the_relative_weight_is_the_same_in_each_part_of_an_accumulated_step(tmp_path, frames):
    model, processor = without_dropout(relative_weight=2.0)
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(model.config.relative_weight))
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4}
    make_trainer(tmp_path, model, processor, frames, relative_start=0.5, **options).train()
    assert seen == pytest.approx([0, 0, 0, 0, 0.4, 0.4, 1.2, 1.2])
    assert model.config.relative_weight == 2.0


def test_an_interrupted_step_leaves_the_full_relative_weight(tmp_path, frames):
    class Interrupt(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model, processor = make_pair(relative_weight=2.0)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4}
    trainer = make_trainer(tmp_path, model, processor, frames, callbacks=[Interrupt()], relative_start=0.5, **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert model.config.relative_weight == 2.0


@pytest.mark.parametrize("relative_weight", [0.0, 1.0])
def test_a_relative_start_without_a_weight_is_told(relative_weight, tmp_path, frames, monkeypatch):
    warnings = []
    monkeypatch.setattr(training_module.logger, "warning", warnings.append)
    make_trainer(tmp_path, *make_pair(relative_weight=relative_weight), frames, relative_start=0.5)
    assert len(warnings) == (relative_weight == 0)


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`mixed_precision` is 'int8'"):
        make_arguments(tmp_path, mixed_precision="int8")


def test_a_trained_model_is_saved_and_loaded_whole(tmp_path, frames):
    model, processor = make_pair()
    trainer = make_trainer(tmp_path, model, processor, frames, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = LLMMDEForDepthEstimation.from_pretrained(tmp_path / "saved")
    assert largest_difference(weights_of(loaded), weights_of(copy.deepcopy(model))) == 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_folder_written_from_a_state_dict_holds_the_weights_of_that_state_dict(method, tmp_path):
    """As a sharded run writes it, where the model itself has only a part of its weights."""
    model, processor = make_pair()
    model = prepare_for_training(model, method)
    write = write_adapter_folder if method == "lora" else write_model_folder
    write(tmp_path / "plain", model, processor)
    state_dict = weights_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    write(tmp_path / "given", model, processor, state_dict=state_dict)
    plain, given = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "given")
    )
    file = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert largest_difference(load(plain.pop(file)), load(given.pop(file))) == 0  # metadata has no order
    assert plain == given
    assert len(state_dict) == len(model.state_dict())  # the caller's dictionary is left as it was
