"""Cards: what a stranger reads about a model, whether it is true, and whether its lines run."""

import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import HfApi, ModelCard
from packaging import version
from PIL import Image
from safetensors import safe_open
from transformers import ViTConfig

import llm_mde.hub.sample_pictures as sample_pictures
from llm_mde import LLMMDEForDepthEstimation
from llm_mde.adapters_llm_mde import FINGERPRINT_KEY, base_fingerprint
from llm_mde.evaluation import EvaluationReport, EvaluationSetting, MedianDepthBaseline, evaluate_depth
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.hub.cards import CardFacts, add_evaluations, model_card, sample_picture
from llm_mde.model_card_llm_mde import OLDEST_TRANSFORMERS, basic_model_card
from llm_mde.processing.colours import colourise, depth_limits
from tests.conftest import ROOT, make_model, make_pair
from tests.evaluation.conftest import make_samples
from tests.hub.conftest import hub_environment
from tests.hub.test_loading import put_in_hub_cache
from tests.training.test_record import make_record

BASE_COMMIT = "1" * 40


def make_report(protocol="plain", data="data/frames", model="models/mine", **options) -> EvaluationReport:
    setting = EvaluationSetting(model=model, data=data, dataset="rooms", split="val")
    results = [
        evaluate_depth(None, None, make_samples(4), protocol, predict=MedianDepthBaseline(depth), progress=False)
        for depth in (4.0, 7.0)
    ]
    return EvaluationReport(setting, results[0], {"a constant": results[1]}, **options)


def make_adapted(model=None, name_or_path="user/base"):
    peft = pytest.importorskip("peft")
    from llm_mde.training import lora_config

    model, processor = (model, None) if model is not None else make_pair()
    model.name_or_path = name_or_path
    return peft.get_peft_model(model, lora_config(model, vision_rank=4, language_rank=2)), processor


def front_matter(card: ModelCard) -> dict:
    return card.data.to_dict()


