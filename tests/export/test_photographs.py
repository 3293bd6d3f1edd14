"""Photographs for the export, from any folder that has some."""

import numpy as np
import pytest
from PIL import Image

from llm_mde.export.photographs import example_photographs, photographs_in
from llm_mde.processing import write_depth_png


def save_photographs(folder, count: int) -> None:
    """Photograph k is grey of level k, so that one can tell which were taken."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (12, 10), (index, index, index)).save(folder / f"{index:03}.png")


def levels_of(photographs) -> list[int]:
    return [np.asarray(photograph.convert("L"))[0, 0] for photograph in photographs]


def test_the_examples_came_with_the_package():
    assert len(example_photographs()) == 3
    assert all(isinstance(photograph, Image.Image) for photograph in example_photographs())


def test_photographs_are_taken_from_all_over_a_folder_and_always_the_same(tmp_path):
    save_photographs(tmp_path / "photos", 21)
    assert levels_of(photographs_in(tmp_path / "photos", 5)) == [0, 5, 10, 15, 20]
    assert levels_of(photographs_in(tmp_path / "photos", 100)) == list(range(21))
    assert levels_of(photographs_in(tmp_path, 3)) == [0, 10, 20]


def test_of_rgbd_frames_the_training_split_is_taken_and_no_depth_map(tmp_path):
    pytest.importorskip("datasets")
    save_photographs(tmp_path / "rgb", 20)
    (tmp_path / "depth").mkdir()
    for index in range(20):
        write_depth_png(tmp_path / "depth" / f"{index:03}.png", np.full((10, 12), 2.0))
    levels = levels_of(photographs_in(tmp_path, 100))
    assert len(levels) == 16
    assert set(levels) < set(range(20))


def test_photographs_beside_a_table_of_another_kind_are_photographs(tmp_path):
    save_photographs(tmp_path, 4)
    (tmp_path / "index.csv").write_text("name,licence\n000.png,CC0\n")
    assert levels_of(photographs_in(tmp_path, 4)) == [0, 1, 2, 3]


def test_incomplete_frames_are_refused_rather_than_their_depth_taken_for_photographs(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "rgb").mkdir()
    save_photographs(tmp_path / "depth", 3)
    with pytest.raises(ValueError, match="rgb"):
        photographs_in(tmp_path, 3)


def test_incomplete_frames_in_folders_of_splits_are_refused_as_well(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "val"):
        save_photographs(tmp_path / split / "rgb", 3)
        (tmp_path / split / "depth").mkdir()
        for index in range(2):
            write_depth_png(tmp_path / split / "depth" / f"{index:03}.png", np.full((10, 12), 2.0))
    with pytest.raises(ValueError, match="002"):
        photographs_in(tmp_path, 3)


def test_what_is_no_folder_or_has_no_photograph_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`calibration_data` is .*nowhere', which is no folder"):
        photographs_in(tmp_path / "nowhere", 3)
    with pytest.raises(ValueError, match="no photograph"):
        photographs_in(tmp_path, 3)
    (tmp_path / "words.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"`calibration_data` contains '.*words\.jpg', which cannot be read"):
        photographs_in(tmp_path, 3)
