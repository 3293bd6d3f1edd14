"""Flags that name data, shared by the commands."""

import logging
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from llm_mde.cli.arguments import parse_arguments
from llm_mde.cli.data_arguments import DataArguments
from llm_mde.processing import StreamingDepthDataset, write_depth_png


@pytest.fixture
def folder(tmp_path):
    """Twenty pairs at 1.0 m to 2.9 m: blocks 5 and 10 of two frames each are for validation."""
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    for number in range(20):
        Image.new("RGB", (8, 6)).save(tmp_path / "rgb" / f"{number}.png")
        write_depth_png(tmp_path / "depth" / f"{number}.png", np.full((6, 8), 1 + number / 10))
    return tmp_path


def parse(*arguments):
    (parsed,) = parse_arguments("load", [DataArguments], list(arguments), "Loads.")
    return parsed


def test_flags_load_both_parts(folder):
    arguments = parse("--data", str(folder))
    assert len(arguments.load_train()) == 16
    assert arguments.load_eval().names == [f"rgb/{number}.png" for number in (8, 9, 18, 19)]


def test_all_is_everything(folder):
    assert len(parse("--data", str(folder), "--eval_split", "all").load_eval()) == 20


@pytest.mark.parametrize(("shots", "count"), [("4", 4), ("25%", 4), ("12.5%", 2), ("1%", 1)])
def test_shots_are_a_number_or_a_share_of_the_training_set_alone(folder, shots, count):
    arguments = parse("--data", str(folder), "--shots", shots)
    assert len(arguments.load_train()) == count
    assert len(arguments.load_eval()) == 4


def test_fewer_shots_lie_inside_more_of_the_same_seed(folder):
    arguments = parse("--data", str(folder), "--shots", "4", "--shots_seed", "3")
    four, eight = arguments.load_train().names, replace(arguments, shots="8").load_train().names
    assert set(four) < set(eight)
    assert replace(arguments, shots_seed=4).load_train().names != four
    by_run = replace(arguments, shots_seed=None)
    assert by_run.load_train(seed=arguments.shots_seed).names == four
    assert by_run.load_train(seed=4).names == replace(arguments, shots_seed=4).load_train().names


@pytest.mark.parametrize("shots", ["0", "ten", "-1", "0%", "100%", "5.5", ""])
def test_shots_that_are_neither_are_refused(shots):
    with pytest.raises(ValueError, match=f"`shots` is '{shots}'.*'10'.*'5%'"):
        DataArguments(data="frames", shots=shots)


def test_more_shots_than_frames_are_refused(folder):
    with pytest.raises(ValueError, match="`shots` is 17, but there are 16 samples"):
        parse("--data", str(folder), "--shots", "17").load_train()


def test_a_stream_is_shuffled_for_training_and_not_for_measuring(folder):
    arguments = parse("--data", str(folder), "--streaming")
    train, measured = arguments.load_train(seed=1), arguments.load_eval()
    assert isinstance(train, StreamingDepthDataset)
    names = [sample.name for sample in train]
    expected = parse("--data", str(folder)).load_train().names
    assert names != expected
    assert sorted(names) == sorted(expected)
    assert [sample.name for sample in measured] == [f"rgb/{number}.png" for number in (8, 9, 18, 19)]


def test_few_shots_of_a_stream_are_refused(folder):
    with pytest.raises(ValueError, match="`shots` is '4' and `streaming` is on"):
        parse("--data", str(folder), "--streaming", "--shots", "4")


def test_errors_name_the_flag_and_what_there_is(folder):
    with pytest.raises(ValueError, match=r"--eval_split test: `split` is 'test'.*'train' and 'val' only"):
        parse("--data", str(folder), "--eval_split", "test").load_eval()
    with pytest.raises(ValueError, match=r"--train_split_list eigen\.txt: `split_list`"):
        parse("--data", str(folder), "--train_split_list", "eigen.txt").load_train()
    with pytest.raises(ValueError, match="`data` is not given"):
        parse().load_eval()


def test_another_set_keeps_splits_and_crops_and_nothing_that_describes_the_first():
    first = parse("--data", "one", "--dataset", "nyu", "--depth_column", "d", "--eval_split", "test", "--kb_crop")
    assert first.of_another_set("two") == parse("--data", "two", "--eval_split", "test", "--kb_crop")
    own = parse("--data", "two", "--layout", "pairs", "--depth_scale", "0.01", "--eval_split", "test", "--kb_crop")
    assert first.of_another_set("two", "pairs", depth_scale=0.01) == own


def test_a_wrong_unit_is_refused_unless_told_otherwise(folder, caplog):
    arguments = parse("--data", str(folder), "--depth_scale", "1")
    with pytest.raises(ValueError, match=r"pass `depth_scale=0.001`.*--allow_implausible_depth"):
        arguments.load_train()
    with caplog.at_level(logging.INFO):
        frames = replace(arguments, allow_implausible_depth=True).load_train()
    assert frames.report.nearest == 1000
    assert "units unchecked: median 1" in caplog.text


def test_reports_are_logged_and_kept_and_nothing_is_printed(folder, caplog, capsys):
    with caplog.at_level(logging.INFO):
        frames = parse("--data", str(folder), "--shots", "2").load_train()
    assert "few shots (2, seed 42): 2 samples, median" in caplog.text
    assert f"(pairs, train): median {1.85:.2f} m" in caplog.text
    assert frames.report.num_samples == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_real_frames_load_by_flags():
    arguments = parse("--data", os.environ["LLM_MDE_DATA"], "--dataset", "nyu_v2", "--shots", "5%")
    train = arguments.load_train()
    assert len(train) == round(0.05 * len(replace(arguments, shots=None).load_train()))
    assert 0.7 < train.report.median < 6