def section(card: ModelCard, name: str) -> str:
    return re.search(rf"^## {name}\n\n(.*?)(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A photograph that says in its EXIF where it was taken."""
    levels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(levels).resize((1000, 750), Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x010F] = "a camera of mine"
    image.save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


def test_the_basic_card_says_what_the_model_itself_tells():
    model, _ = make_pair(max_depth=42.0)
    card = basic_model_card(model.config, model.num_parameters(), "user/street-depth")
    data = front_matter(card)
    assert (data["pipeline_tag"], data["library_name"]) == ("depth-estimation", "transformers")
    assert {"depth", "llm-mde", "custom_code", "metric-depth"} <= set(data["tags"])
    assert "license" not in data and "model-index" not in data
    assert card.text.startswith("\n# street-depth\n")
    assert 'model, revision = "user/street-depth", "main"' in section(card, "Quick start")
    assert "z-depth in **metres**, float32, between 0.001 m and 42 m" in section(card, "Outputs and units")
    assert f"{sum(weight.numel() for weight in model.parameters()):,} weights" in section(card, "Size")
    assert "4 layers of width 32 on patches of 8 x 8 pixels, BERT with 2 layers" in section(card, "Size")
    assert "is not recorded here" in section(card, "Training and evaluation")
    assert "2409.01133" in section(card, "Citation")
    assert ModelCard(card.content).content == card.content


def test_a_relative_model_is_promised_no_metres():
    model = make_model(depth_estimation_type="relative")
    card = basic_model_card(model.config, model.num_parameters())
    assert "relative-depth" in card.data.tags
    assert "in metres" not in section(card, "Outputs and units") and "not metres" in card.text
    assert "farther than" not in section(card, "Limits")


def test_the_versions_that_a_card_asks_for_are_the_oldest_that_are_tested():
    dependencies = (ROOT / "pyproject.toml").read_text()
    assert f'"transformers>={OLDEST_TRANSFORMERS}"' in dependencies
    config = make_model(vision_config=ViTConfig(image_size=32, patch_size=8, hidden_size=32)).config
    assert f'pip install "transformers>={OLDEST_TRANSFORMERS}" torch' in basic_model_card(config, 1).text


def test_a_folder_has_a_card_also_when_nothing_is_known(tmp_path):
    folder = write_model_folder(tmp_path / "model", *make_pair())
    card = ModelCard.load(folder / "README.md")
    assert section(card, "How it was trained") == "How these weights were trained is not recorded.\n\n"
    assert "was not measured" in section(card, "Evaluation")
    assert "stated no licence" in section(card, "Licence")
    assert "license" not in front_matter(card)
    assert not list(folder.glob("sample*")) and "![" not in card.text


def test_measured_numbers_survive_as_the_model_index_of_the_hub(tmp_path):
    report = make_report()
    report.write(tmp_path / "evaluation")
    model, processor = make_pair()
    card = model_card(model, processor, CardFacts("user/mine", evaluations=[tmp_path / "evaluation"]))
    card.save(tmp_path / "README.md")
    for _ in range(2):
        card = ModelCard.load(tmp_path / "README.md")
        values = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert values == {name: round(report.result.metrics[name], 6) for name in report.result.metric_names}
        assert {result.dataset_args["protocol"]["name"] for result in card.data.eval_results} == {"plain"}
        assert {result.dataset_name for result in card.data.eval_results} == {"rooms"}
        assert card.data.model_name == "mine"
        card.save(tmp_path / "README.md")
    text = section(card, "Evaluation")
    assert report.table() in text
    assert f"off by {report.result.metrics['abs_rel']:.0%} of the distance" in text
    error = report.baselines["a constant"].metrics["abs_rel"]
    assert f"What has not seen the photograph (a constant) is off by {error:.0%}." in text
    assert "- images: 4" in text and "models/mine" not in text


def test_protocols_on_the_same_photographs_are_not_mixed_up():
    reports = [make_report("plain"), make_report("affine"), make_report("authors-minmax")]
    card = model_card(*make_pair(), CardFacts(evaluations=[report.to_dict() for report in reports]))
    card = ModelCard(card.content)
    values = {(each.metric_args["protocol"], each.metric_type): each.metric_value for each in card.data.eval_results}
    for report in reports:
        for name in report.result.metric_names:
            assert values[report.result.protocol.name, name] == round(report.result.metrics[name], 6)
    assert len(values) == sum(len(report.result.metric_names) for report in reports)
    described = card.data.eval_results[0].dataset_args["evaluations"]
    assert [each["protocol"]["name"] for each in described] == ["plain", "affine", "authors-minmax"]
    plain, affine, authors = section(card, "Evaluation").split("### Protocol ")[1:]
    assert "not comparable" in authors and "aligned" in affine
    assert "not comparable" not in plain and "aligned" not in plain
    assert "delta1 (authors-minmax, not comparable)" in card.content


def test_the_record_of_a_training_becomes_words_and_a_table():
    record = make_record()
    card = model_card(*make_pair(), CardFacts(training=record))
    text = section(card, "How it was trained")
    for words in (
        "Started from the LLM-MDE model [user/base](https://huggingface.co/user/base) at `abc`.",
        "Trained on 12 frames of `my_frames` (train, few-shot subset 12 of seed 3).",
        "the one with the best abs_rel on 4 frames of `my_frames` (val) was kept (0.250 at the resolution",
        "| length | 30 steps, 5 epochs, resumed at step 10 |",
        "| effective batch size | 16 over 2 processes |",
        "| learning rate | 0.0005 (vision encoder 0.0002, language model 0.0001) |",
        "| schedule | cosine, warm-up 5% of the steps |",
        "| loss | SILog of each image, λ = 0.15 + 4 times the mean relative error after 40% of the steps |",
        "rank 16, alpha 32",
        "| time | 1 h 1 min 5 s on CPU, threads: 2, since it was resumed |",
        "llm-mde train --data my_frames",
    ):
        assert words in text
    assert "| all | 1,100 | 150 |" in section(card, "Size")
    assert "median 2.00 m" in section(card, "Limits")


def test_only_names_on_the_hub_are_linked_as_such():
    model, processor = make_pair()
    record = make_record()
    data = front_matter(model_card(model, processor, CardFacts(training=record)))
    assert (data["base_model"], data["base_model_relation"]) == ("user/base", "finetune")
    assert "datasets" not in data
    local = replace(record, start=replace(record.start, hub_ids=[]), data=replace(record.data, is_on_hub=True))
    facts = CardFacts(training=local, datasets=["user/more", "my_frames"])
    data = front_matter(model_card(model, processor, facts))
    assert "base_model" not in data and "base_model_relation" not in data
    assert data["datasets"] == ["user/more", "my_frames"]


def test_frames_that_chose_the_weights_are_told_apart_from_new_ones():
    record, warning = make_record(), "chosen by these very frames"
    record = replace(record, eval_data=replace(record.eval_data, name="data/frames", dataset="rooms"))
    pair = make_pair()
    assert warning in model_card(*pair, CardFacts(training=record, evaluations=[make_report()])).text
    assert warning not in model_card(*pair, CardFacts(training=record, evaluations=[make_report(data="other")])).text
    last = replace(record, best=None)
    assert warning not in model_card(*pair, CardFacts(training=last, evaluations=[make_report()])).text
    for split in (make_report().setting.split, "all"):
        leaking = replace(record, data=replace(record.eval_data, split=split))
        text = model_card(*pair, CardFacts(training=leaking, evaluations=[make_report()])).text
        assert "The model was trained on these very frames" in text and warning not in text


def test_no_card_has_gaps_folders_of_the_machine_or_tokens(tmp_path, monkeypatch, photograph):
    pytest.importorskip("matplotlib")
    token = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    base, processor = make_pair()
    base.save_pretrained(tmp_path / "base")
    model, _ = make_adapted(type(base).from_pretrained(tmp_path / "base"), str(tmp_path / "base"))
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    make_report(data=str(tmp_path / "frames"), model=str(run / "adapter")).write(run / "evaluation")
    make_record().write(run)
    facts = CardFacts.from_run(run, photograph=photograph)
    assert facts.training == make_record() and len(facts.evaluations) == 1
    for card in (facts, None):
        folders = (
            write_model_folder(tmp_path / f"model-{card is None}", base, processor, card=card),
            write_adapter_folder(tmp_path / f"adapter-{card is None}", model, processor, card=card),
        )
        for folder in folders:
            text = (folder / "README.md").read_text()
            assert str(tmp_path) not in text and token not in text
            assert not re.search(r"information needed|\btodo\b|\btbd\b|<[a-z_ ]+>|\[\[| nan\b", text, re.IGNORECASE)


def test_the_picture_shows_what_the_model_predicts(tmp_path, photograph):
    pytest.importorskip("matplotlib")
    model, processor = make_pair()
    model.train()
    picture = np.asarray(sample_picture(model, processor, photograph))
    assert model.training and model.depth_head.training
    model.eval()
    image = Image.open(photograph).convert("RGB")
    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[(750, 1000)])
    depth = result["predicted_depth"].numpy()
    colours = Image.fromarray(colourise(depth, *depth_limits(depth))).resize((400, 300), Image.Resampling.BOX)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (1, 400, 3))[:, :, 0]
    rows = [(windows == np.asarray(colours)[row]).all(axis=(2, 3, 4)).any() for row in (0, 150, 299)]
    assert rows == [True, True, True]


