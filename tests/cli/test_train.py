"""`llm-mde train` as a user starts it: frames in, an adapter or a model and a table out."""

import csv
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertTokenizer

import llm_mde.training
from llm_mde.cli import main
from llm_mde.cli.arguments import read_argument_file
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.processing import read_depth_png, write_depth_png
from llm_mde.training import last_complete_checkpoint
from llm_mde.training.encoders import compose_from_encoders
from llm_mde.training.model_arguments import ModelArguments
from llm_mde.training.run import MODEL_FIELDS, load_base
from tests.conftest import ROOT, child_environment, make_pair
from tests.training.conftest import make_frames

pytest.importorskip("peft")
pytest.importorskip("datasets")
TWO_PROCESSES = Path(llm_mde.training.__file__).parent / "accelerate_configs" / "ddp.yaml"


@pytest.fixture
def data(tmp_path) -> Path:
    """Twenty pairs: sixteen to train on, four to measure with."""
    folder = tmp_path / "frames"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index, frame in enumerate(make_frames(20, size=(48, 64))):
        frame.image.save(folder / "rgb" / f"{index}.png")
        write_depth_png(folder / "depth" / f"{index}.png", frame.depth)
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    return write_model_folder(tmp_path / "base", *make_pair())


def train(data: Path, output: Path, *flags: str) -> None:
    main(["train", "--data", str(data), "--output_dir", str(output), "--disable_tqdm", "true", *flags])


def depth_of(folder: Path, photograph: Path) -> torch.Tensor:
    model, processor = load_model_and_processor(folder, device="cpu")
    with torch.no_grad():
        return model(**processor(images=Image.open(photograph), return_tensors="pt")).predicted_depth


def measured_depth(folder: Path) -> dict[str, float]:
    return json.loads((folder / "evaluation" / "metrics.json").read_text())["metrics"]


SHORT = ("--num_train_epochs", "2", "--mixed_precision", "no", "--learning_rate", "3e-3")


@pytest.mark.slow
def test_frames_become_an_adapter_and_a_table(data, base, tmp_path, capsys):
    output = tmp_path / "output"
    train(data, output, "--model", str(base), "--vision_rank", "4", "--shots", "12", *SHORT)
    printed = capsys.readouterr().out
    assert "depth_head" in printed  # the parameter table
    assert "median depth" in printed  # the table of results
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert metrics["metrics"]["num_images"] == 4
    assert len(metrics["baselines"]) == 3
    rows = list(csv.DictReader((output / "learning_curve.csv").open()))
    assert rows[-1]["eval_abs_rel"]
    assert list((output / "panels").glob("*.png"))
    assert list((output / "runs").rglob("events.out.tfevents*"))
    weights = load_file(output / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in weights)
    config = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["base_model_name_or_path"]) == ("FEATURE_EXTRACTION", str(base))
    assert not torch.equal(
        depth_of(output / "adapter", data / "rgb" / "0.png"), depth_of(base, data / "rgb" / "0.png")
    )


@pytest.mark.slow
def test_training_stops_when_it_gets_no_better(data, base, tmp_path):
    flags = ("--learning_rate", "0.0", "--num_train_epochs", "9", "--early_stopping_patience", "2")
    train(data, tmp_path / "output", "--model", str(base), "--recipe", "frozen", *flags)
    curve = list(csv.DictReader((tmp_path / "output" / "learning_curve.csv").open()))
    assert float(curve[-1]["epoch"]) == 3  # the first is the best, two follow


@pytest.mark.slow
def test_half_the_bytes_in_bfloat16(data, base, tmp_path):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        train(data, tmp_path / dtype, "--model", str(base), "--adapter_dtype", dtype, "--max_steps", "1", *SHORT)
        weights = load_file(tmp_path / dtype / "adapter" / "adapter_model.safetensors")
        sizes[dtype] = sum(weight.nbytes for weight in weights.values())
    assert sizes["float32"] == 2 * sizes["bfloat16"]
    photograph = data / "rgb" / "0.png"
    whole, half = (depth_of(tmp_path / dtype / "adapter", photograph) for dtype in sizes)
    torch.testing.assert_close(half, whole, rtol=2e-2, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "frozen"])
