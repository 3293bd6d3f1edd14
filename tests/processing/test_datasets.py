"""Folders of photographs with depth: both layouts, their splits, and what is wrong with a folder, said at once."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import DepthDataset, DepthSample, Intrinsics, RGBDFolder, write_depth_png
from llm_mde.processing.datasets import REQUIRED_COLUMNS, median_depth


def write_pair(root, stem, metres=1.0, size=(8, 6)):
    """A photograph and its constant depth under rgb/ and depth/."""
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(root / "rgb" / f"{stem}.png")
    write_depth_png(root / "depth" / f"{stem}.png", np.full((size[1], size[0]), metres))


def write_index(root, rows, columns=(*REQUIRED_COLUMNS, "fx", "fy", "cx", "cy")):
    with (root / "index.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def row(stem, **changes):
    return {
        "rgb": f"rgb/{stem}.png",
        "depth": f"depth/{stem}.png",
        "split": "train",
        "dataset": "office",
        "scene": "desk",
        "depth_encoding": "png16",
        "depth_scale_to_metres": "0.001",
        "depth_offset_metres": "0",
        "invalid_raw_values": "0;2000",
    } | changes


@pytest.fixture
def indexed(tmp_path):
    """Three pairs at 1, 2 and 3 m; a depth of 2 m is a code for "missing" in this data."""
    for number in (1, 2, 3):
        write_pair(tmp_path, str(number), metres=number)
    camera = {"fx": "500.5", "fy": "501", "cx": "4", "cy": "3"}
    write_index(tmp_path, [row("1", **camera), row("2", dataset="home"), row("3", split="val")])
    return tmp_path


def test_an_indexed_pair_comes_in_metres_with_its_camera(indexed):
    sample = RGBDFolder(indexed)[0]
    assert isinstance(sample, DepthSample)
    assert (sample.image.mode, sample.image.size) == ("RGB", (8, 6))
    assert sample.depth.dtype == np.float32
    assert sample.depth.shape == (6, 8)
    assert (sample.depth == 1).all()
    assert sample.intrinsics == Intrinsics(fx=500.5, fy=501.0, cx=4.0, cy=3.0)
    assert sample.name == "rgb/1.png"


def test_a_folder_is_a_dataset_with_subsets(indexed):
    folder = RGBDFolder(indexed, split=None)
    assert isinstance(folder, DepthDataset)
    assert folder.few_shot(2).select([1])[0].name == folder.few_shot(2).names[1]
    assert folder.root == indexed


def test_rows_are_chosen_by_split_and_dataset(indexed):
    assert RGBDFolder(indexed).names == ["rgb/1.png", "rgb/2.png"]
    assert RGBDFolder(indexed, split="val").names == ["rgb/3.png"]
    assert RGBDFolder(indexed, dataset="home").names == ["rgb/2.png"]
    assert len(RGBDFolder(indexed, split=None)) == 3


def test_invalid_raw_values_are_missing_and_an_unknown_camera_is_none(indexed):
    sample = RGBDFolder(indexed, dataset="home")[0]
    assert (sample.depth == 0).all()
    assert sample.intrinsics is None


def test_a_dataset_can_be_iterated_and_indexed_from_its_end(indexed):
    folder = RGBDFolder(indexed, split=None)
    assert [sample.name for sample in folder] == folder.names
    assert folder[-1].name == "rgb/3.png"
    with pytest.raises(IndexError):
        folder[3]


def test_files_are_decoded_when_asked_for_and_not_before(indexed):
    (indexed / "rgb" / "2.png").write_bytes(b"not a picture")
    folder = RGBDFolder(indexed)
    assert folder[0].name == "rgb/1.png"
    with pytest.raises(ValueError, match=r"2\.png.*not a readable photograph"):
        folder[1]


def test_a_linked_file_is_inside_the_folder(tmp_path):
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    write_pair(store, "1")
    snapshot.mkdir()
    for folder in ("rgb", "depth"):
        (snapshot / folder).mkdir()
        os.symlink(store / folder / "1.png", snapshot / folder / "1.png")
    write_index(snapshot, [row("1")])
    assert (RGBDFolder(snapshot)[0].depth == 1).all()


def test_an_exif_orientation_cannot_turn_the_photograph_away_from_its_depth(indexed):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(indexed / "rgb" / "1.png", exif=exif)
    image = RGBDFolder(indexed)[0].image
    assert image.size == (8, 6)
    assert 0x0112 not in image.getexif()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": "../rgb/1.png"}, r"line 2.*'\.\./rgb/1\.png' leaves the folder"),
        ({"depth": "/etc/depth.png"}, "leaves the folder"),
        ({"depth": "C:\\depth.png"}, "leaves the folder"),
        ({"rgb": ""}, "leaves the folder"),
        ({"depth_encoding": "tiff"}, "png16_rot3"),
        ({"depth_scale_to_metres": "one"}, "depth_scale_to_metres"),
        ({"fx": "500"}, "half a camera"),
        ({"rgb": "rgb/7.png"}, r"1 of the files it lists are not there.*7\.png"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_at_construction(indexed, changes, message):
    write_index(indexed, [row("1", **changes)])
    with pytest.raises(ValueError, match=message):
        RGBDFolder(indexed)


def test_missing_columns_are_named(indexed):
    write_index(indexed, [row("1")], columns=("rgb", "depth", "split"))
    with pytest.raises(ValueError, match="lacks the columns dataset, scene, depth_encoding"):
        RGBDFolder(indexed)


def test_an_empty_split_is_refused_with_what_there_is(indexed):
    with pytest.raises(ValueError, match=r"`split` is 'test'.*home/train, office/train, office/val"):
        RGBDFolder(indexed, split="test")


def test_a_scale_beside_an_index_is_refused(indexed):
    with pytest.raises(ValueError, match="depth_scale"):
        RGBDFolder(indexed, depth_scale=0.001)


def test_a_pair_of_two_shapes_is_refused_and_a_smaller_depth_map_is_not(indexed):
    write_depth_png(indexed / "depth" / "1.png", np.ones((3, 4)))
    assert RGBDFolder(indexed)[0].depth.shape == (3, 4)
    write_depth_png(indexed / "depth" / "1.png", np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"8x6 but .* is 4x4"):
        RGBDFolder(indexed)[0]


def test_a_plain_folder_pairs_stems_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        write_pair(tmp_path, f"frame_{number}", metres=number)
    folder = RGBDFolder(tmp_path, split=None)
    assert folder.names == ["rgb/frame_1.png", "rgb/frame_9.png", "rgb/frame_10.png"]
    assert [float(sample.depth[0, 0]) for sample in folder] == [1, 9, 10]


def test_a_plain_folder_keeps_two_contiguous_blocks_of_fifty_frames_for_validation(tmp_path):
    for number in range(50):
        write_pair(tmp_path, str(number), size=(4, 3))
    expected = [*range(20, 25), *range(45, 50)]
    assert RGBDFolder(tmp_path, split="val").names == [f"rgb/{number}.png" for number in expected]
    assert len(RGBDFolder(tmp_path)) == 40


def test_five_frames_make_one_of_validation_and_four_make_none(tmp_path):
    for number in range(4):
        write_pair(tmp_path, str(number))
    with pytest.raises(ValueError, match="val needs five"):
        RGBDFolder(tmp_path, split="val")
    write_pair(tmp_path, "4")
    assert RGBDFolder(tmp_path, split="val").names == ["rgb/4.png"]


def test_a_plain_folder_takes_the_scale_it_is_given(tmp_path):
    write_pair(tmp_path, "1", metres=5)
    assert RGBDFolder(tmp_path, depth_scale=1 / 5000)[0].depth[0, 0] == 1


def test_plain_folders_that_do_not_pair_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        RGBDFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"neither an index\.csv nor"):
        RGBDFolder(tmp_path)
    write_pair(tmp_path, "1")
    with pytest.raises(ValueError, match="'train' and 'val' only"):
        RGBDFolder(tmp_path, split="test")
    with pytest.raises(ValueError, match=r"no index\.csv to select by"):
        RGBDFolder(tmp_path, dataset="office")
    Image.new("RGB", (8, 6)).save(tmp_path / "rgb" / "1.jpg")
    with pytest.raises(ValueError, match=r"'1\.jpg' and '1\.png'"):
        RGBDFolder(tmp_path)
    (tmp_path / "rgb" / "1.jpg").rename(tmp_path / "rgb" / "2.jpg")
    with pytest.raises(ValueError, match="1 names are in only one of rgb/ and depth/, the first '2'"):
        RGBDFolder(tmp_path)


def sample_of(depth):
    depth = np.asarray(depth, dtype=np.float32)
    return DepthSample(Image.new("RGB", depth.shape[::-1]), depth, None, "sample")


def test_the_median_is_over_all_measured_pixels_of_the_set():
    odd = [sample_of([[1.0, 0.0, 5.0]]), sample_of([[2.0004, np.nan, 0.0]])]
    assert median_depth(odd) == pytest.approx(2.0, abs=1e-9)
    assert median_depth([*odd, sample_of([[3.0]])]) == pytest.approx(2.5, abs=1e-9)


def test_the_median_of_many_pixels_is_exact_to_a_millimetre():
    depth = np.random.default_rng(0).gamma(2, 1.5, (4, 30, 40)).astype(np.float32)
    assert median_depth([sample_of(each) for each in depth]) == pytest.approx(float(np.median(depth)), abs=1e-3)


def test_the_median_of_a_folder_does_not_open_its_photographs(indexed):
    for path in (indexed / "rgb").iterdir():
        path.write_bytes(b"not a picture")
    assert median_depth(RGBDFolder(indexed, split=None)) == pytest.approx(2.0)  # of 1 m and 3 m


def test_a_set_without_measurements_or_in_the_wrong_unit_has_no_median():
    with pytest.raises(ValueError, match="no measured pixel"):
        median_depth([sample_of([[0.0]])])
    with pytest.raises(ValueError, match="1 km or more"):
        median_depth([sample_of([[5000.0]])])


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_real_frames_reach_from_arm_to_street():
    folder = RGBDFolder(os.environ["LLM_MDE_DATA"], split="val")
    for index in range(0, len(folder), 5):
        sample = folder[index]
        measured = sample.depth[sample.depth > 0]
        assert 0.1 < np.median(measured) < 40, sample.name
        assert sample.depth.max() < 120, sample.name
