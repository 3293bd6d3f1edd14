"""TUM RGB-D: association by time stamps, cameras, sequences."""

import pytest

from llm_mde.processing import Intrinsics, load_depth_dataset
from llm_mde.processing.dataset_layouts_tum_rgbd import associate
from tests.processing.data_folders import write_photograph, write_raw


def write_sequence(root, photographs, depth_maps, metres=1.0):
    """Time stamps of photographs and depth maps, in seconds."""
    for name, stamps in (("rgb", photographs), ("depth", depth_maps)):
        lines = [f"# {name} images", "# file: 'rgbd_dataset.bag'", "# timestamp filename"]
        for stamp in stamps:
            path = root / name / f"{stamp:.6f}.png"
            lines.append(f"{stamp:.6f} {name}/{path.name}")
            if name == "rgb":
                write_photograph(path)
            else:
                write_raw(path, round(5000 * metres))
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_the_closest_stamps_pair_within_two_hundredths_of_a_second():
    #       0: 0.010 from 0     1: 0.005 from 1     2: 0.030 from 2, too far
    assert associate([0.0, 1.0, 2.0], [0.010, 0.995, 2.030]) == [(0, 0), (1, 1)]


def test_each_depth_map_is_used_once_by_the_closest_photograph():
    # Both photographs are near the depth map at 0.012, the second by 0.002; the first takes the other one.
    assert associate([0.0, 0.010], [-0.015, 0.012]) == [(0, 0), (1, 1)]
    assert associate([0.0, 0.010], [0.012]) == [(1, 0)]
    assert associate([0.0], [0.001, 0.012]) == [(0, 0)]


def test_a_sequence_comes_in_metres_with_its_camera(tmp_path):
    root = tmp_path / "rgbd_dataset_freiburg2_desk"
    write_sequence(root, [1305031102.175304, 1305031102.211214], [1305031102.160407, 1305031102.226738], metres=1.25)
    frames = load_depth_dataset(root, split=None)
    assert frames.names == ["rgb/1305031102.175304.png", "rgb/1305031102.211214.png"]
    assert (frames[0].depth == 1.25).all()
    assert frames[0].intrinsics == Intrinsics(fx=520.9, fy=521.0, cx=325.1, cy=249.7)


def test_one_sequence_is_cut_into_blocks_and_several_whole(tmp_path):
    write_sequence(tmp_path / "one", range(5), range(5))
    assert load_depth_dataset(tmp_path / "one", split="val").names == ["rgb/4.000000.png"]
    assert load_depth_dataset(tmp_path / "one")[0].intrinsics is None
    for number in range(5):
        write_sequence(tmp_path / "all" / f"rgbd_dataset_freiburg{number % 3 + 1}_{number}", range(2), range(2))
    val = load_depth_dataset(tmp_path / "all", split="val")
    name = "rgbd_dataset_freiburg3_2"  # the last of the five
    assert val.names == [f"{name}/rgb/0.000000.png", f"{name}/rgb/1.000000.png"]
    assert val[0].intrinsics.fx == 535.4


def test_lists_that_cannot_be_used_are_refused(tmp_path):
    write_sequence(tmp_path, [0.0], [1.0])
    with pytest.raises(ValueError, match=r"no two of them are within 0\.02 s"):
        load_depth_dataset(tmp_path, split=None)
    (tmp_path / "depth.txt").write_text("0.0 ../depth/0.png\n")
    with pytest.raises(ValueError, match=r"depth\.txt', line 1: the path '\.\./depth/0\.png' leaves the folder"):
        load_depth_dataset(tmp_path, split=None)
    (tmp_path / "depth.txt").write_text("# comment\nnow depth/0.png\n")
    with pytest.raises(ValueError, match="line 2: could not convert"):
        load_depth_dataset(tmp_path, split=None)
    (tmp_path / "depth.txt").write_text("0.0 depth/0.png\n")
    with pytest.raises(ValueError, match=r"1 of the files it lists are not there.*0\.png"):
        load_depth_dataset(tmp_path, split=None)
