"""KITTI: official parts, lists of Eigen et al. in their variants, cameras, and the crop of the benchmark."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import Intrinsics, load_depth_dataset
from tests.processing.data_folders import write_photograph, write_raw

DATE, DRIVE, OTHER = "2011_09_26", "2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync"
CALIBRATION = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.215377e+02 0.0 6.095593e+02 4.485728e+01 0.0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 0
P_rect_03: 7.215377e+02 0.0 6.095593e+02 -3.395242e+02 0.0 7.200000e+02 1.728540e+02 2.199936e+00 0 0 1 0
"""


def write_frame(root, drive, number, part="train", camera="image_02", metres=12.5, raw="", size=(8, 6)):
    stem = f"{number:010d}.png"
    write_photograph(root / raw / drive[:10] / drive / camera / "data" / stem, size)
    depth = root / "data_depth_annotated" / part / drive / "proj_depth" / "groundtruth" / camera / stem
    write_raw(depth, round(256 * metres), size)


@pytest.fixture
def kitti(tmp_path):
    write_frame(tmp_path, DRIVE, 5)
    write_frame(tmp_path, DRIVE, 6, camera="image_03")
    write_frame(tmp_path, OTHER, 69, part="val", metres=20)
    (tmp_path / DATE / "calib_cam_to_cam.txt").write_text(CALIBRATION)
    return tmp_path


def test_official_parts_have_both_cameras_in_metres(kitti):
    train = load_depth_dataset(kitti)
    assert train.names == [
        f"{DATE}/{DRIVE}/image_02/data/0000000005.png",
        f"{DATE}/{DRIVE}/image_03/data/0000000006.png",
    ]
    assert (train[0].depth == 12.5).all()
    assert train[0].intrinsics == Intrinsics(fx=721.5377, fy=721.5377, cx=609.5593, cy=172.854)
    assert train[1].intrinsics.fy == 720
    (val,) = load_depth_dataset(kitti, split="val")
    assert (val.depth == 20).all()
    assert len(load_depth_dataset(kitti, split=None)) == 3


def test_photographs_below_raw_and_depth_without_its_folder_are_found(tmp_path):
    write_frame(tmp_path, DRIVE, 5, raw="raw")
    (tmp_path / "data_depth_annotated" / "train").rename(tmp_path / "train")
    (sample,) = load_depth_dataset(tmp_path)
    assert sample.name == f"raw/{DATE}/{DRIVE}/image_02/data/0000000005.png"
    assert sample.intrinsics is None


LISTED = f"{OTHER}/image_02/data/0000000069"
TRUTH = f"{OTHER}/proj_depth/groundtruth/image_02/0000000069.png"
UNMEASURED = f"{OTHER}/image_02/data/0000000070"


@pytest.mark.parametrize(
    "lines",
    [
        [f"{DATE}/{LISTED}.png {TRUTH} 721.5377", f"{DATE}/{UNMEASURED}.png None 721.5377", ""],
        [f"{LISTED}.png {TRUTH} 721.5377", f"{UNMEASURED}.png None 721.5377"],
        [f"{DATE}/{LISTED}.png", f"{DATE}/{UNMEASURED}.png"],
        [f"{DATE}/{LISTED}.jpg 721.5377", f"{DATE}/{UNMEASURED}.jpg 721.5377"],
        [f"{DATE}/{frame}.jpg {DATE}/{frame.replace('image_02', 'image_03')}.jpg" for frame in (LISTED, UNMEASURED)],
        [f"{DATE}/{OTHER} 69 l", f"{DATE}/{OTHER} 70 l"],
        [f"{OTHER} 0000000069 l", f"{DATE}/{OTHER} 0000000069 r"],
    ],
    ids=[
        "with depth",
        "without the date",
        "photographs alone",
        "other suffix and focal length",
        "both photographs of monodepth",
        "numbers of monodepth2",
        "numbers with zeros",
    ],
)
def test_a_list_skips_and_counts_frames_without_ground_truth(kitti, lines, tmp_path_factory):
    split_list = tmp_path_factory.mktemp("lists") / "eigen_test_files_with_gt.txt"
    split_list.write_text("\n".join(lines) + "\n")
    frames = load_depth_dataset(kitti, split="test", split_list=str(split_list))
    assert frames.names == [f"{DATE}/{OTHER}/image_02/data/0000000069.png"]
    assert frames.num_without_depth == 1
    assert (frames[0].depth == 20).all()


def test_a_list_of_monodepth2_names_the_camera(kitti):
    (kitti / "train_files.txt").write_text(f"{DATE}/{DRIVE} 6 r\n{DATE}/{DRIVE} 5 l\n")
    frames = load_depth_dataset(kitti, split_list="train_files.txt")
    assert frames.names == [
        f"{DATE}/{DRIVE}/image_03/data/0000000006.png",
        f"{DATE}/{DRIVE}/image_02/data/0000000005.png",
    ]
    assert frames.num_without_depth == 0


@pytest.mark.parametrize("listed", [".png", ".jpg", ""])
@pytest.mark.parametrize("stored", [".png", ".jpg"])
def test_photographs_are_found_with_either_suffix(tmp_path, listed, stored):
    write_frame(tmp_path, OTHER, 69)
    photographs = tmp_path / DATE / OTHER / "image_02" / "data"
    (photographs / "0000000069.png").unlink()
    write_photograph(photographs / f"0000000069{stored}")
    (tmp_path / "list.txt").write_text(f"{DATE}/{LISTED}{listed}\n")
    expected = [f"{DATE}/{LISTED}{stored}"]
    assert load_depth_dataset(tmp_path, split_list="list.txt").names == expected
    assert load_depth_dataset(tmp_path).names == expected


