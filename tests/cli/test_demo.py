"""`llm-mde demo` from the first argument to the last file, on a handful of frames and two training steps."""

import json

import pytest
from PIL import Image

from llm_mde.cli import main
from llm_mde.demonstration import MARK, train_demonstration_model
from llm_mde.hub.cards import CardFacts
from llm_mde.hub.publishable import check_folder
from llm_mde.processing import DEPTH_WORDS, ImageStatistics, read_depth_png, write_prompt
from llm_mde.training.small_model import build_tokenizer
from tests.processing.data_folders import write_noise_pairs


@pytest.fixture
def frames(tmp_path):
    """Ten pairs in the layout a user makes in a minute: rgb/ and depth/ with the same names."""
    return write_noise_pairs(tmp_path / "frames", 10, (48, 64))


@pytest.mark.slow
def test_the_demo_leaves_a_picture_metres_prompts_metrics_and_a_model(frames, tmp_path, capsys):
    pytest.importorskip("accelerate")
    pytest.importorskip("matplotlib")
    skimage_data = pytest.importorskip("skimage.data")
    output = tmp_path / "output"
    for _ in range(2):  # a second run replaces the first
        main(["demo", "--data", str(frames), "--output", str(output), "--steps", "2"])
    printed = capsys.readouterr().out
    assert "the median" in printed
    assert "demonstration" in printed

    report = json.loads((output / "metrics.json").read_text())
    assert len(report["validation"]) == 2
    assert all(row["num_images"] == 2 and 0 < row["abs_rel"] < 10 for row in report["validation"].values())
    assert {name.partition(":")[0] for name in report["photographs"]} == {"held-out frame", "motorcycle"}
    assert len(report["photographs"]) == 4

    depth = read_depth_png(output / "motorcycle_depth_mm.png")
    with Image.open(output / "motorcycle_depth_mm.png") as stored:
        assert stored.mode.startswith("I")
    assert depth.shape == skimage_data.stereo_motorcycle()[0].shape[:2]
    assert 0 < depth.min() <= depth.max() <= 10
    assert "Pixel values range from" in (output / "motorcycle_prompt.txt").read_text()
    with Image.open(output / "picture.png") as picture:
        assert picture.width > 3 * 240
    assert not list(output.glob(".*"))

    # The model may be published as it is, with a card that says where it comes from and how far off it is.
    assert check_folder(output / "model") == "model"
    assert (output / "model" / MARK).is_file()
    card = (output / "model" / "README.md").read_text()
    assert "Started from random weights" in card
    assert "Trained on 8 frames of `frames` (train)" in card
    assert "Protocol plain, on frames / val" in card
    (evaluation,) = CardFacts.from_run(output).evaluations
    (name,) = [name for name in report["validation"] if name.startswith("LLM-MDE")]
    assert evaluation.result.metrics["abs_rel"] == report["validation"][name]["abs_rel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "`--steps` is 0"),
        (["--data", "/no/such/folder"], "there is no such folder"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--output", str(tmp_path / "output"), *arguments])
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["model", "adapter", "base"])
def test_a_model_that_no_demonstration_made_is_not_replaced(name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    with pytest.raises(SystemExit):
        main(["demo", "--output", str(tmp_path)])
    assert f"which holds {name!r} of a training" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_would_be_overwritten_or_cannot_be_trained_is_said_before_the_training(frames, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"`folder` is .*mine', which exists and is not empty"):
        train_demonstration_model(tmp_path / "mine", frames, steps=10**6)
    with pytest.raises(ValueError, match="`steps` is 0"):
        train_demonstration_model(tmp_path / "model", frames, steps=0)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_without_frames_rooms_are_rendered_for_the_training_and_removed(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    pytest.importorskip("mitsuba")
    monkeypatch.setattr("llm_mde.demonstration.NUM_ROOMS", 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    messages = []
    made = train_demonstration_model(tmp_path / "model", steps=1, on_message=messages.append)
    assert made.folder == tmp_path / "model"
    assert (made.record.data.num_frames, made.record.eval_data.num_frames) == (4, 1)
    assert made.record.data.name == "rendered_rooms"
    assert messages[0].startswith("4 frames to train on and 1 to measure with")
    assert not list((tmp_path / "scratch").iterdir())


def test_the_tokenizer_of_the_demo_spells_every_prompt_without_unknown_words():
    tokenizer = build_tokenizer()
    for word in DEPTH_WORDS:
        prompt = write_prompt(ImageStatistics(0, 255, 117, word), dataset="A Zürich tram, 80 metres (or more)!")
        ids = tokenizer(prompt)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 128


def test_the_motorcycle_is_as_far_away_as_its_calibration_says():
    """Middlebury 2014: depth between about 2 and 5 metres."""
    pytest.importorskip("skimage.data")
    from llm_mde.cli.demo import _real_photographs

    motorcycle, coffee = _real_photographs(None)
    measured = motorcycle.depth[motorcycle.depth > 0]
    assert 1.9 < measured.min() < 2.5
    assert 4 < measured.max() < 5.5
    assert coffee.depth is None
