"""The record of a training: what it says, whether it is true, and what happens to a damaged one."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from llm_mde.training.record import (
    AdaptedPartRecord,
    AdapterRecord,
    BestRecord,
    DataRecord,
    OptimisationRecord,
    PartRecord,
    StartRecord,
    TrainingRecord,
)


def make_record() -> TrainingRecord:
    """A run with everything that can be said of one; the numbers are made up."""
    data = DataRecord(
        name="my_frames",
        is_on_hub=False,
        dataset=None,
        split="train",
        revision=None,
        num_frames=12,
        shots="12",
        shots_seed=3,
        depth="median 2.00 m, 1.00 m to 4.00 m",
        flags={"kb_crop": True},
    )
    return TrainingRecord(
        command="llm-mde train --data my_frames",
        recipe="lora",
        method="lora",
        start=StartRecord("model", ["user/base"], ["user/base"], "abc"),
        data=data,
        eval_data=replace(data, split="val", num_frames=4, shots=None, shots_seed=None),
        parts=[PartRecord("vision_tower", 1000, 50), PartRecord("depth_head", 100, 100)],
        adapter=AdapterRecord("LoRA", [AdaptedPartRecord("vision_tower", 24, [16], [32.0])], ["depth_head"]),
        optimisation=OptimisationRecord(
            epochs=5.0,
            steps=30,
            resumed_at_step=10,
            effective_batch_size=16,
            num_processes=2,
            optimiser="adamw_torch",
            learning_rate=5e-4,
            vision_learning_rate=2e-4,
            language_learning_rate=1e-4,
            weight_decay=0.01,
            schedule="cosine",
            warmup_steps=0.05,
            max_grad_norm=1.0,
            seed=42,
        ),
        loss={"loss_reduction": "image", "variance_focus": 0.15, "relative_weight": 4.0, "relative_start": 0.4},
        augmentation="mild",
        prompts={"dataset_prompt": "A room."},
        precision="float32",
        seconds=3665.0,
        device="CPU, threads: 2",
        best=BestRecord("abs_rel", 0.25, 20),
        versions={"torch": "2"},
    )


@pytest.mark.parametrize("changes", [{}, {"adapter": None, "best": None, "command": None, "recipe": None}])
def test_what_is_written_is_read_back(changes, tmp_path):
    record = replace(make_record(), **changes)
    file = record.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"] == [file.name]
    assert TrainingRecord.read(file) == record
    assert (record.num_parameters, record.num_trained_parameters) == (1100, 150)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stored: stored.pop("data"), "the record lacks data"),
        (lambda stored: stored.update(colour="red"), "the record does not know colour"),
        (lambda stored: stored["data"].pop("split"), "`data` lacks split"),
        (lambda stored: stored.update(seconds="long"), "`seconds` is 'long', not float"),
        (lambda stored: stored.update(method="magic"), "`method` is 'magic', not one of 'lora', 'full', 'frozen'"),
        (lambda stored: stored["start"].update(names="base"), "`names` is 'base', not list"),
        (lambda stored: stored["optimisation"].update(steps=True), "`steps` is True, not int"),
        (lambda stored: stored["adapter"].update(parts=[1]), "an entry of `parts` is int, not an object"),
    ],
)
def test_a_damaged_record_is_refused_with_what_is_wrong(damage, message, tmp_path):
    stored = make_record().to_dict()
    damage(stored)
    (tmp_path / "training.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"`file` is .*training\.json.*" + message):
        TrainingRecord.read(tmp_path / "training.json")


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_what_is_no_json_object_is_refused(content, tmp_path):
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ValueError, match=r"`file` is .*training\.json"):
        TrainingRecord.read(tmp_path / "training.json")


def test_an_adapter_is_described_by_the_layers_it_has():
    peft = pytest.importorskip("peft")
    from llm_mde.training import lora_config
    from llm_mde.training.recording import describe_adapter
    from tests.conftest import make_model

    model = make_model()
    config = lora_config(model, vision_rank=4, language_rank=2, language_alpha=6, use_rslora=True)
    described = describe_adapter(peft.get_peft_model(model, config))
    assert described == AdapterRecord(
        "LoRA, rsLoRA's scale",
        [AdaptedPartRecord("vision_tower", 8, [4], [8.0]), AdaptedPartRecord("language_model", 4, [2], [6.0])],
        ["text_prototypes", "reprogramming", "depth_head"],
    )


def test_folders_lose_their_places_and_hub_ids_stay_whole(tmp_path):
    from llm_mde.training.model_arguments import ModelArguments
    from llm_mde.training.recording import _describe_start

    encoder = tmp_path / "encoder"
    encoder.mkdir()
    start = _describe_start(ModelArguments(vision_model=str(encoder), language_model="user/words"))
    assert start == StartRecord("encoders", ["encoder", "user/words"], ["user/words"], None)
    assert _describe_start(ModelArguments(from_scratch=True)) == StartRecord("random", [], [], None)
    assert _describe_start(ModelArguments(model=str(encoder))) == StartRecord("model", ["encoder"], [], None)


def test_a_stream_from_the_hub_has_no_length():
    from llm_mde.cli.data_arguments import DataArguments
    from llm_mde.training.recording import describe_data

    arguments = DataArguments(data="user/rooms", streaming=True, data_revision="v1", kb_crop=True)
    data = describe_data(SimpleNamespace(report="median 2 m"), arguments, "train")
    assert (data.name, data.is_on_hub, data.num_frames, data.revision) == ("user/rooms", True, None, "v1")
    assert data.flags == {"kb_crop": True, "streaming": True}


@pytest.mark.slow
def test_a_run_leaves_its_record_and_a_card_with_its_errors(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    pytest.importorskip("datasets")
    from huggingface_hub import ModelCard

    from llm_mde.cli import main
    from llm_mde.hub import write_model_folder
    from llm_mde.processing import write_depth_png
    from tests.conftest import make_pair
    from tests.training.conftest import make_frames

    data, token = tmp_path / "frames", "hf_" + "y" * 34
    for name in ("rgb", "depth"):
        (data / name).mkdir(parents=True)
    for index, frame in enumerate(make_frames(20, size=(48, 64))):
        frame.image.save(data / "rgb" / f"{index}.png")
        write_depth_png(data / "depth" / f"{index}.png", frame.depth)
    base = write_model_folder(tmp_path / "base", *make_pair())
    flags = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    flags += ["--report_to", "none", "--disable_tqdm", "true", "--num_panel_frames", "0", "--hub_token", token]
    output = tmp_path / "out"
    main(["train", "--data", str(data), "--model", str(base), "--output_dir", str(output), *flags])

    record = TrainingRecord.read(output / "training.json")
    assert (record.recipe, record.method) == ("lora", "lora")
    assert record.start == StartRecord("model", ["base"], [], None)
    assert (record.data.name, record.data.num_frames, record.eval_data.num_frames) == ("frames", 16, 4)
    run = record.optimisation
    assert (run.steps, run.effective_batch_size, run.learning_rate, run.vision_learning_rate) == (2, 8, 5e-4, 2e-4)
    assert record.adapter.parts[0].ranks == [16]
    weights = sum(part.trained for part in record.parts if part.part == "depth_head")
    assert weights == sum(part.total for part in record.parts if part.part == "depth_head") > 0
    history = json.loads((output / "log_history.json").read_text())
    errors = {row["step"]: row["eval_abs_rel"] for row in history if "eval_abs_rel" in row}
    assert record.best.value == errors[record.best.step] == min(errors.values())

    card = ModelCard.load(output / "adapter" / "README.md")
    measured = json.loads((output / "evaluation" / "metrics.json").read_text())["metrics"]
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["rmse"] == round(measured["rmse"], 6)
    assert "16 frames of `frames` (train)" in card.text and "chosen by these very frames" in card.text
    for file in (*output.glob("*.json"), *output.glob("adapter/*.md"), *output.glob("evaluation/*.json")):
        assert token not in file.read_text(), file
    for file in (output / "training.json", output / "adapter" / "README.md"):
        assert str(tmp_path) not in file.read_text(), file