def test_the_picture_and_its_photograph_are_small_and_say_nothing_of_where_they_were_taken(tmp_path, photograph):
    pytest.importorskip("matplotlib")
    model, processor = make_pair()
    folder = write_model_folder(tmp_path / "model", model, processor, card=CardFacts(photograph=photograph))
    for name in ("sample.jpg", "sample_photograph.jpg"):
        assert (folder / name).stat().st_size < 200_000
        assert not Image.open(folder / name).getexif()
    assert Image.open(folder / "sample_photograph.jpg").size == (640, 480)
    text = (folder / "README.md").read_text()
    assert "](sample.jpg)" in text and 'estimate("sample_photograph.jpg")' in text


def test_without_a_photograph_the_picture_shows_a_rendered_room_of_this_project(tmp_path):
    pytest.importorskip("matplotlib")
    example = sample_pictures.example_photograph()
    assert example.parent.name == "examples"
    folder = write_model_folder(tmp_path / "model", *make_pair(), card=CardFacts())
    published, original = Image.open(folder / "sample_photograph.jpg"), Image.open(example)
    assert published.width / published.height == pytest.approx(original.width / original.height, abs=0.01)
    difference = np.asarray(published, dtype=float) - np.asarray(original.resize(published.size), dtype=float)
    assert np.abs(difference).mean() < 10


