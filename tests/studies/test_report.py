"""Tables and plots of rows whose means and deviations can be worked out by hand."""

import csv
import io
from dataclasses import dataclass

import pytest
from PIL import Image

from llm_mde.evaluation import get_protocol
from llm_mde.studies.report import aggregate, public_command, write_report
from llm_mde.studies.runner import Study

ROWS = [
    {"variant": "LoRA", "at": 4, "abs_rel": 0.1, "seconds": 30.0, "num_images": 4, "num_train_frames": 8},
    {"variant": "frozen", "at": None, "abs_rel": 0.4, "seconds": 5.0, "num_images": 4, "num_train_frames": 8},
    {"variant": "LoRA", "at": 4, "abs_rel": 0.3, "seconds": 50.0, "num_images": 4, "num_train_frames": 8},
    {"variant": "LoRA", "at": 64, "abs_rel": 0.2, "seconds": 50.0, "num_images": 4, "boundary_f1": None},
]
RECORDS = [{"rows": [row], "versions": {"torch": "2.0"}, "device": "CPU"} for row in ROWS]


@dataclass
class Data:
    data: str = "/home/me/frames"
    data_revision: str | None = None
    dataset: str | None = "room"


class Options:
    @staticmethod
    def chosen_protocol():
        return get_protocol("plain")


@pytest.fixture
def study() -> Study:
    return Study("lora", "What it asks.", Options, lambda bench: [], at="rank", columns=("seconds",))


def test_means_and_deviations_over_runs():
    lora, frozen, other = aggregate(ROWS)
    assert (lora.variant, lora.at, lora.num_runs) == ("LoRA", 4, 2)
    assert lora.means == pytest.approx({"abs_rel": 0.2, "seconds": 40, "num_images": 4, "num_train_frames": 8})
    assert lora.stds["abs_rel"] == pytest.approx(0.02**0.5)  # deviations of 0.1, divided by n - 1
    assert lora.stds["seconds"] == pytest.approx(200**0.5)
    assert (frozen.at, frozen.stds) == (None, {})
    assert "boundary_f1" not in other.means


def test_the_files_say_what_was_measured_and_how(study, tmp_path):
    write_report(tmp_path, study, Options, Data(), "llm-mde study lora", RECORDS)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["variant"], row["rank"], row["num_runs"]) for row in rows] == [
        ("LoRA", "4", "2"),
        ("frozen", "", "1"),
        ("LoRA", "64", "1"),
    ]
    assert float(rows[0]["abs_rel_mean"]) == pytest.approx(0.2)
    assert rows[1]["abs_rel_std"] == ""
    table = (tmp_path / "table.md").read_text()
    assert "# lora: what does the rank" in table and "What it asks." in table
    assert "| LoRA | 4 | 2 | 0.2000 ± 0.1414 | 40.0 ± 14.1 |" in table
    assert "| frozen |  | 1 | 0.4000 | 5.000 |" in table
    for line in ("- command: `llm-mde study lora`", "- protocol: plain", "- data: frames / room", "- device: CPU"):
        assert line in table
    assert "- frames trained on: 8\n- images measured with: 4\n- versions: torch 2.0\n" in table
    assert "/home" not in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "table.csv", "table.md"]


@pytest.mark.parametrize("places", [(4, 4, None), ("room", "street", "street"), (None, None, None)])
@pytest.mark.parametrize("metric", ["abs_rel", "delta1"])
def test_every_kind_of_table_has_a_plot(places, metric, study, tmp_path):
    values = [("LLM-MDE", 0.1), ("LLM-MDE", 0.3), ("median", 0.4)]
    records = [
        {"rows": [{"variant": variant, "at": place, metric: value}], "versions": {}, "device": ""}
        for (variant, value), place in zip(values, places, strict=True)
    ]
    write_report(tmp_path, study, Options, Data(), "", records)
    with Image.open(io.BytesIO((tmp_path / "plot.png").read_bytes())) as plot:
        assert plot.width > 400
        assert plot.convert("L").getextrema()[0] < 100


def test_a_command_line_is_kept_without_the_folders_of_a_machine():
    words = ["llm-mde", "study", "--data", "/home/me/my frames", "--model", "user/base", "--output=/home/me/out"]
    assert public_command(words) == "llm-mde study --data 'my frames' --model user/base --output=out"
