"""SUN RGB-D: folders of images, rotated bits, cameras, official parts."""

import numpy as np
import pytest

from llm_mde.processing import Intrinsics, load_depth_dataset
from tests.processing.data_folders import write_photograph, write_raw

# 1500 = 0b10111011100; rotated left by three bits it is stored as 12000.
STORED = 1500 << 3


def write_scene(root, scene, depth_folder="depth_bfx", stored=STORED, camera="529.5 0 365 0 528.5 265 0 0 1"):
    write_photograph(root / scene / "image" / "0000001.jpg")
    write_raw(root / scene / depth_folder / "0000007.png", stored)
    (root / scene / "intrinsics.txt").write_text(camera)


def test_depth_is_rotated_back_and_the_refined_one_is_preferred(tmp_path):
    write_scene(tmp_path, "SUNRGBD/kv1/NYUdata/NYU0001")
    write_scene(tmp_path, "SUNRGBD/kv1/NYUdata/NYU0001", depth_folder="depth", stored=8000 << 3)
    (sample,) = load_depth_dataset(tmp_path, split=None)
    assert sample.name == "SUNRGBD/kv1/NYUdata/NYU0001/image/0000001.jpg"
    assert (sample.depth == 1.5).all()
    assert sample.intrinsics == Intrinsics(fx=529.5, fy=528.5, cx=365, cy=265)


def test_values_above_13_bits_turn_around(tmp_path):
    # 0b101 in the three lowest bits stands for the three highest: 5 * 8192 = 40960, with 1 from the rest.
    write_scene(tmp_path, "scene", depth_folder="depth", stored=(1 << 3) | 0b101)
    assert load_depth_dataset(tmp_path, split=None).depth(0)[0, 0] == pytest.approx(40.961)


def test_a_camera_may_fill_three_lines(tmp_path):
    write_scene(tmp_path, "scene", camera="529.5 0.0 365.0\n0.0 528.5 265.0\n0.0 0.0 1.0\n")
    assert load_depth_dataset(tmp_path, split=None)[0].intrinsics.fy == 528.5
    (tmp_path / "scene" / "intrinsics.txt").write_text("529.5 0 365")
    with pytest.raises(ValueError, match="nine numbers"):
        load_depth_dataset(tmp_path, split=None)


@pytest.mark.parametrize("source", ["", "SUNRGBD"])
def test_official_parts_are_those_of_the_toolbox(tmp_path, source):
    savemat = pytest.importorskip("scipy.io", reason="scipy reads allsplit.mat").savemat
    for number in range(3):
        write_scene(tmp_path, f"SUNRGBD/kv2/kinect2data/{number}_resize")
    toolbox = tmp_path / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    toolbox.mkdir(parents=True)
    paths = [f"/n/fs/sun3d/data/SUNRGBD/kv2/kinect2data/{number}_resize/" for number in (0, 1, 2)]
    cells = {"alltrain": np.array([paths[:2]], object), "alltest": np.array([paths[2:]], object)}
    savemat(toolbox / "allsplit.mat", cells)
    prefix = "" if source else "SUNRGBD/"
    expected = [f"{prefix}kv2/kinect2data/{number}_resize/image/0000001.jpg" for number in range(3)]
    assert load_depth_dataset(tmp_path / source).names == expected[:2]
    assert load_depth_dataset(tmp_path / source, split="test").names == expected[2:]
    assert load_depth_dataset(tmp_path / source, split=None).names == expected
    with pytest.raises(ValueError, match=r"`split` is 'val'.*'train' and 'test' only"):
        load_depth_dataset(tmp_path / source, split="val")
    with pytest.raises(ValueError, match=r"none of the 3 images .* is in that part"):
        savemat(toolbox / "allsplit.mat", {"alltrain": np.array([["/n/fs/sun3d/data/SUNRGBD/kv1/other"]], object)})
        load_depth_dataset(tmp_path / source)


def test_without_the_toolbox_the_parts_are_blocks(tmp_path):
    for number in range(5):
        write_scene(tmp_path, f"xtion/{number}")
    assert load_depth_dataset(tmp_path, split="val").names == ["xtion/4/image/0000001.jpg"]
    with pytest.raises(ValueError, match="'train' and 'val' only"):
        load_depth_dataset(tmp_path, split="test")


def test_a_folder_with_two_photographs_is_refused(tmp_path):
    write_scene(tmp_path, "scene")
    write_photograph(tmp_path / "scene" / "image" / "0000002.jpg")
    with pytest.raises(ValueError, match="holds 2 files"):
        load_depth_dataset(tmp_path, split=None)


def test_hidden_files_and_folders_are_ignored(tmp_path):
    write_scene(tmp_path, "scene")
    write_scene(tmp_path, ".trash/scene")
    (tmp_path / "scene" / "image" / "._0000001.jpg").touch()
    (tmp_path / "scene" / "depth_bfx" / "._0000007.png").touch()
    assert load_depth_dataset(tmp_path, split=None).names == ["scene/image/0000001.jpg"]