def test_noise_is_made_small_too():
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    content = sample_pictures._small_jpeg(Image.fromarray(noise))
    assert len(content) < 200_000 and Image.open(io.BytesIO(content)).size == (640, 640)


def test_a_photograph_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    (tmp_path / "photo.jpg").write_text("no picture")
    for name in ("photo.jpg", "missing.jpg"):
        with pytest.raises(ValueError, match=f"`photograph` is .*{name}"):
            write_model_folder(tmp_path / "model", *make_pair(), card=CardFacts(photograph=tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_without_matplotlib_a_chosen_photograph_is_refused_and_the_default_one_left_out(
    tmp_path, photograph, monkeypatch
):
    find_spec = importlib.util.find_spec
    without = lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(sample_pictures, "example_photograph", lambda: photograph)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        write_model_folder(tmp_path / "model", *make_pair(), card=CardFacts(photograph=photograph))
    assert not (tmp_path / "model").exists()
    folder = write_model_folder(tmp_path / "model", *make_pair(), card=CardFacts())
    assert not list(folder.glob("sample*")) and (folder / "README.md").is_file()


def test_sharded_weights_are_drawn_from_the_folder(tmp_path, photograph, monkeypatch):
    """A forward pass of the model would wait for processes that are not asked."""
    pytest.importorskip("matplotlib")
    model, processor = make_pair()
    state_dict = model.state_dict()

    def fail(*args, **kwargs):
        raise AssertionError("the sharded model was called")

    monkeypatch.setattr(model, "forward", fail)
    folder = write_model_folder(tmp_path / "model", model, processor, state_dict, CardFacts(photograph=photograph))
    assert (folder / "sample.jpg").is_file()


def test_an_adapter_names_its_base_on_the_hub_at_the_commit_that_was_loaded(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    put_in_hub_cache(write_model_folder(tmp_path / "base", *make_pair()), cache, "user/base", "main", BASE_COMMIT)
    base, processor = load_model_and_processor("user/base", device="cpu")
    model, _ = make_adapted(base)
    folder = write_adapter_folder(tmp_path / "adapter", model, processor)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("user/base", BASE_COMMIT)
    card = ModelCard.load(folder / "README.md")
    data = front_matter(card)
    assert (data["library_name"], data["base_model"]) == ("peft", "user/base")
    assert data["base_model_relation"] == "adapter" and "lora" in data["tags"]
    assert f'base, base_revision = "user/base", "{BASE_COMMIT}"' in section(card, "Quick start")
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert section(card, "Size").startswith(f"{trained:,} weights: LoRA in 8 layers of the vision encoder (rank 4")
    assert "4 layers of the language model (rank 2" in section(card, "Size")
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        own = [name for name, weight in model.named_parameters() if weight.requires_grad]
        original = load_model_and_processor("user/base", device="cpu")[0].state_dict()
        brought = [name.replace(".modules_to_save.default", "") for name in own]
        assert weights.metadata()[FINGERPRINT_KEY] == base_fingerprint(original, brought)
    loaded, own_processor = load_model_and_processor(folder, device="cpu")
    assert loaded.config.num_prototypes == 10 and own_processor.max_prompt_length == 96


def test_a_commit_that_cannot_be_told_is_not_guessed(tmp_path, monkeypatch):
    """The base may have been loaded at another revision than the main branch, which is in the cache as well."""
    pytest.importorskip("peft")
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for revision, commit in (("main", BASE_COMMIT), ("v1", "2" * 40)):
        put_in_hub_cache(write_model_folder(tmp_path / revision, *make_pair()), cache, "user/base", revision, commit)
    base, processor = load_model_and_processor("user/base", revision="v1", device="cpu")
    noted = getattr(base.config, "_commit_hash", None)
    model, _ = make_adapted(base, "user/base")
    folder = write_adapter_folder(tmp_path / "untold", model, processor)
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == noted != BASE_COMMIT
    model.peft_config["default"].revision = "v1"
    folder = write_adapter_folder(tmp_path / "told", model, processor)
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == "2" * 40


def test_the_base_of_the_card_goes_into_the_configuration_too(tmp_path):
    model, _ = make_adapted(make_pair()[0], "/somewhere/base")
    facts = CardFacts(base="user/base", base_revision=BASE_COMMIT)
    folder = write_adapter_folder(tmp_path / "adapter", model, make_pair()[1], card=replace(facts))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("user/base", BASE_COMMIT)
    assert model.peft_config["default"].base_model_name_or_path == "/somewhere/base"


def test_a_base_that_nobody_else_has_is_not_linked(tmp_path):
    model, _ = make_adapted(make_pair()[0], "/somewhere/base")
    folder = write_adapter_folder(tmp_path / "adapter", model, make_pair()[1])
    card = ModelCard.load(folder / "README.md")
    assert "base_model" not in front_matter(card) and "/somewhere" not in card.content
    assert "not on the Hub yet" in card.text


def test_evaluations_are_added_to_a_card_that_was_written_before(tmp_path):
    facts = CardFacts("user/mine", training=make_record())
    folder = write_model_folder(tmp_path / "model", *make_pair(), card=facts)
    measured = replace(facts, evaluations=[make_report()])
    add_evaluations(folder, measured)
    assert (folder / "README.md").read_text().rstrip() == model_card(
        *make_pair(), measured, with_sample=(folder / "sample.jpg").is_file()
    ).content.rstrip()
    with pytest.raises(ValueError, match="no place for evaluations"):
        add_evaluations(folder, measured)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"repo_id": "/home/me/model"}, "`repo_id` has '/home/me/model'"),
        ({"base": "../base"}, "`base` has '../base'"),
        ({"datasets": ["user/data", "a/b/c"]}, "`datasets` has 'a/b/c'"),
        ({"evaluations": [{"metrics": {}}]}, "`stored` is not what `llm-mde evaluate` writes"),
        ({"evaluations": ["/nowhere/metrics.json"]}, r"`file` is '/nowhere/metrics\.json'"),
    ],
)
def test_wrong_facts_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        CardFacts(**facts)


