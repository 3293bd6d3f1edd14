"""What is finished stays, what was cut off is done again, and settings do not mix."""

import json
from dataclasses import dataclass, field

import pytest

from llm_mde.public_names import without_place
from llm_mde.studies.run_log import RunLog, data_digest, model_digest, settings_of, versions

SETTINGS = {"max_steps": 3, "model": "base"}
ROWS = [{"variant": "LLM-MDE", "at": 2, "abs_rel": 0.25}]


def test_a_finished_run_is_found_again(tmp_path):
    log = RunLog(tmp_path, "few-shot", SETTINGS)
    log.append("2 shots", 0, ROWS)
    log.append("constants", None, [])
    records = RunLog(tmp_path, "few-shot", SETTINGS).records
    assert list(records) == [("2 shots", 0), ("constants", None)]
    assert records["2 shots", 0]["rows"] == ROWS
    assert records["2 shots", 0]["versions"] == versions()
    assert {"python", "torch", "transformers", "llm-mde"} <= set(versions())


def test_a_line_that_was_cut_off_is_dropped_for_good(tmp_path):
    log = RunLog(tmp_path, "few-shot", SETTINGS)
    log.append("2 shots", 0, ROWS)
    whole = log.path.read_bytes()
    log.append("2 shots", 1, ROWS)
    log.path.write_bytes(log.path.read_bytes()[:-7])
    resumed = RunLog(tmp_path, "few-shot", SETTINGS)
    assert list(resumed.records) == [("2 shots", 0)]
    assert log.path.read_bytes() == whole
    resumed.append("2 shots", 1, ROWS)
    assert [json.loads(line)["seed"] for line in log.path.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize(
    ("study", "settings", "message"),
    [
        ("lora", SETTINGS, "holds the study 'few-shot'"),
        ("few-shot", SETTINGS | {"max_steps": 4}, r"max_steps=3 \(now 4\)"),
        ("few-shot", SETTINGS | {"method": "full"}, r"method=None \(now 'full'\)"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(study, settings, message, tmp_path):
    RunLog(tmp_path, "few-shot", SETTINGS).append("2 shots", 0, ROWS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        RunLog(tmp_path, study, settings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_lists_and_places_are_no_settings():
    @dataclass
    class Arguments:
        model: str = "/home/me/models/base"
        data: str = "user/frames"
        output: str = "here"
        max_steps: int = 3
        seeds: list[int] = field(default_factory=lambda: [0, 1])

    assert settings_of(Arguments()) == {"model": "base", "data": "user/frames", "max_steps": 3}
    assert without_place("relative/frames") == "relative/frames"
    assert without_place("/home/me/my frames") == "my frames"
    settings = "split_list=/home/me/list.txt,layout=kitti,data_config=a/b"
    assert without_place(f"/home/me/kitti:{settings}") == "kitti:split_list=list.txt,layout=kitti,data_config=a/b"


@dataclass
class Places:
    model: str
    data: str


def write_files(folder, **contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_another_model_of_the_same_name_is_not_done_before(tmp_path):
    config, same_size = "{}", ("weights a", "weights b")
    models = [
        write_files(tmp_path / place / "model", config_json=config, model_safetensors=weights)
        for place, weights in zip("ab", same_size, strict=True)
    ]
    data = write_files(tmp_path / "frames", index_csv="rgb,depth")
    first, second = (settings_of(Places(str(model), str(data))) for model in models)
    assert first["model"] == second["model"] == "model"
    RunLog(tmp_path, "few-shot", first).append("2 shots", 0, ROWS)
    assert list(RunLog(tmp_path, "few-shot", first).records) == [("2 shots", 0)]
    with pytest.raises(ValueError, match="model_content="):
        RunLog(tmp_path, "few-shot", second)
    assert str(tmp_path) not in (tmp_path / "study.json").read_text()


def test_a_model_is_its_configuration_and_weights_wherever_it_lies(tmp_path):
    model = {"config_json": "{}", "model_safetensors": "weights"}
    digest = model_digest(write_files(tmp_path / "a", **model))
    assert model_digest(write_files(tmp_path / "b" / "renamed", **model, README_md="a card")) == digest
    assert model_digest(write_files(tmp_path / "c", **model | {"config_json": "[]"})) != digest


def test_data_is_its_index_or_the_names_and_sizes_of_its_files(tmp_path):
    index = data_digest(write_files(tmp_path / "a", index_csv="rgb,depth"))
    assert data_digest(write_files(tmp_path / "b", index_csv="rgb,depth", notes_txt="x")) == index
    assert data_digest(write_files(tmp_path / "c", index_csv="rgb,DEPTH")) != index
    pairs = [{"1_png": "12"}, {"2_png": "12"}, {"1_png": "123"}]
    digests = {data_digest(write_files(tmp_path / str(number), **files)) for number, files in enumerate(pairs)}
    assert len(digests) == 3
    assert data_digest(write_files(tmp_path / "again", **pairs[0])) in digests
    assert data_digest(tmp_path / "again" / "1.png") not in digests  # a list of splits: its content