def test_other_recipes_leave_a_whole_model(recipe, data, base, tmp_path):
    (tmp_path / "run.yaml").write_text(f"recipe: {recipe}\nmodel: {base}\nmax_steps: 2\nmixed_precision: 'no'\n")
    main(["train", str(tmp_path / "run.yaml"), "--data", str(data), "--output_dir", str(tmp_path / "output")])
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "output" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"depth_head", "reprogramming", "text_prototypes"} | (
        {"vision_tower", "language_model"} if recipe == "full" else set()
    )


@pytest.mark.slow
def test_from_scratch_needs_no_model(data, tmp_path):
    train(
        data, tmp_path / "output", "--recipe", "from-scratch", "--max_steps", "2", "--per_device_eval_batch_size", "2"
    )
    assert depth_of(tmp_path / "output" / "model", data / "rgb" / "0.png").shape == (1, 96, 128)


@pytest.mark.slow
def test_two_folders_of_encoders_become_a_base_and_an_adapter_on_it(data, base, tmp_path):
    model, processor = make_pair()
    model.vision_tower.save_pretrained(tmp_path / "vit")
    model.language_model.save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    output = tmp_path / "output"
    encoders = ("--vision_model", str(tmp_path / "vit"), "--language_model", str(tmp_path / "bert"))
    train(data, output, *encoders, "--max_steps", "2", *SHORT)
    assert (output / "base" / "model.safetensors").is_file()
    assert depth_of(output / "adapter", data / "rgb" / "0.png").shape == (1, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lora", "full"])
def test_a_killed_run_resumes_to_the_same_weights(recipe, data, base, tmp_path):
    """SIGKILL in mid-epoch, in a process of its own."""
    flags = ["--recipe", recipe, "--model", str(base), "--mixed_precision", "no", "--num_train_epochs", "8"]
    flags += ["--per_device_train_batch_size", "4", "--save_strategy", "steps", "--save_steps", "3"]
    flags += ["--eval_strategy", "no", "--load_best_model_at_end", "false", "--learning_rate", "1e-3"]
    train(data, tmp_path / "whole", *flags)

    cut = tmp_path / "cut"
    words = ["-m", "llm_mde.cli", "train", "--data", str(data), "--output_dir", str(cut), *flags]
    process = subprocess.Popen([sys.executable, *words], env=child_environment(), stderr=subprocess.DEVNULL, cwd=ROOT)
    while last_complete_checkpoint(cut) is None:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / ("adapter" if recipe == "lora" else "model")).exists()

    with pytest.raises(SystemExit):  # never by accident
        train(data, cut, *flags)
    train(data, cut, *flags, "--resume_from_checkpoint", "true")
    name = "adapter/adapter_model.safetensors" if recipe == "lora" else "model/model.safetensors"
    whole, resumed = load_file(tmp_path / "whole" / name), load_file(cut / name)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


@pytest.mark.slow
def test_a_stream_is_trained_on(data, base, tmp_path):
    output = tmp_path / "output"
    flags = ("--streaming", "true", "--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1")
    train(data, output, "--model", str(base), *SHORT, *flags, "--save_strategy", "steps", "--save_steps", "1")
    assert measured_depth(output)["num_images"] == 4
    assert list(csv.DictReader((output / "learning_curve.csv").open()))[-1]["eval_abs_rel"]


@pytest.mark.slow
def test_another_set_is_measured_with(data, base, tmp_path):
    """Depth in centimetres: read with the training set's scale it would be ten times too near."""
    other, output = tmp_path / "other", tmp_path / "output"
    for name in ("rgb", "depth"):
        (other / name).mkdir(parents=True)
    for index, frame in enumerate(make_frames(3, seed=1, size=(48, 64))):
        frame.image.save(other / "rgb" / f"{index}.png")
        Image.fromarray((100 * frame.depth).astype("uint16")).save(other / "depth" / f"{index}.png")
    flags = ("--eval_data", str(other), "--eval_split", "all", "--eval_depth_scale", "0.01")
    train(data, output, "--model", str(base), "--recipe", "frozen", "--max_steps", "1", *flags)
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert metrics["metrics"]["num_images"] == 3
    assert all(baseline["metrics"]["rmse"] < 1 for baseline in metrics["baselines"].values())


