"""Tables and plots of rows whose means and deviations can be worked out by hand."""

import csv
import io
import math
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image

from llm_mde.evaluation import get_protocol
from llm_mde.public_names import public_command
from llm_mde.studies.report import _draw_curves, _Point, aggregate, write_report
from llm_mde.studies.runner import Study

ROWS = [
    {
        "variant": "LoRA",
        "at": 4,
        "abs_rel": 0.1,
        "seconds": 30.0,
        "num_images": 4,
        "num_train_frames": 8,
        "loss": "SILog",
    },
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


@dataclass
class Bench:
    options: type = Options
    data: Data | None = field(default_factory=Data)


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
    write_report(tmp_path, study, Bench(), "llm-mde study lora", RECORDS)
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
    assert "- frames trained on: 8\n- images measured with: 4\n" in table
    assert "- training loss, the same in all runs: SILog\n- versions: torch 2.0\n" in table
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
    write_report(tmp_path, study, Bench(), "", records)
    with Image.open(io.BytesIO((tmp_path / "plot.png").read_bytes())) as plot:
        assert plot.width > 400
        assert plot.convert("L").getextrema()[0] < 100


def test_a_command_line_is_kept_without_the_folders_of_a_machine():
    words = ["llm-mde", "study", "--data", "/home/me/my frames", "--model", "user/base", "--output=/home/me/out"]
    comment = "  # absolute paths are shortened to their last part"
    assert public_command(words) == f"llm-mde study --data 'my frames' --model user/base --output=out{comment}"
    assert public_command(["llm-mde", "study", "--data", "frames"]) == "llm-mde study --data frames"
    target = "--targets=/home/me/kitti:split_list=/home/me/list.txt,protocol=kitti-garg"
    assert public_command([target]) == f"--targets=kitti:split_list=list.txt,protocol=kitti-garg{comment}"


def test_one_run_has_no_deviation_and_a_tiny_one_is_not_zero(study, tmp_path):
    values = {"once": [0.3], "equal": [0.25, 0.25], "nearly": [0.2, 0.20001]}
    rows = [
        {"variant": name, "at": 4, "abs_rel": value, "seconds": 8}
        for name, column in values.items()
        for value in column
    ]
    records = [{"rows": [row], "versions": {}, "device": ""} for row in rows]
    write_report(tmp_path, study, Bench(), "", records)
    table = (tmp_path / "table.md").read_text()
    assert "| once | 4 | 1 | 0.3000 | 8 |" in table and "| equal | 4 | 2 | 0.2500 | 8 |" in table
    assert "| nearly | 4 | 2 | 0.2000 ± <0.0001 | 8 |" in table
    with (tmp_path / "table.csv").open() as lines:
        assert [row["abs_rel_std"] == "" for row in csv.DictReader(lines)] == [True, False, False]


def test_each_variant_states_its_loss_where_they_differ(study, tmp_path):
    records = [RECORDS[0], RECORDS[1] | {"rows": [ROWS[1] | {"loss": "SILog + 4 x relative error"}]}]
    write_report(tmp_path, study, Bench(), "", records)
    table = (tmp_path / "table.md").read_text()
    assert "- training loss of LoRA: SILog\n- training loss of frozen: SILog + 4 x relative error\n" in table


def test_a_study_adds_its_own_conditions(study, tmp_path):
    write_report(
        tmp_path, replace(study, conditions=lambda bench: {"street": bench.data.dataset}), Bench(), "", RECORDS
    )
    assert "- street: room\n" in (tmp_path / "table.md").read_text()


def test_lines_of_one_place_stand_together_where_places_have_names():
    rows = [{"variant": variant, "at": at, "abs_rel": 0.1} for variant in "ab" for at in ("room", "street")]
    places = [(line.at, line.variant) for line in aggregate(rows)]
    assert places == [("room", "a"), ("room", "b"), ("street", "a"), ("street", "b")]


def test_a_level_far_from_the_curves_does_not_flatten_them():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    curve = [_Point("LoRA", at, 0.1, 0.01) for at in (1, 16)]
    _draw_curves(axes, [*curve, _Point("base", None, 0.76, math.nan), _Point("median", None, 0.2, 0.01)])
    assert axes.get_ylim()[1] < 0.3
    labels = axes.get_legend_handles_labels()[1]
    assert "base: 0.7600, outside of the plot" in labels and "median: 0.2000 ± 0.0100" in labels
