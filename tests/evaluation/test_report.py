"""Tables, files and pictures of an evaluation."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

from llm_mde.evaluation import (
    EvaluationReport,
    EvaluationSetting,
    MedianDepthBaseline,
    WorstCases,
    evaluate_depth,
    get_protocol,
)
from tests.conftest import make_pair
from tests.evaluation.conftest import make_sample, make_samples

SETTING = EvaluationSetting(model="models/mine", data="data/frames", dataset="rooms", split="val", revision="abc123")


def make_report(protocol="plain", samples=None, setting=SETTING, **options):
    samples = [make_sample(np.zeros((4, 5)), name="empty.png"), *make_samples(4)] if samples is None else samples
    results = [
        evaluate_depth(None, None, samples, protocol, predict=MedianDepthBaseline(depth), progress=False)
        for depth in (4.0, 7.0)
    ]
    return EvaluationReport(setting, results[0], {"baseline": results[1]}, **options)


def test_the_table_has_means_and_intervals_of_everybody_in_columns_that_line_up():
    report = make_report()
    lines = report.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["metric", "LLM-MDE", "baseline"]
    rows = {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])}
    assert set(rows) == set(report.result.metric_names)
    lower, upper = report.result.intervals()["rmse"]
    assert rows["rmse"][0] == f"{report.result.metrics['rmse']:.3f} [{lower:.3f}, {upper:.3f}]"
    assert rows["rmse"][1].startswith(f"{report.baselines['baseline'].metrics['rmse']:.3f} [")


def test_an_honest_card_prints_all_conditions():
    text = make_report(get_protocol("nyu-eigen", crop=None, flip_averaging=True)).markdown()
    for condition in (
        "models/mine at abc123",
        "data/frames / rooms / val",
        "images: 4, 1 more without a valid pixel",
        "protocol: nyu-eigen (crop=None, flip_averaging=True)",
        "0.001 to 10 m",
        "crop: none",
        "alignment: none",
        "clamped to the range; bilinear, align_corners=True",
        "flip averaging: on",
        "per image, then over images",
        "boundary_f1: Depth Pro's, but over measured pixels, and directions, thresholds and images without a boundary "
        "are left out; 4 images have a boundary",
        "95 %, 1000 bootstrap resamples",
    ):
        assert condition in text


def test_the_authors_protocol_is_labelled_and_has_deltas_only():
    report = make_report("authors-minmax")
    assert "authors-minmax: NOT COMPARABLE" in report.markdown()
    assert report.result.metric_names == ("delta1", "delta2", "delta3")
    (model,) = report.model_index()
    assert [metric["name"] for metric in model["results"][0]["metrics"]] == [
        f"delta{k} (authors-minmax, not comparable)" for k in (1, 2, 3)
    ]


def test_the_files_hold_the_numbers(tmp_path):
    report = make_report(seed=3, num_resamples=50)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "worst.png").write_bytes(b"of an earlier run")
    written = report.write(tmp_path / "results")
    names = ["metrics.json", "per_image.csv", "table.md", "model-index.yaml"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(names)

    stored = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert stored["metrics"] == report.result.metrics
    assert stored["intervals"]["silog"] == list(report.result.intervals(seed=3, num_resamples=50)["silog"])
    assert stored["baselines"]["baseline"]["metrics"] == report.baselines["baseline"].metrics
    assert stored["protocol"] == get_protocol("plain").to_dict()
    assert stored["setting"]["model"] == "models/mine"
    assert stored["bootstrap"] == {"level": 0.95, "seed": 3, "num_resamples": 50}
    assert stored["versions"]["torch"] == torch.__version__

    with (tmp_path / "results" / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["empty.png", *(f"rgb/{index}.png" for index in range(4))]
    assert (rows[0]["num_pixels"], rows[0]["abs_rel"]) == ("0", "")
    mean = math.fsum(float(row["abs_rel"]) for row in rows[1:]) / 4
    assert mean == pytest.approx(stored["metrics"]["abs_rel"], rel=1e-12)
    assert (tmp_path / "results" / "table.md").read_text() == report.markdown()


def test_the_block_for_the_hub_is_read_back_by_the_hub(tmp_path):
    report = make_report()
    report.write(tmp_path)
    block = yaml.safe_load((tmp_path / "model-index.yaml").read_text())["model-index"]
    name, results = model_index_to_eval_results(block)
    assert name == "mine"
    values = {result.metric_type: result.metric_value for result in results}
    assert values == pytest.approx(
        {name: report.result.metrics[name] for name in report.result.metric_names}, abs=1e-6
    )
    first = results[0]
    assert (first.task_type, first.dataset_name, first.dataset_split) == ("depth-estimation", "rooms", "val")
    assert first.dataset_args["protocol"]["name"] == "plain"


def test_a_metric_without_a_mean_is_null_and_left_out_of_the_block(tmp_path):
    report = make_report(samples=[make_sample(np.full((4, 5), 2.0))])  # a wall has no boundary
    report.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["boundary_f1"] is None
    assert "boundary_f1" not in (tmp_path / "model-index.yaml").read_text()
    assert "none" in next(line for line in report.table().splitlines() if "boundary_f1" in line)


def test_columns_measured_differently_do_not_share_a_table():
    plain, nearer = make_report(), make_report(get_protocol("plain", max_depth=5.0))
    with pytest.raises(ValueError, match="another protocol"):
        EvaluationReport(SETTING, plain.result, nearer.baselines)
    other = make_report(samples=make_samples(2))
    with pytest.raises(ValueError, match="other images"):
        EvaluationReport(SETTING, plain.result, other.baselines)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(ValueError, match="is a file"):
            make_report().write(folder)


def test_flags_that_change_how_data_is_read_stand_beside_the_numbers():
    whole = make_report()
    setting = replace(SETTING, data_flags={"kb_crop": True, "depth_scale": 0.005, "data_config": "outdoor"})
    cropped = make_report(setting=setting)
    assert "data flags: kb_crop=True, depth_scale=0.005, data_config=outdoor" in cropped.markdown()
    assert "data flags" not in whole.markdown()
    assert cropped.to_dict()["setting"]["data_flags"] == setting.data_flags
    (model,) = cropped.model_index()
    (dataset,) = (result["dataset"] for result in model["results"])
    assert dataset["config"] == "outdoor"
    assert dataset["args"]["data_flags"] == {"kb_crop": True, "depth_scale": 0.005}
    assert "data_flags" not in whole.model_index()[0]["results"][0]["dataset"]["args"]


def test_the_table_says_what_the_baselines_were_fitted_to():
    setting = replace(SETTING, train_data="data/streets", train_dataset="day", train_split="train")
    line = "baselines: fitted to data/streets / day / train, inside the protocol's range and crop"
    assert line in make_report(setting=setting).markdown()
    assert "baselines:" not in make_report().markdown()
    samples = [make_sample(np.full((480, 640), 2.0))]
    assert f"{line} (whole maps where" in make_report("nyu-eigen", samples, setting).markdown()


def test_the_command_and_the_versions_are_kept(tmp_path):
    make_report(command="llm-mde evaluate --model mine").write(tmp_path)
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["command"] == "llm-mde evaluate --model mine"
    assert {"llm_mde", "torch", "torchvision", "transformers", "pillow", "numpy", "python"} <= set(stored["versions"])


def test_folders_of_this_machine_are_not_published(tmp_path):
    places = {
        name: str(tmp_path / "private" / name) for name in ("model", "data", "split", "train_data", "train_split")
    }
    report = make_report(setting=EvaluationSetting(**places))
    for text in (report.markdown(), json.dumps(report.model_index())):
        assert "private" not in text
    lines = report.markdown().splitlines()
    assert "- model: model" in lines and "- data: data / split" in lines
    assert "fitted to train_data / train_split" in report.markdown()


def test_the_block_names_a_hub_data_set_whole_and_a_folder_by_its_own_name(tmp_path, monkeypatch):
    def named(model, data):
        (entry,) = make_report(setting=EvaluationSetting(model, data)).model_index()
        (dataset,) = (result["dataset"] for result in entry["results"])
        return entry["name"], dataset["type"], dataset["name"]

    (tmp_path / "nyu" / "test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nyu")
    assert named("user/mine", "user/nyu") == ("mine", "user/nyu", "user/nyu")
    assert named(".", ".") == ("nyu", "nyu", "nyu")
    assert named("test", "..") == ("test", tmp_path.name, tmp_path.name)
    monkeypatch.chdir(tmp_path)
    assert named("nyu/", "nyu/test") == ("nyu", "test", "test")  # a folder, though it reads like an id


def test_a_setting_says_what_the_model_sees():
    model, processor = make_pair()
    setting = EvaluationSetting.of(model.to(torch.bfloat16), processor, name="mine", data="frames", split="val")
    assert (setting.precision, setting.input_size, setting.split) == ("bfloat16", "32 x 32", "val")


def keep_worst(samples, num_cases, protocol="plain"):
    worst = WorstCases(num_cases)
    evaluate_depth(None, None, samples, protocol, predict=MedianDepthBaseline(2.0), on_image=worst, progress=False)
    return worst


def test_the_worst_images_come_first_and_the_others_are_let_go():
    depths = {"good": 2.5, "worst": 0.5, "bad": 1.0, "nothing": 0.0, "perfect": 2.0}
    samples = [make_sample(np.full((6, 8), depth), name=name) for name, depth in depths.items()]
    worst = keep_worst(samples, 2)
    assert worst.names == ["worst", "bad"]
    assert keep_worst(samples, 9).names == ["worst", "bad", "good", "perfect"]


def test_without_abs_rel_the_worst_have_the_smallest_delta1():
    samples = [make_sample([[1.0, 2.0, 9.0]], name="third"), make_sample([[1.0, 1.0, 9.0]], name="two thirds")]
    assert keep_worst(samples, 2, "authors-minmax").names == ["third", "two thirds"]


@pytest.mark.parametrize("protocol", ["plain", "authors-minmax"])
def test_the_sheet_shows_a_row_of_four_pictures_for_each_image(protocol):
    pytest.importorskip("matplotlib")
    red = make_sample(np.linspace(1, 9, 48).reshape(6, 8), name="red")
    red.image.paste((255, 0, 0), (0, 0, 8, 6))
    sheet = np.asarray(keep_worst([red, *make_samples(1)], 2, protocol).sheet(height=60))
    alone = np.asarray(keep_worst([red], 2, protocol).sheet(height=60))
    assert alone.shape[1] > 4 * 60 * 8 / 6
    assert sheet.shape[0] > 1.8 * alone.shape[0]
    assert (alone == (255, 0, 0)).all(axis=-1).sum() == 60 * 80  # the photograph
    assert not (alone == 128).all(axis=-1).any()  # nothing is missing
    assert (sheet == 128).all(axis=-1).any()  # a tenth of the other is


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="no image was kept"):
        WorstCases().sheet()
    with pytest.raises(ValueError, match="`num_cases` is 0"):
        WorstCases(0)