def test_a_run_tells_what_it_has_and_a_damaged_file_is_named(tmp_path):
    assert CardFacts.from_run(tmp_path, licence="mit") == CardFacts(licence="mit")
    with pytest.raises(ValueError, match=r"`output_dir` is .*nothing"):
        CardFacts.from_run(tmp_path / "nothing")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text('{"setting":')
    with pytest.raises(ValueError, match=r"`file` is .*metrics\.json.*no result"):
        CardFacts.from_run(tmp_path)


def test_a_run_does_not_take_the_errors_of_another_model(tmp_path):
    for name in ("model", "adapter"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
    (tmp_path / "run" / "adapter").rmdir()
    own, gone = tmp_path / "run" / "model", tmp_path / "before it was moved" / "model"
    others = (tmp_path / "elsewhere" / "model", tmp_path / "run" / "adapter", "user/rooms", tmp_path / "run" / "base")
    for name, count in [(own, 1), (gone, 1), *((other, 0) for other in others)]:
        make_report(model=str(name)).write(tmp_path / "run" / "evaluation")
        assert len(CardFacts.from_run(tmp_path / "run").evaluations) == count, name
    assert len(CardFacts.from_run(tmp_path / "run", evaluations=[make_report()]).evaluations) == 1


def test_a_stored_report_says_what_the_fresh_one_said(tmp_path):
    report = make_report("kitti-garg", num_resamples=20, command="llm-mde evaluate")
    report.write(tmp_path)
    stored = EvaluationReport.read(tmp_path / "metrics.json")
    assert stored.table() == report.table()
    assert [vars(result) for result in stored.eval_results()] == [vars(result) for result in report.eval_results()]
    assert stored.to_dict()["metrics"] == report.to_dict()["metrics"]
    fresh, again = report.conditions(), stored.conditions()
    assert fresh.keys() == again.keys() and fresh["intervals"] == again["intervals"]
    assert EvaluationReport.from_dict(stored.to_dict()) == stored
    with (tmp_path / "per_image.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def run_cards(folders: list[Path], where: Path | None, environment: dict[str, str], blocks: int = 1) -> None:
    """The first code blocks of cards, as they stand, in a process that cannot import the package."""
    lines = ["import os, sys", 'sys.modules["llm_mde"] = None']
    for folder in folders:
        code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[:blocks]
        assert len(code) == blocks
        lines += [f"os.chdir({str(where or folder)!r})", *code]
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert len(re.findall(r"^\d+\.\d\d to \d+\.\d\d", process.stdout, re.MULTILINE)) == len(folders)


def offline(home: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HOME": str(home)}


@pytest.mark.slow
def test_the_lines_of_the_cards_of_folders_run_in_them(tmp_path, photograph):
    pytest.importorskip("matplotlib")
    with_sample = write_model_folder(tmp_path / "model", *make_pair(), card=CardFacts(photograph=photograph))
    folders = [with_sample, write_model_folder(tmp_path / "plain", *make_pair())]
    if importlib.util.find_spec("peft"):
        base = LLMMDEForDepthEstimation.from_pretrained(folders[1])
        folders.append(write_adapter_folder(tmp_path / "adapter", make_adapted(base, "../plain")[0], make_pair()[1]))
    for folder in folders[1:]:
        shutil.copy(photograph, folder / "room.jpg")
    run_cards(folders, None, offline(tmp_path / "home"))


@pytest.mark.slow
def test_the_lines_of_published_cards_run_elsewhere(tmp_path, photograph, hub_server):
    """At the commits that they name; the main branch of the base has gone on to another model since."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("peft")
    api = HfApi(endpoint=hub_server.url, token=hub_server.token)

    def publish(folder, name) -> str:
        api.create_repo(name, exist_ok=True)
        return api.upload_folder(repo_id=name, folder_path=folder, delete_patterns="*").oid

    facts = {"photograph": photograph}
    base = write_model_folder(tmp_path / "base", *make_pair(), card=CardFacts("tester/base", "v1", **facts))
    base_commit = publish(base, "tester/base")
    model, processor = load_model_and_processor("tester/base", revision=base_commit, device="cpu")
    adapted, _ = make_adapted(model, "tester/base")
    adapted.peft_config["default"].revision = base_commit
    adapter = write_adapter_folder(
        tmp_path / "adapter", adapted, processor, card=CardFacts("tester/adapter", "v1", **facts)
    )
    publish(adapter, "tester/adapter")
    for name in ("tester/base", "tester/adapter"):
        api.create_tag(name, tag="v1")
    publish(write_model_folder(tmp_path / "later", *make_pair(num_prototypes=11)), "tester/base")
    blocks = 1 if version.parse(transformers.__version__) < version.parse("5.23") else 2
    (tmp_path / "elsewhere").mkdir()
    environment = hub_environment(hub_server, tmp_path)
    run_cards([base], tmp_path / "elsewhere", environment)
    run_cards([adapter], tmp_path / "elsewhere", environment, blocks)
