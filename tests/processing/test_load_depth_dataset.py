"""One function for every layout: what it recognises, what it refuses, and what it logs."""

import logging
import os
import sys

import numpy as np
import pytest
import transformers

from llm_mde.processing import RGBDFolder, load_depth_dataset
from llm_mde.processing.datasets import LAYOUTS, recognise_layout
from llm_mde.processing.depth_readers import FilePair, rows_of_pairs
from tests.processing.data_folders import index_row, write_index, write_pairs, write_photograph, write_raw


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# What each layout is recognised by; the first four also have rgb/ and depth/.
MARKS = {
    "index": ["index.csv", "rgb/1.png", "depth/1.png"],
    "nyu_labelled": ["nyu_depth_v2_labeled.mat", "splits.mat", "rgb/1.png", "depth/1.png"],
    "tum_rgbd": ["rgb.txt", "depth.txt", "rgb/1.0.png", "depth/1.0.png"],
    "pairs": ["rgb/1.png", "depth/1.png"],
    "nyu_raw": ["bedroom_0001/rgb_00000.jpg", "bedroom_0001/sync_depth_00000.png"],
    "kitti": ["2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png", "README.md"],
    "hub": ["data/train-00000-of-00001.parquet", "README.md"],
    "sun_rgbd": ["kv1/img_0063/image/1.jpg", "kv1/img_0063/depth_bfx/1.png", "kv1/img_0063/intrinsics.txt"],
    "diode": ["val/indoors/scene/scan/1.png", "val/indoors/scene/scan/1_depth_mask.npy"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised(tmp_path, layout):
    touch(*(tmp_path / mark for mark in MARKS[layout]))
    assert recognise_layout(tmp_path) == layout


DRIVE = "2011_09_26_drive_0001_sync"


@pytest.mark.parametrize(
    ("layout", "marks"),
    [
        ("pairs", ["train/rgb/1.png", "train/depth/1.png", "val/rgb/1.png", "val/depth/1.png"]),
        ("nyu_raw", ["bedroom_0001/rgb/1.png", "bedroom_0001/depth/1.png"]),
        ("tum_rgbd", ["rgbd_dataset_freiburg1_xyz/rgb.txt", "rgbd_dataset_freiburg1_xyz/depth.txt"]),
        ("kitti", [f"data_depth_annotated/train/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png"]),
        ("kitti", [f"raw/2011_09_26/{DRIVE}/image_02/data/0000000005.png"]),
        ("sun_rgbd", ["scene/image/1.jpg", "scene/depth/1.png", "scene/intrinsics.txt"]),
    ],
)
def test_other_forms_are_recognised(tmp_path, layout, marks):
    touch(*(tmp_path / mark for mark in marks))
    assert recognise_layout(tmp_path) == layout


def test_what_is_not_there_may_be_a_hub_id_with_one_slash(tmp_path):
    assert recognise_layout("user/some.name-2") == "hub"
    for source in ("frames", "/data/frames", "a/b/c"):
        with pytest.raises(ValueError, match="no such folder, and no Hub id"):
            recognise_layout(source)


def test_an_unknown_folder_is_refused_with_what_was_looked_for(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="no layout was recognised") as refusal:
        load_depth_dataset(tmp_path)
    assert all(f"{layout}: " in str(refusal.value) for layout in LAYOUTS)
    with pytest.raises(ValueError, match="no layout was recognised"):
        load_depth_dataset(tmp_path / "notes.txt")


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`layout` is 'nyu'; choose one of index, nyu_labelled"):
        load_depth_dataset(tmp_path, layout="nyu")
    with pytest.raises(ValueError, match="there is no such folder"):
        load_depth_dataset(tmp_path / "nowhere", layout="kitti")


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "hub"])
def test_a_folder_of_another_layout_is_refused(tmp_path, layout):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError):
        load_depth_dataset(tmp_path, layout=layout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "office"}, "`dataset` is 'office'.*layout 'pairs'"),
        ({"image_column": "image"}, "`image_column`"),
        ({"revision": "main"}, "`revision`"),
        ({"split_list": "eigen.txt"}, r"`split_list` is 'eigen\.txt'.*it takes depth_scale"),
    ],
)
def test_an_argument_of_another_layout_is_refused(tmp_path, options, message):
    write_pairs(tmp_path, ["1"])
    with pytest.raises(ValueError, match=message):
        load_depth_dataset(tmp_path, split=None, **options)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_positive_number(tmp_path, scale):
    write_pairs(tmp_path, ["1"])
    with pytest.raises(ValueError, match=f"`depth_scale` is {scale}; pass metres"):
        load_depth_dataset(tmp_path, split=None, depth_scale=scale)


def test_an_index_states_its_own_scale(tmp_path):
    write_pairs(tmp_path, ["1"])
    write_index(tmp_path, [index_row("1")])
    with pytest.raises(ValueError, match=r"`depth_scale` is 0.001.*it takes dataset"):
        load_depth_dataset(tmp_path, depth_scale=0.001)


