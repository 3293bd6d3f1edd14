"""What is finished stays, what was cut off is done again, and settings do not mix."""

import json
from dataclasses import dataclass, field

import pytest

from llm_mde.studies.run_log import RunLog, settings_of, versions, without_place

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