@pytest.mark.slow
def test_two_processes_share_a_stream_of_prompts_of_different_lengths(data, base, tmp_path):
    words = ["--model", base, "--recipe", "frozen", "--streaming", "true", "--max_steps", "2"]
    words += ["--mixed_precision", "no", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "no"]
    words += ["--load_best_model_at_end", "false", "--per_device_train_batch_size", "2", "--num_panel_frames", "0"]
    words += ["--disable_tqdm", "true", "--data", data, "--output_dir", tmp_path / "output"]
    launch = ["-m", "accelerate.commands.launch", "--config_file", TWO_PROCESSES, "-m", "llm_mde.cli", "train", *words]
    process = subprocess.run(
        [sys.executable, *map(str, launch)],
        env=child_environment(),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert measured_depth(tmp_path / "output")["num_images"] == 4


@pytest.mark.slow
def test_an_adapter_on_an_adapter_predicts_what_it_was_trained_to(data, base, tmp_path, monkeypatch):
    """Its base is the first adapter, merged: the model that the first one was trained on would predict otherwise."""
    steps = ("--max_steps", "4", "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
    train(data, tmp_path / "first", "--model", str(base), *SHORT, *steps)
    live = {}

    def write(folder, model, *arguments):
        written = write_adapter_folder(folder, model, *arguments)
        live.update({name: weight.clone() for name, weight in model.merge_and_unload().state_dict().items()})
        return written

    monkeypatch.setattr("llm_mde.hub.write_adapter_folder", write)
    train(data, tmp_path / "second", "--model", str(tmp_path / "first" / "adapter"), *SHORT, *steps)
    reloaded = load_model_and_processor(tmp_path / "second" / "adapter", device="cpu")[0].state_dict()
    assert live.keys() == reloaded.keys()
    for name, weight in live.items():
        torch.testing.assert_close(reloaded[name], weight, rtol=0, atol=1e-5, msg=name)
    first = load_model_and_processor(tmp_path / "first" / "adapter", device="cpu")[0].state_dict()
    query = next(name for name in first if name.endswith("query.weight"))
    assert not torch.equal(first[query], reloaded[query])


@pytest.mark.slow
def test_an_adapter_of_a_base_named_from_here_is_read_from_elsewhere_and_after_a_move(data, tmp_path, monkeypatch):
    model, processor = make_pair()
    model.vision_tower.save_pretrained(tmp_path / "vit")
    model.language_model.save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    train(data, Path("output"), "--vision_model", "vit", "--language_model", "bert", "--max_steps", "1", *SHORT)
    photograph = data / "rgb" / "0.png"
    expected = depth_of(Path("output/adapter"), photograph)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(depth_of(tmp_path / "output" / "adapter", photograph), expected)
    (tmp_path / "output").rename(tmp_path / "elsewhere" / "moved")
    assert torch.equal(depth_of(Path("moved/adapter"), photograph), expected)


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting_evaluations_that_were_no_better(data, base, tmp_path):
    flags = ("--model", str(base), "--recipe", "frozen", "--learning_rate", "0.0", "--early_stopping_patience", "2")
    train(data, tmp_path / "output", *flags, "--num_train_epochs", "2")  # the first is the best, one follows
    train(data, tmp_path / "output", *flags, "--num_train_epochs", "9", "--resume_from_checkpoint", "true")
    curve = list(csv.DictReader((tmp_path / "output" / "learning_curve.csv").open()))
    assert float(curve[-1]["epoch"]) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_half_precision_is_trained_in_float32(dtype, tmp_path):
    model, processor = make_pair()
    folder = write_model_folder(tmp_path / "half", model.to(dtype), processor)
    loaded, _ = load_base(ModelArguments(model=str(folder)), tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("recipe", ["lora", "full", "frozen"])
def test_other_recipes_do_not_inherit_the_loss_of_a_model_from_scratch(recipe, tmp_path):
    model, processor = make_pair(relative_weight=4.0)
    folder = write_model_folder(tmp_path / "small", model, processor)
    file = Path(llm_mde.training.__file__).parent / "recipes" / f"{recipe}.yaml"
    values = {name: value for name, value in read_argument_file(file).items() if name in MODEL_FIELDS}
    loaded, _ = load_base(ModelArguments(model=str(folder), **values), tmp_path)
    assert loaded.config.relative_weight == 0.0


def test_new_models_reach_ten_metres_unless_told_otherwise(tmp_path):
    small = {"from_scratch": True, "method": "full", "image_height": 32, "image_width": 48}
    assert load_base(ModelArguments(**small), tmp_path)[0].config.max_depth == 10.0
    assert load_base(ModelArguments(**small, max_depth=80.0), tmp_path)[0].config.max_depth == 80.0


def test_a_language_model_without_words_is_refused(tmp_path):
    model, processor = make_pair()
    model.vision_tower.save_pretrained(tmp_path / "vit")
    model.language_model.save_pretrained(tmp_path / "bert")
    encoders = (str(tmp_path / "vit"), str(tmp_path / "bert"))
    with pytest.raises(ValueError, match=r"`language_model` is .*bert', whose tokenizer"):
        compose_from_encoders(*encoders)
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}).save_pretrained(encoders[1])
    with pytest.raises(ValueError, match=r"whose tokenizer \(5 tokens\) knows no word of the prompt"):
        compose_from_encoders(*encoders)
    processor.tokenizer.save_pretrained(encoders[1])
    assert compose_from_encoders(*encoders)[1].tokenizer.get_vocab() == processor.tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["base", "adapter", "model"])