def test_folders_of_pairs_load_as_by_their_class(tmp_path):
    write_pairs(tmp_path, map(str, range(5)), metres=3)
    for split in ("train", "val", None):
        loaded, folder = load_depth_dataset(tmp_path, split=split), RGBDFolder(tmp_path, split=split)
        assert loaded.names == folder.names
        assert np.array_equal(loaded[0].depth, folder[0].depth)


def test_the_loader_logs_the_report(tmp_path, caplog):
    write_pairs(tmp_path, ["1"], metres=3)
    with caplog.at_level(logging.INFO):
        load_depth_dataset(tmp_path, split=None)
    assert "median 3.00 m, 3.00 m to 3.00 m, 100.0% of the pixels measured (1 samples read)" in caplog.text


def test_the_verbosity_of_transformers_shows_the_report(tmp_path, caplog):
    write_pairs(tmp_path, ["1"], metres=3)
    shown, before = logging.getLogger("transformers"), transformers.logging.get_verbosity()
    shown.addHandler(caplog.handler)
    try:
        transformers.logging.set_verbosity_warning()
        load_depth_dataset(tmp_path, split=None)
        assert "median 3.00 m" not in caplog.text
        transformers.logging.set_verbosity_info()
        RGBDFolder(tmp_path, split=None)
        assert "(pairs, None): median 3.00 m" in caplog.text
    finally:
        transformers.logging.set_verbosity(before)
        shown.removeHandler(caplog.handler)


def test_a_missing_file_of_any_layout_is_refused_without_naming_lists_that_it_lacks(tmp_path):
    with pytest.raises(ValueError, match=r"1 of the files .* \(index\.csv, a split list\), take these out of it"):
        rows_of_pairs(tmp_path, [FilePair("1", write_photograph(tmp_path / "1.png"), tmp_path / "1.npy")])


def test_depth_that_cannot_be_metres_is_refused_unless_told_otherwise(tmp_path):
    write_photograph(tmp_path / "rgb" / "1.png")
    write_raw(tmp_path / "depth" / "1.png", 2500)
    with pytest.raises(ValueError, match=r"2500 m.*millimetres: pass `depth_scale=0.001`.*--allow_implausible_depth"):
        load_depth_dataset(tmp_path, split=None, depth_scale=1)
    assert load_depth_dataset(tmp_path, split=None, depth_scale=1, check_units=False).depth(0)[0, 0] == 2500
    assert load_depth_dataset(tmp_path, split=None).report.median == 2.5


def test_an_index_with_a_wrong_scale_is_told_which_column_to_correct(tmp_path):
    write_pairs(tmp_path, ["1", "2"], metres=3)
    write_index(tmp_path, [index_row("1", depth_scale_to_metres="1")])
    with pytest.raises(ValueError, match=r"`depth_scale_to_metres=1` .*pass `depth_scale_to_metres=0.001`"):
        load_depth_dataset(tmp_path)
    rows = [index_row("1", depth_scale_to_metres="1"), index_row("2", depth_scale_to_metres="2")]
    write_index(tmp_path, rows)
    with pytest.raises(ValueError, match="the values of `depth_scale_to_metres`"):
        load_depth_dataset(tmp_path)


def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch):
    write_pairs(tmp_path, ["1"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"`datasets`: pip install datasets"):
        load_depth_dataset(tmp_path, split=None)


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
@pytest.mark.parametrize("dataset", ["nyu_v2", "nyu_v2_16bit", "kitti", "tum_rgbd", "sun_rgbd", "7scenes_redkitchen"])
def test_real_frames_are_plausible_in_every_encoding(dataset):
    frames = load_depth_dataset(os.environ["LLM_MDE_DATA"], split=None, dataset=dataset)
    low, high = (8, 25) if dataset == "kitti" else (1, 4)
    assert low < frames.report.median < high
    assert frames[0].depth.shape == frames.depth(0).shape
    names = [sample.name for sample in load_depth_dataset(os.environ["LLM_MDE_DATA"], dataset=dataset, streaming=True)]
    assert names == load_depth_dataset(os.environ["LLM_MDE_DATA"], dataset=dataset).names


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_real_street_scenes_are_cropped_with_their_camera():
    whole = load_depth_dataset(os.environ["LLM_MDE_DATA"], split="val", dataset="kitti")[0]
    cropped = load_depth_dataset(os.environ["LLM_MDE_DATA"], split="val", dataset="kitti", kb_crop=True)[0]
    left, top = (whole.image.width - 1216) // 2, whole.image.height - 352
    assert np.array_equal(cropped.depth, whole.depth[top:, left : left + 1216])
    assert np.array_equal(np.asarray(cropped.image), np.asarray(whole.image)[top:, left : left + 1216])
    assert cropped.intrinsics.cx == whole.intrinsics.cx - left
