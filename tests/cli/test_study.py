"""`llm-mde study NAME` from the first flag to the last file, for every study, in miniature."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde.cli import main
from llm_mde.cli.data_arguments import DataArguments
from llm_mde.evaluation import PROTOCOLS, MedianDepthBaseline, evaluate_depth
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.processing import load_depth_dataset
from llm_mde.studies import STUDIES, find_study, zero_shot
from llm_mde.studies.runner import Workbench
from llm_mde.studies.zero_shot import ZeroShotArguments
from tests.conftest import make_pair
from tests.studies.conftest import write_data

for package in ("peft", "datasets", "matplotlib", "accelerate"):
    pytest.importorskip(package)

SHORT = ("--max_steps", "2", "--batch_size", "4", "--mixed_precision", "no", "--use_cpu", "true")
MEDIAN = "median depth of the training frames"
MEAN_MAPS = [f"per-pixel mean depth ({mean}, 60 x 80 grid)" for mean in ("geometric", "arithmetic")]
Rows = dict[tuple[str, str], dict[str, str]]


def study(name: str, output: Path, *flags) -> Rows:
    """Runs a study and returns the lines of table.csv by variant and place."""
    main(["study", name, "--output", str(output), *map(str, flags)])
    return read_table(output)


def read_table(output: Path) -> Rows:
    with (output / "table.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    place = list(rows[0])[1]
    return {(row["variant"], "" if place == "num_runs" else row[place]): row for row in rows}


def check_files(output: Path, *places: Path) -> None:
    """All files are there and whole, means and deviations are those of runs.jsonl, and no folder is told."""
    assert sorted(path.name for path in output.iterdir()) == [
        *("plot.png", "runs.jsonl", "study.json", "table.csv", "table.md"),
    ]
    texts = [(output / name).read_text() for name in ("runs.jsonl", "study.json", "table.csv", "table.md")]
    assert not any(str(place) in text for place in places for text in texts)
    runs = [json.loads(line) for line in texts[0].splitlines()]
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in (row for run in runs for row in run["rows"]):
        groups.setdefault((row["variant"], "" if row["at"] is None else str(row["at"])), []).append(row)
    table = read_table(output)
    assert table.keys() == groups.keys()
    for key, rows in groups.items():
        assert int(table[key]["num_runs"]) == len(rows)
        for name in (name for name in rows[0] if name not in ("variant", "at", "loss")):
            values = [row[name] for row in rows]
            assert float(table[key][f"{name}_mean"]) == pytest.approx(np.mean(values))
            if len(values) > 1:
                assert float(table[key][f"{name}_std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            else:
                assert table[key][f"{name}_std"] == ""
    with Image.open(output / "plot.png") as plot:
        assert plot.width > 400 and plot.height > 200


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("studies") / "frames")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("studies") / "base", *make_pair())


def frames_of(data: Path, dataset: str, split: str | None):
    return load_depth_dataset(data, dataset=dataset, split=split)


def measured(model, processor, frames, **options) -> float:
    result = evaluate_depth(model, processor, frames, with_boundaries=False, progress=False, **options)
    return result.metrics["abs_rel"]


@pytest.mark.slow
def test_few_shots_from_end_to_end_and_again(data, base, tmp_path, capsys):
    output = tmp_path / "output"
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--shots_list", 2, 5]
    table = study("few-shot", output, *flags, "--seeds", 0, 1)
    check_files(output, tmp_path, data.parent)
    constants = [MEDIAN, *MEAN_MAPS]
    variants = ["LLM-MDE, lora", *constants]
    assert set(table) == {("zero-shot base", ""), *((name, shots) for name in variants for shots in ("2", "5"))}

    model, processor = load_model_and_processor(base, device="cpu")
    val = frames_of(data, "room", "val")
    untouched = measured(model, processor, val)
    assert float(table["zero-shot base", ""]["abs_rel_mean"]) == pytest.approx(untouched, rel=1e-5)
    few = frames_of(data, "room", "train").few_shot(5, seed=1)
    (run,) = (run for run in runs_of(output) if (run["run"], run["seed"]) == ("5 shots", 1))
    median = measured(None, None, val, predict=MedianDepthBaseline.fit(few))
    assert run["rows"][1]["abs_rel"] == pytest.approx(median)
    assert {row["num_train_frames"] for row in run["rows"]} == {5}
    assert {row["frames_seen_mean"] for (name, _), row in table.items() if "lora" in name} == {"8"}
    assert "peak_memory_mb" not in run["rows"][0]  # it would be that of this whole process

    before = (output / "runs.jsonl").read_bytes()
    (output / "table.md").unlink()
    capsys.readouterr()
    assert study("few-shot", output, *flags, "--seeds", 0, 1) == table
    assert capsys.readouterr().out.count("done before") == 5
    assert (output / "runs.jsonl").read_bytes() == before
    assert (output / "table.md").is_file()

    longer = study("few-shot", output, *flags, "--seeds", 0, 1, 2)  # other lists go on in the same folder
    assert longer["LLM-MDE, lora", "2"]["num_runs"] == "3"
    assert (output / "runs.jsonl").read_bytes().startswith(before)

    with pytest.raises(SystemExit):
        study("few-shot", output, *flags, "--learning_rate", "1e-3")
    assert "learning_rate=None (now 0.001)" in capsys.readouterr().err


def runs_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "runs.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(data, base, tmp_path):
    flags = ["--model", base, "--data", data, *SHORT, "--shots_list", 3, "--seeds", 4]
    first, second = (study("few-shot", tmp_path / name, *flags)["LLM-MDE, lora", "3"] for name in "ab")
    first.pop("seconds_mean"), second.pop("seconds_mean")
    assert first == second
    other = study("few-shot", tmp_path / "c", *flags[:-1], 5)["LLM-MDE, lora", "3"]
    assert first["abs_rel_mean"] != other["abs_rel_mean"]


@pytest.mark.parametrize("steps", [0, 2])
def test_zero_shots_from_end_to_end(steps, data, base, tmp_path):
    output = tmp_path / "output"
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--max_steps", steps]
    table = study("zero-shot", output, *flags, "--seeds", 0, 1)
    check_files(output, tmp_path, data.parent)
    aligned, oracle = "LLM-MDE, median aligned to each image", "median depth of the target (oracle)"
    places = ["room (source)", "street"]
    assert set(table) == {(name, place) for name in ("LLM-MDE", aligned, MEDIAN, oracle) for place in places}
    assert table["LLM-MDE", "street"]["num_runs"] == ("2" if steps else "1")

    street = frames_of(data, "street", None)
    assert float(table["LLM-MDE", "street"]["num_images_mean"]) == len(street) == 3
    medians = {MEDIAN: frames_of(data, "room", "train"), oracle: street}
    for name, frames in medians.items():
        expected = measured(None, None, street, predict=MedianDepthBaseline.fit(frames))
        assert float(table[name, "street"]["abs_rel_mean"]) == pytest.approx(expected)
    if steps == 0:
        model, processor = load_model_and_processor(base, device="cpu")
        protocol = replace(PROTOCOLS["plain"], alignment="median", clamp=True)
        expected = measured(model, processor, street, protocol=protocol)
        assert float(table[aligned, "street"]["abs_rel_mean"]) == pytest.approx(expected, rel=1e-5)


def test_a_target_may_be_a_folder_of_its_own(data, base, tmp_path):
    flags = ["--model", base, "--data", data, "--dataset", "street", *SHORT, "--max_steps", 0]
    table = study("zero-shot", tmp_path / "output", *flags, "--targets", data, "room", "--target_split", "val")
    assert {place for _, place in table} == {"street (source)", "frames", "room"}
    assert float(table["LLM-MDE", "frames"]["num_images_mean"]) == 5
    assert float(table["LLM-MDE", "room"]["num_images_mean"]) == 4


def test_a_target_takes_nothing_of_the_source_and_brings_its_own_settings(data, base, tmp_path):
    pairs = tmp_path / "pairs"
    for kind in ("rgb", "depth"):
        (pairs / kind).mkdir(parents=True)
        for number in range(2):
            name = f"street-train-{number}.png"
            shutil.copy(data / kind / name, pairs / kind / f"{number}.png")
    source = DataArguments(data=str(pairs), layout="pairs", depth_scale=0.002, eval_split="all", train_split="all")
    targets = [f"{data}:dataset=room,split=val,protocol=kitti-garg,protocol_max_depth=4.0,name=rooms", f"{data}"]
    options = ZeroShotArguments(model=str(base), use_cpu=True, targets=targets, protocol_max_depth=7.0)
    bench = Workbench(options, source)
    own, rooms, whole = zero_shot._targets(bench).values()
    assert own.data is source and own.protocol.max_depth == whole.protocol.max_depth == 7.0
    expected = DataArguments(data=str(data), eval_split="all")
    assert whole.data == expected  # no scale, no layout of the source
    assert rooms.data == replace(expected, dataset="room", eval_split="val")
    assert (rooms.protocol.max_depth, rooms.protocol.crop, rooms.protocol.clamp) == (4.0, "garg", True)
    rows = {(row["variant"], row["at"]): row for row in zero_shot._measure_medians(bench, None)}
    frames = frames_of(data, "room", "val")
    oracle = MedianDepthBaseline.fit(frames, protocol=rooms.protocol)
    assert rows[zero_shot.ORACLE, "rooms"]["abs_rel"] == measured(
        None, None, frames, predict=oracle, protocol=rooms.protocol
    )
    conditions = zero_shot._conditions(bench)
    assert conditions["frames"] == "part all"
    assert conditions["rooms"].startswith("part val; protocol kitti-garg (max_depth=4.0); ")


def test_a_named_target_is_not_cropped_as_the_source(data, base):
    options = ZeroShotArguments(model=str(base), use_cpu=True, targets=["street", "room:split=val,kb_crop=true"])
    bench = Workbench(options, DataArguments(data=str(data), dataset="room", kb_crop=True))
    _, street, room = zero_shot._targets(bench).values()
    assert (street.data.kb_crop, room.data.kb_crop) == (False, True)


@pytest.mark.parametrize("copied", [False, True])
def test_a_target_with_training_frames_is_refused(copied, data, base, tmp_path, capsys):
    """Without --dataset the source is every data set of the folder; a copy of the folder is the same frames."""
    flags = ["--model", base, "--data", data, *SHORT, "--max_steps", 0, "--targets"]
    target = "street"
    if copied:
        target = shutil.copytree(data, tmp_path / "copy")
        flags[4:4] = ["--dataset", "room"]
    with pytest.raises(SystemExit):
        study("zero-shot", tmp_path / "output", *flags, target)
    message = capsys.readouterr().err
    assert "of which frames are trained on, such as 'rgb/" in message and "split=val" in message
    assert not (tmp_path / "output").exists()


def test_a_target_that_its_protocol_does_not_fit_is_refused_before_anything_is_trained(data, base, tmp_path, capsys):
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--targets", "street:protocol=nyu-eigen"]
    with pytest.raises(SystemExit):
        study("zero-shot", tmp_path / "output", *flags)
    message = capsys.readouterr().err
    assert "`targets` has 'street': `protocol` is 'nyu-eigen', which does not fit" in message
    assert "`street:protocol=plain` fits any frames" in message
    assert not (tmp_path / "output" / "runs.jsonl").exists()


def test_versions_of_the_source_are_no_targets_by_default(base, tmp_path):
    (tmp_path / "index.csv").write_text("dataset,rgb\nnyu_v2,1\nnyu_v2_16bit,2\nnyu,3\nkitti,4\n")
    options = ZeroShotArguments(model=str(base), use_cpu=True)
    named = {
        source: list(zero_shot._targets(Workbench(options, DataArguments(data=str(tmp_path), dataset=source))))[1:]
        for source in ("nyu_v2", "nyu_v2_16bit", "kitti")
    }
    assert named == {"nyu_v2": ["kitti"], "nyu_v2_16bit": ["kitti"], "kitti": ["nyu_v2", "nyu_v2_16bit", "nyu"]}


def test_a_target_folder_of_the_same_name_is_another_run(data, base, tmp_path):
    names = []
    for place, count in (("a", 1), ("b", 2)):
        for kind in ("rgb", "depth"):
            (tmp_path / place / "frames" / kind).mkdir(parents=True)
            for number in range(count):
                files = (
                    data / kind / f"street-train-{number}.png",
                    tmp_path / place / "frames" / kind / f"{number}.png",
                )
                shutil.copy(*files)
        options = ZeroShotArguments(model=str(base), use_cpu=True, targets=[str(tmp_path / place / "frames")])
        names.append(zero_shot.plan(Workbench(options, DataArguments(data=str(data), dataset="room")))[0].name)
    assert names[0].startswith("LLM-MDE on room (source), frames [")
    assert names[0] != names[1] and not any(str(tmp_path) in name for name in names)


def test_frames_that_do_not_fit_into_memory_are_read_by_workers(data, base, tmp_path, monkeypatch):
    flags = ["--model", base, "--data", data, *SHORT, "--shots_list", 3, "--seeds", 0]
    flags += ["--augmentation", "none"]  # kept frames are reduced only if they are larger than twice the model's size
    kept = study("few-shot", tmp_path / "kept", *flags)
    monkeypatch.setattr("llm_mde.studies.runner._MOST_KEPT", 0)
    read = study("few-shot", tmp_path / "read", *flags)
    names = [name for name in kept["LLM-MDE, lora", "3"] if not name.startswith("seconds")]
    assert [kept["LLM-MDE, lora", "3"][name] for name in names] == [read["LLM-MDE, lora", "3"][name] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["base", "from scratch"])
def test_reprogramming_from_end_to_end(start, data, base, tmp_path):
    output = tmp_path / "output"
    base = ["--model", base] if start == "base" else ["--from_scratch", "true", "--image_height", 32]
    flags = [*base, "--data", data, "--dataset", "room", *SHORT, "--shots", 4, "--seeds", 0, 1]
    table = study("reprogramming", output, *flags)
    check_files(output, tmp_path, data.parent)
    variants = [variant for variant, _ in table]
    assert variants[0] == "LLM-MDE" and len(variants) == 8
    assert "training loss, the same in all runs: SILog" in (output / "table.md").read_text()
    assert variants[4] == "CNN (resnet18, random weights), same head"
    assert {row["num_runs"] for row in table.values()} == {"2"}  # constants too: seeds draw the shots
    trained = {variant: float(row["trained_parameters_mean"]) for (variant, _), row in list(table.items())[:4]}
    whole, linear, without, neither = trained.values()
    assert neither < min(linear, without) and max(linear, without) < whole
    assert whole - linear == pytest.approx(without - neither)  # what reprogramming has more than a projection


@pytest.mark.slow
def test_prototypes_from_end_to_end(data, base, tmp_path):
    output = tmp_path / "output"
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--seeds", 0, 1]
    table = study("prototypes", output, *flags, "--counts", 4, 10)
    check_files(output, tmp_path, data.parent)
    words, vocabulary = "all words", "all words, vocabulary instead of compact"
    depth_words, random_words = "depth and geometry words only", "as many random words"
    places = {(words, "4"), (words, "10"), (vocabulary, "10"), (depth_words, "10"), (random_words, "10")}
    assert places | {(name, "") for name in (MEDIAN, *MEAN_MAPS)} == set(table)
    model, processor = load_model_and_processor(base, device="cpu")
    num_words = {key: float(table[key]["num_words_mean"]) for key in places}
    assert num_words[words, "4"] == num_words[vocabulary, "10"] == len(processor.tokenizer)
    assert 10 <= num_words[depth_words, "10"] == num_words[random_words, "10"] < 32
    trained = {key: float(table[key]["trained_parameters_mean"]) for key in places}
    rank = model.text_prototypes.weight.shape[1]
    assert trained[words, "10"] - trained[words, "4"] == 6 * rank
    assert trained[vocabulary, "10"] - trained[words, "10"] == 10 * (len(processor.tokenizer) - rank)
    assert trained[words, "10"] - trained[depth_words, "10"] == 10 * (rank - num_words[depth_words, "10"])


def test_both_parametrisations_start_alike_and_part_in_training(base, data):
    from llm_mde.studies import prototypes

    options = prototypes.PrototypesArguments(model=str(base), max_steps=2, mixed_precision="no", use_cpu=True)
    bench = Workbench(options, DataArguments(data=str(data), dataset="room"))
    starts = {}
    bench.train_and_measure = lambda model, processor, seed: starts.update({len(starts): model}) or {}
    for words in (prototypes.ALL_WORDS, prototypes.VOCABULARY):
        prototypes._train(bench, words, 0, 10 if words == prototypes.ALL_WORDS else None)
    first, second = starts.values()
    assert first.text_prototypes.weight.shape != second.text_prototypes.weight.shape
    pixel_values = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(first(pixel_values).predicted_depth, second(pixel_values).predicted_depth)


@pytest.mark.parametrize("steps", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_prompts_from_end_to_end(steps, data, base, tmp_path):
    output = tmp_path / "output"
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--seeds", 0, 1]
    table = {variant: row for (variant, _), row in study("prompts", output, *flags, "--max_steps", steps).items()}
    check_files(output, tmp_path, data.parent)
    assert len(table) == 10
    assert table["full"]["num_runs"] == ("2" if steps else "1")
    assert table["another photograph's prompt"]["num_runs"] == "2"
    for row in table.values():  # two frames of the four have something near in the middle
        assert float(row["complexity_simple_mean"]) == 0 < float(row["complexity_complex_mean"])
        halves = [float(row[f"abs_rel_{half}_mean"]) for half in ("simple", "complex")]
        assert float(row["abs_rel_mean"]) == pytest.approx(np.mean(halves))
    if steps:
        return
    model, processor = load_model_and_processor(base, device="cpu")
    val = frames_of(data, "room", "val")
    assert float(table["full"]["abs_rel_mean"]) == pytest.approx(measured(model, processor, val), rel=1e-5)
    model.config.use_prompt = False
    assert float(table["no prompt"]["abs_rel_mean"]) == pytest.approx(measured(model, processor, val), rel=1e-5)
    assert len({row["abs_rel_mean"] for row in table.values()}) == 10  # every prompt is read


@pytest.mark.slow
def test_lora_from_end_to_end(data, base, tmp_path):
    output = tmp_path / "output"
    flags = ["--model", base, "--data", data, "--dataset", "room", *SHORT, "--seeds", 0]
    table = study("lora", output, *flags, "--ranks", 1, 3)
    check_files(output, tmp_path, data.parent)
    methods = [("LoRA", "1"), ("LoRA", "3"), ("full fine-tuning", ""), ("frozen encoders", "")]
    assert list(table)[:4] == methods and ("zero-shot base", "") in table
    one, three, full, frozen = (float(table[key]["trained_parameters_mean"]) for key in methods)
    # Query and value in 4 + 2 layers of width 32, each with rank x (32 + 32) weights.
    assert (one - frozen, three - frozen) == (12 * 64, 3 * 12 * 64)
    model, _ = load_model_and_processor(base, device="cpu")
    assert full == model.num_parameters() - model.word_basis.weight.numel()
    for key in methods:
        megabytes = 4e-6 * float(table[key]["trained_parameters_mean"])  # float32
        assert float(table[key]["trained_megabytes_mean"]) == pytest.approx(megabytes)
        assert float(table[key]["peak_memory_mb_mean"]) > 100


@pytest.mark.slow
def test_resources_from_end_to_end(base, tmp_path):
    output = tmp_path / "output"
    flags = ["--model", base, "--sizes", "32x32", "--cnn", "resnet18", "--rounds", 3, "--use_cpu", "true"]
    table = {variant: row for (variant, _), row in study("resources", output, *flags).items()}
    check_files(output, tmp_path, base.parent)
    cnn, whole, vision, language = table.values()
    assert list(table)[:2] == ["CNN (resnet18), same head", "LLM-MDE"]
    model, _ = load_model_and_processor(base, device="cpu")
    assert float(whole["parameters_mean"]) == model.num_parameters()
    assert float(vision["parameters_mean"]) == model.vision_tower.num_parameters()
    for row in table.values():
        assert float(row["gflop_ratio_mean"]) == pytest.approx(float(row["gflop_mean"]) / float(cnn["gflop_mean"]))
        memory = float(row["memory_above_libraries_mb_mean"])
        assert float(row["latency_ms_mean"]) > 0 and memory > 0
        cnn_memory = float(cnn["memory_above_libraries_mb_mean"])
        assert float(row["memory_ratio_mean"]) == pytest.approx(memory / cnn_memory)
    assert float(cnn["latency_ratio_mean"]) == 1
    assert float(cnn["parameters_mean"]) > 11e6 > float(language["parameters_mean"])
    assert "protocol" not in (output / "table.md").read_text()


@pytest.mark.slow
def test_presets_from_end_to_end(data, tmp_path):
    output = tmp_path / "output"
    flags = ["--data", data, "--dataset", "room", *SHORT, "--seeds", 0, "--from_scratch", "true"]
    table = study("presets", output, *flags)
    check_files(output, tmp_path, data.parent)
    paper, fast = table["paper", ""], table["fast", ""]
    # 96 x 128 pixels are 6 x 8 patches, which `fast` averages to 3 x 4.
    prompt, short_prompt = float(paper["language_tokens_mean"]) - 48, float(fast["language_tokens_mean"]) - 12
    assert 50 < prompt < 80 and 15 < short_prompt < 30
    assert 0 < float(fast["gflop_mean"]) < float(paper["gflop_mean"])
    assert all(0 < float(row["abs_rel_mean"]) < 5 for row in (paper, fast))


@pytest.mark.slow
@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="needs real RGB-D frames in LLM_MDE_DATA")
def test_zero_shots_on_real_frames(base, tmp_path):
    flags = ["--model", base, "--data", os.environ["LLM_MDE_DATA"], "--dataset", "tum_rgbd", *SHORT]
    table = study("zero-shot", tmp_path / "output", *flags, "--max_steps", 0, "--targets", "sun_rgbd", "kitti")
    assert {place for _, place in table} == {"tum_rgbd (source)", "sun_rgbd", "kitti"}
    assert all(0 < float(row["abs_rel_mean"]) < 20 for row in table.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vision_model", "/no/such/encoder"], "/no/such/encoder"),
        (["--from_scratch", "true", "--train_split", "val"], "which share frames, such as 'rgb/"),
        (["--from_scratch", "true", "--protocol", "nyu-eigen"], "`protocol` is 'nyu-eigen', which does not fit"),
        (["--from_scratch", "true", "--protocol_max_depth", "0.01"], "has measured depth where it counts"),
        (["--from_scratch", "true", "--shots_list", "1", "1000"], "`shots_list` has 1000, but there are "),
    ],
)
def test_what_makes_a_study_worthless_is_refused_before_it_trains(flags, message, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        study("few-shot", tmp_path / "output", "--data", data, "--shots_list", 2, *flags)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "output" / "runs.jsonl").exists()


def test_a_study_is_not_started_by_a_launcher(data, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        study("few-shot", tmp_path / "output", "--model", base, "--data", data)
    assert "without a launcher" in capsys.readouterr().err


def test_the_list_of_studies_and_the_flags_of_each(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["study", "--help"])
    assert exit_info.value.code == 0
    listing = capsys.readouterr().out
    assert all(f"  {name}" in listing for name in STUDIES)
    for name in STUDIES:
        assert find_study(name).name == name
        with pytest.raises(SystemExit) as exit_info:
            main(["study", name, "--help"])
        assert exit_info.value.code == 0
        printed = capsys.readouterr().out
        assert "--output" in printed
        assert ("--data " in printed) == (name != "resources")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["everything"], "there is no study 'everything'; choose one of few-shot"),
        (["few-shot"], "`data` is not given"),
        (["few-shot", "--data", "x"], "`source` is 'x': no such folder"),
        (["few-shot", "--model", "x", "--from_scratch", "true"], "give one of the two"),
        (["few-shot", "--from_scratch", "true", "--method", "lora"], "`from_scratch` is true but `method` is 'lora'"),
        (["few-shot", "--method", "all"], "`method` is 'all'"),
        (["few-shot", "--seeds", "1", "1"], "`seeds` is [1, 1]"),
        (["few-shot", "--shots_list", "0"], "`shots_list` is [0]"),
        (["few-shot", "--shots", "3", "--data", "x"], "pass --shots_list instead"),
        (["few-shot", "--streaming", "true", "--data", "x"], "`streaming` is on"),
        (["few-shot", "--max_steps", "0"], "`max_steps` is 0"),
        (["few-shot", "--protocol", "nyu"], "`protocol` is 'nyu'"),
        (["few-shot", "--augmentation", "wild"], "`augmentation` is 'wild'"),
        (["prompts", "--data", "x"], "nothing would be trained"),
        (["zero-shot", "--model", "x", "--data", "x", "--targets", "moon"], "`targets` has 'moon'"),
        (["zero-shot", "--model", "x", "--data", "x"], "`targets` is not given"),
        (["lora", "--from_scratch", "true"], "need weights that know something"),
        (["lora", "--ranks", "4", "4"], "`ranks` is [4, 4]"),
        (["zero-shot", "--model", "x", "--data", "x", "--targets", "a/b", "a/b"], "two data sets called 'a/b'"),
        (["zero-shot", "--model", "x", "--data", "x", "--targets", "a/b:scale=1"], "the known ones are name, split"),
        (["zero-shot", "--model", "x", "--data", "x", "--targets", "a/b:depth_scale=x"], "`depth_scale` is 'x'"),
        (["zero-shot", "--model", "x", "--data", "x", "--targets", "a/b:kb_crop=1"], "write true or false"),
        (["resources", "--sizes", "large"], "HEIGHTxWIDTH"),
        (["presets", "--data", "x", "--presets", "slow"], "`preset` is 'slow'; choose one of 'paper', 'fast'"),
        (["presets", "--data", "x", "--presets", "fast", "fast"], "give one or more different names"),
        (["presets", "--data", "x", "--model", "y"], "`model` is 'y', but every preset is composed anew"),
        (["presets", "--data", "x", "--preset", "fast"], "`preset` is 'fast', but every preset is composed anew"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        main(["study", *words])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