def test_what_an_earlier_run_has_left_is_not_replaced(name, data, tmp_path, capsys):
    left = write_model_folder(tmp_path / "output" / name, *make_pair())
    before = (left / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        train(data, tmp_path / "output", "--recipe", "from-scratch", "--max_steps", "1")
    assert f"holds {name}/ of an earlier run; give another --output_dir, or remove" in capsys.readouterr().err
    flags = ("--recipe", "full", "--model", str(left), "--max_steps", "1", "--resume_from_checkpoint", "true")
    with pytest.raises(SystemExit):
        train(data, tmp_path / "output", *flags)
    assert "itself; give another --output_dir" in capsys.readouterr().err
    assert (left / "model.safetensors").read_bytes() == before


def scaled(data: Path, folder: Path, factor: float) -> Path:
    """The same frames, so many times as far."""
    (folder / "depth").mkdir(parents=True)
    (folder / "rgb").symlink_to(data / "rgb")
    for path in (data / "depth").iterdir():
        write_depth_png(folder / "depth" / path.name, factor * read_depth_png(path))
    return folder


ONE_STEP = ("--recipe", "frozen", "--max_steps", "1", "--num_panel_frames", "0", "--report_to", "none")


@pytest.mark.slow
def test_a_model_is_measured_as_far_as_it_can_see(data, tmp_path):
    streets = scaled(data, tmp_path / "streets", 12)
    base = write_model_folder(tmp_path / "base", *make_pair(max_depth=80.0))
    train(streets, tmp_path / "output", "--model", str(base), *ONE_STEP)
    measured = json.loads((tmp_path / "output" / "evaluation" / "metrics.json").read_text())
    assert (measured["protocol"]["name"], measured["metrics"]["num_images"]) == ("plain (max_depth=80.0)", 4)
    flags = ("--model", str(base), *ONE_STEP, "--protocol_max_depth", "40")
    train(streets, tmp_path / "nearer", *flags)
    measured = json.loads((tmp_path / "nearer" / "evaluation" / "metrics.json").read_text())
    assert measured["protocol"]["max_depth"] == 40


@pytest.mark.slow
def test_relative_depth_is_trained_and_measured_with_its_median_aligned(data, tmp_path):
    base = write_model_folder(tmp_path / "base", *make_pair(depth_estimation_type="relative"))
    train(data, tmp_path / "output", "--model", str(base), *ONE_STEP)
    measured = json.loads((tmp_path / "output" / "evaluation" / "metrics.json").read_text())
    assert measured["protocol"]["alignment"] == "median"
    with (tmp_path / "output" / "learning_curve.csv").open() as lines:
        curve = [float(row["eval_abs_rel"]) for row in csv.DictReader(lines) if row["eval_abs_rel"]]
    assert curve[-1] == pytest.approx(measured["metrics"]["abs_rel"], rel=0.2)  # at two resolutions
    assert "λ = 1" in (tmp_path / "output" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_frames_that_are_trained_on_and_measured_with_are_told(data, base, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("llm_mde"), "propagate", True)
    train(data, tmp_path / "output", "--model", str(base), *ONE_STEP, "--train_split", "all")
    assert "trained on and measured with, such as 'rgb/" in caplog.text
    assert "trained on these very frames" in (tmp_path / "output" / "model" / "README.md").read_text()
    caplog.clear()
    train(data, tmp_path / "apart", "--model", str(base), *ONE_STEP)
    assert "measured with" not in caplog.text


@pytest.mark.slow
def test_a_checkpoint_that_the_test_set_chooses_is_told(data, base, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("llm_mde"), "propagate", True)
    for split, names in (("train", range(8)), ("test", range(8, 12))):
        for kind in ("rgb", "depth"):
            (tmp_path / "split" / split / kind).mkdir(parents=True)
            for name in names:
                shutil.copy(data / kind / f"{name}.png", tmp_path / "split" / split / kind)
    flags = ("--model", str(base), *ONE_STEP, "--eval_split", "test")
    train(tmp_path / "split", tmp_path / "chosen", *flags)
    assert "no test any more" in caplog.text
    caplog.clear()
    once = ("--load_best_model_at_end", "false", "--eval_strategy", "no")
    train(tmp_path / "split", tmp_path / "once", *flags, *once)
    assert "no test any more" not in caplog.text


def test_a_finished_model_is_not_replaced_for_want_of_a_checkpoint(data, base, tmp_path, capsys):
    left = write_model_folder(tmp_path / "output" / "model", *make_pair())
    before = (left / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        train(data, tmp_path / "output", "--model", str(base), *ONE_STEP, "--resume_from_checkpoint", "true")
    assert "holds model/ of an earlier run and no checkpoint to go on from" in capsys.readouterr().err
    assert (left / "model.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(("max_depth", "warns"), [(2.5, True), (10.0, False)])
def test_depth_beyond_the_models_reach_is_told(max_depth, warns, data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("llm_mde"), "propagate", True)
    folder = write_model_folder(tmp_path / "near", *make_pair(max_depth=max_depth))
    train(data, tmp_path / "output", "--model", str(folder), "--recipe", "frozen", "--max_steps", "1")
    assert (f"`max_depth`, {max_depth:g} m, and teach it nothing" in caplog.text) == warns
    assert ("--max_depth" in caplog.text) == warns


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "x", "--max_depth", "80"], "`max_depth` is 80.0, but `model` is 'x', which has its own"),
        (["--model", "x", "--image_height", "64"], "`image_height` is 64, but `model` is 'x'"),
        (["--model", "x", "--image_width", "64"], "`image_width` is 64, but `model` is 'x'"),
        (["--metric_for_best_model", "d1"], "`metric_for_best_model` is 'd1'; choose one of abs_rel"),
        (["--eval_depth_scale", "0.01"], "`eval_depth_scale` is 0.01 without `eval_data`; `--data` has --depth_scale"),
        (["--protocol", "none"], "none"),
        (["--recipe", "from-scratch", "--streaming", "true"], "`keep_in_memory` is on, but `streaming` is too"),
        (["--optim", "galore_adamw"], "`optim` is 'galore_adamw', which groups the weights itself"),
        (["--output_dir", "/dev/null/output"], "/dev/null"),
        (["--recipe", "everything"], "`recipe` is 'everything'"),
        (["--from_scratch", "true"], "`method` is 'lora'"),
        (["--from_scratch", "true", "--method", "full", "--model", "x"], "give one of the two"),
        (["--model", "x", "--quantization", "4bit"], "needs a CUDA GPU"),
        (["--recipe", "full", "--vision_rank", "64"], "`vision_rank` is 64, but `method` is 'full', which makes no"),
        (["--recipe", "frozen", "--lora_preset", "authors"], "`lora_preset` is 'authors', but `method` is 'frozen'"),
        (["--model", "x", "--vision_model", "y"], "`vision_model` is 'y', but `model` is 'x', which has encoders of"),
        (["--recipe", "from-scratch", "--language_model", "y"], "`language_model` is 'y', but `from_scratch` is True"),
        (["--recipe", "from-scratch", "--model_revision", "v1"], "`model_revision` is 'v1' without `model`"),
        (
            ["--recipe", "from-scratch", "--protocol", "nyu-eigen"],
            "`protocol` is 'nyu-eigen', which does not fit",
        ),
        (["--recipe", "from-scratch", "--max_depth", "0.1"], "none of 4 evaluation frames has measured depth"),
        (["--protocol_max_depth", "-1"], "`max_depth`"),
        (["--resume_from_checkpoint", "/no/such/folder"], "is no folder"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--vision_model", "/no/such/vit"], "`vision_model` is '/no/such/vit'"),
        (["--recipe", "from-scratch", "--shots", "500"], "500"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(flags, message, data, tmp_path, capsys):
    if "4bit" in flags and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(SystemExit) as exit_info:
        train(data, tmp_path / "output", *flags)
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1]
