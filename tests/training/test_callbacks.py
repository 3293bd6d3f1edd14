"""What a run tells its user."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from transformers import TrainerControl, TrainerState

from llm_mde.training import (
    DepthTrainingArguments,
    MetresCallback,
    PanelCallback,
    RelativeErrorCallback,
    learning_curve,
)
from tests.conftest import make_pair

STATE = TrainerState(is_world_process_zero=True, global_step=7)


def test_panels_show_fixed_frames_after_each_evaluation(frames, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tensorboard")
    model, processor = make_pair()
    model.train()
    arguments = DepthTrainingArguments(output_dir=str(tmp_path), report_to="tensorboard")
    callback = PanelCallback(frames[:2], processor)
    callback.on_evaluate(arguments, STATE, TrainerControl(), model=model)
    callback.on_train_end(arguments, STATE, TrainerControl())
    assert model.training
    with Image.open(tmp_path / "panels" / "step_000007.png") as picture:
        assert picture.width > 4 * 160
        assert picture.height > 2 * 160
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50
    assert list((tmp_path / "runs" / "panels").glob("events.out.tfevents*"))


def test_other_processes_predict_along_but_write_nothing(frames, tmp_path):
    """Sharded weights are gathered by all processes together: if one predicted alone, it would wait for ever."""
    pytest.importorskip("matplotlib")
    model, processor = make_pair()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    PanelCallback(frames[:2], processor).on_evaluate(
        DepthTrainingArguments(output_dir=str(tmp_path)),
        TrainerState(is_world_process_zero=False),
        TrainerControl(),
        model=model,
    )
    assert len(passes) == 2
    assert not (tmp_path / "panels").exists()


def test_evaluation_is_told_in_metres(capsys):
    metrics = {"eval_abs_rel": 0.125, "eval_rmse": 0.456, "eval_delta1": 0.8}
    MetresCallback().on_evaluate(None, STATE, TrainerControl(), metrics=metrics)
    assert capsys.readouterr().out == "step 7: off by 12.5 % (rmse 0.46 m), 80 % within a quarter\n"


def test_the_learning_curve_joins_training_and_evaluation_of_a_step():
    log = [
        {"step": 1, "epoch": 0.5, "loss": 0.25, "learning_rate": 1e-3, "grad_norm": 3.0},
        {"step": 2, "epoch": 1.0, "loss": 0.125, "learning_rate": 5e-4},
        {"step": 2, "epoch": 1.0, "eval_loss": 0.2, "eval_abs_rel": 0.3, "eval_rmse": 1.5, "eval_delta1": 0.5},
        {"step": 2, "health_valid_share": 1.0},
        {"step": 2, "epoch": 1.0, "train_runtime": 3.0},
    ]
    rows = list(csv.DictReader(io.StringIO(learning_curve(log))))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert (rows[0]["loss"], rows[0]["eval_abs_rel"]) == ("0.25", "")
    assert (rows[1]["loss"], rows[1]["eval_abs_rel"], rows[1]["eval_delta1"]) == ("0.125", "0.3", "0.5")


def test_the_relative_error_counts_late_and_never_outside_a_step():
    callback = RelativeErrorCallback(start=0.5)
    model = make_pair(relative_weight=2.0)[0]
    seen = []
    for step in range(10):
        state = TrainerState(global_step=step, max_steps=10)
        callback.on_step_begin(None, state, TrainerControl(), model=model)
        seen.append(model.config.relative_weight)
        callback.on_step_end(None, state, TrainerControl(), model=model)
        assert model.config.relative_weight == 2.0
    assert seen == pytest.approx([0, 0, 0, 0, 0, 0.4, 0.8, 1.2, 1.6, 2.0])


@pytest.mark.parametrize("start", [-0.1, 1.0])
def test_a_start_outside_the_training_is_refused(start):
    with pytest.raises(ValueError, match="`relative_start` is"):
        RelativeErrorCallback(start)