def test_a_depth_map_may_be_listed_wherever_it_lies(kitti):
    write_raw(kitti / "dense" / "69.png", 256 * 30)
    (kitti / "list.txt").write_text(f"{LISTED}.png dense/69.png\n")
    assert (load_depth_dataset(kitti, split_list="list.txt").depth(0) == 30).all()


def test_recordings_that_are_not_there_are_left_out_with_one_warning(kitti, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    shutil.rmtree(kitti / DATE / OTHER)
    shutil.rmtree(kitti / DATE / DRIVE / "image_03")
    frames = load_depth_dataset(kitti, split=None)
    assert frames.names == [f"{DATE}/{DRIVE}/image_02/data/0000000005.png"]
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert f"2 of 3 recordings (drive and camera) with annotated depth are not in {str(kitti)!r}" in warning
    assert f"the first of '{DRIVE}/image_03'" in warning
    with pytest.raises(ValueError, match=rf"1 of 1 recordings .* below folders of dates such as {DATE}/"):
        load_depth_dataset(kitti, split="val")


def test_a_frame_missing_from_a_recording_is_refused(kitti):
    write_raw(kitti / f"data_depth_annotated/train/{DRIVE}/proj_depth/groundtruth/image_02/0000000007.png", 256)
    with pytest.raises(ValueError, match=r"1 of the files it lists are not there.*0000000007\.png"):
        load_depth_dataset(kitti)


def test_hidden_files_beside_the_depth_maps_are_ignored(kitti):
    (kitti / f"data_depth_annotated/train/{DRIVE}/proj_depth/groundtruth/image_02/._0000000005.png").touch()
    assert len(load_depth_dataset(kitti)) == 2


def test_a_list_that_cannot_be_used_is_refused(kitti):
    def load(line):
        (kitti / "list.txt").write_text(line)
        return load_depth_dataset(kitti, split_list="list.txt")

    with pytest.raises(ValueError, match=r"1 of the files it lists are not there.*0000000007\.png"):
        load(f"{DATE}/{DRIVE}/image_02/data/0000000007.png {DRIVE}/proj_depth/groundtruth/image_02/0000000005.png")
    with pytest.raises(ValueError, match=r"none of its 1 frames has annotated depth .* the first .*0000000005\.png"):
        load(f"{DATE}/{DRIVE}/image_02/data/0000000005.png None 721.5377")
    with pytest.raises(ValueError, match="leaves the folder"):
        load(f"../{DATE}/{DRIVE}/image_02/data/0000000005.png None")
    with pytest.raises(ValueError, match="names no frame of a drive"):
        load("photographs/5.png")
    with pytest.raises(ValueError, match=r"_sync' names no frame of a drive"):
        load(f"{DATE}/{DRIVE} 5")
    with pytest.raises(ValueError, match="the file is empty"):
        load("\n")


def test_an_unknown_part_is_refused(kitti):
    with pytest.raises(ValueError, match=r"`split` is 'test'.*`split_list`"):
        load_depth_dataset(kitti, split="test")
    with pytest.raises(ValueError, match="annotated depth in train/"):
        load_depth_dataset(kitti / DATE, layout="kitti")
    (kitti / DATE / "calib_cam_to_cam.txt").write_text("P_rect_02: 721 0 x\n")
    with pytest.raises(ValueError, match="no twelve numbers"):
        load_depth_dataset(kitti)


def test_the_crop_of_the_benchmark_keeps_the_bottom_centre_of_both(tmp_path):
    width, height = 1242, 375
    write_frame(tmp_path, DRIVE, 5, size=(width, height))
    raw = np.arange(height)[:, None] * 16 + np.arange(width)[None] + 1000
    write_raw(tmp_path / f"data_depth_annotated/train/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png", raw)
    (tmp_path / DATE / "calib_cam_to_cam.txt").write_text(CALIBRATION)
    photograph = write_photograph(tmp_path / DATE / DRIVE / "image_02" / "data" / "0000000005.png", (width, height))
    with Image.open(photograph) as image:
        image.putpixel((13, 23), (255, 0, 0))  # the corner: (1242 - 1216) / 2 and 375 - 352
        image.save(photograph)
    frames = load_depth_dataset(tmp_path, kb_crop=True)
    sample = frames[0]
    assert (sample.image.size, sample.depth.shape) == ((1216, 352), (352, 1216))
    assert sample.image.getpixel((0, 0)) == (255, 0, 0)
    assert sample.depth[0, 0] == pytest.approx((23 * 16 + 13 + 1000) / 256)
    assert np.array_equal(frames.depth(0), sample.depth)
    assert (sample.intrinsics.cx, sample.intrinsics.cy) == pytest.approx((609.5593 - 13, 172.854 - 23))
    assert load_depth_dataset(tmp_path)[0].depth.shape == (375, 1242)


def test_the_crop_refuses_what_is_too_small_or_of_two_sizes(kitti, tmp_path):
    frames = load_depth_dataset(kitti, kb_crop=True, check_units=False)
    with pytest.raises(ValueError, match="8x6, smaller than the crop of 1216x352"):
        frames[0]
    write_frame(tmp_path / "two", DRIVE, 5, size=(1242, 376))
    write_photograph(tmp_path / "two" / DATE / DRIVE / "image_02" / "data" / "0000000005.png", (1242, 375))
    with pytest.raises(ValueError, match="1242x375 but its depth map is 1242x376"):
        load_depth_dataset(tmp_path / "two", kb_crop=True)[0]
