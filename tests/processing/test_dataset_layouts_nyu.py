"""NYU Depth v2: the labelled file as MATLAB writes it, and raw scenes in both customs."""

import logging

import numpy as np
import pytest
from torch.utils.data import DataLoader

from llm_mde.processing import Intrinsics, load_depth_dataset
from tests.processing.data_folders import write_photograph, write_raw

h5py = pytest.importorskip("h5py", reason="h5py reads the labelled file")
savemat = pytest.importorskip("scipy.io", reason="scipy reads splits.mat").savemat

HEIGHT, WIDTH, COUNT = 4, 6, 5
CAMERA = Intrinsics(fx=518.85790117450188, fy=519.46961112127485, cx=325.58244941119034, cy=253.73616633400465)


@pytest.fixture
def labelled(tmp_path):
    """Five images; MATLAB's (H, W, 3, N) appears in HDF5 as (N, 3, W, H)."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    images = np.stack([np.stack([row, column, np.full_like(row, number)], -1) for number in range(COUNT)], -1)
    depths = np.stack([1 + number + row / 10 + column / 100 for number in range(COUNT)], -1)  # (H, W, N)
    depths[0, 0, 0] = 0
    raw = depths.copy()
    raw[1, 2] = 0  # a hole that `depths` has filled
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"] = images.astype(np.uint8).transpose()
        file["depths"] = depths.astype(np.float32).transpose()
        file["rawDepths"] = raw.astype(np.float32).transpose()
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[5], [1], [2]]), "testNdxs": np.array([[3], [4]])})
    return tmp_path


def first(samples):
    return samples


def test_labelled_images_come_upright(labelled):
    sample = load_depth_dataset(labelled, split=None)[3]
    assert sample.image.size == (WIDTH, HEIGHT)
    assert sample.image.getpixel((5, 2)) == (2, 5, 3)  # row, column and number are its colours
    assert sample.depth.shape == (HEIGHT, WIDTH)
    assert sample.depth[2, 5] == pytest.approx(1 + 3 + 0.2 + 0.05)
    assert sample.name == "0003"
    assert load_depth_dataset(labelled, split=None).depth(0)[0, 0] == 0


def test_official_splits_count_from_one(labelled):
    assert load_depth_dataset(labelled).names == ["0000", "0001", "0004"]
    assert load_depth_dataset(labelled / "nyu_depth_v2_labeled.mat", split="test").names == ["0002", "0003"]
    assert len(load_depth_dataset(labelled, split=None)) == COUNT


def test_the_test_set_has_depth_as_measured_and_the_others_filled_holes(labelled):
    test = load_depth_dataset(labelled, split="test")
    assert (test.depth(0)[1, 2], test[1].depth[1, 2]) == (0, 0)
    assert test.depth(0)[2, 5] == pytest.approx(1 + 2 + 0.2 + 0.05)
    assert load_depth_dataset(labelled).depth(0)[1, 2] == pytest.approx(1 + 0.1 + 0.02)
    assert (load_depth_dataset(labelled, split=None).depth(2) > 0).all()


def test_photographs_of_the_test_set_are_black_outside_the_published_window(tmp_path):
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.full((2, 3, 640, 480), 200, np.uint8)
        file["depths"] = file["rawDepths"] = np.ones((2, 640, 480), np.float32)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1]]), "testNdxs": np.array([[2]])})
    sample = load_depth_dataset(tmp_path, split="test")[0]
    bright = np.asarray(sample.image) == 200
    assert bright[7:474, 7:632].all()
    assert bright.sum() == 3 * (474 - 7) * (632 - 7)
    assert not np.asarray(sample.image)[~bright].any()
    assert (sample.depth == 1).all()
    assert (np.asarray(load_depth_dataset(tmp_path)[0].image) == 200).all()
    assert (np.asarray(load_depth_dataset(tmp_path, split=None)[1].image) == 200).all()


def test_a_copy_without_the_depth_as_measured_gives_the_filled_one_and_says_so(labelled, caplog, monkeypatch):
    with h5py.File(labelled / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["rawDepths"]
        filled = file["depths"][...].transpose(0, 2, 1)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sample = load_depth_dataset(labelled, split="test")[0]
    assert "no rawDepths" in caplog.text
    assert np.array_equal(sample.depth, filled[int(sample.name)])


def test_workers_open_the_file_for_themselves(labelled):
    frames = load_depth_dataset(labelled, split=None)
    expected = [sample.depth for sample in frames]  # the file is open here now
    loader = DataLoader(frames, batch_size=2, num_workers=2, collate_fn=first)
    read = [sample.depth for batch in loader for sample in batch]
    assert np.array_equal(np.stack(read), np.stack(expected))


def test_the_camera_is_known_at_full_size_only(tmp_path, labelled):
    assert load_depth_dataset(labelled)[0].intrinsics is None
    (tmp_path / "full").mkdir()
    with h5py.File(tmp_path / "full" / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.zeros((1, 3, 640, 480), np.uint8)
        file["depths"] = np.ones((1, 640, 480), np.float32)
    sample = load_depth_dataset(tmp_path / "full", split=None)[0]
    assert (sample.image.size, sample.depth.shape) == ((640, 480), (480, 640))
    assert round(sample.intrinsics.fx, 2) == 518.86


def test_an_unusable_labelled_file_is_refused(labelled):
    path = labelled / "nyu_depth_v2_labeled.mat"
    with pytest.raises(ValueError, match=r"`split` is 'val'.*'train' and 'test' only"):
        load_depth_dataset(path, split="val")
    savemat(labelled / "splits.mat", {"trainNdxs": np.array([[6]])})
    with pytest.raises(ValueError, match="not among the 5"):
        load_depth_dataset(path)
    with pytest.raises(ValueError, match="no readable 'testNdxs'"):
        load_depth_dataset(path, split="test")
    (labelled / "splits.mat").unlink()
    with pytest.raises(ValueError, match=r"official splits\.mat beside"):
        load_depth_dataset(path)
    with h5py.File(path, "a") as file:
        del file["depths"]
    with pytest.raises(ValueError, match=r"'depths': None.*images \(N, 3, W, H\)"):
        load_depth_dataset(path, split=None)
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(ValueError, match="cannot be opened as HDF5"):
        load_depth_dataset(path, split=None)


def write_synchronised(root, scene, numbers, millimetres=2000, suffix="jpg"):
    for number in numbers:
        write_photograph(root / scene / f"rgb_{number:05d}.{suffix}")
        write_raw(root / scene / f"sync_depth_{number:05d}.png", millimetres)


def test_synchronised_scenes_pair_by_number(tmp_path):
    write_synchronised(tmp_path, "bedroom_0001", [0, 10, 9], millimetres=1500)
    frames = load_depth_dataset(tmp_path, split=None)
    assert frames.names == [f"bedroom_0001/rgb_{number:05d}.jpg" for number in (0, 9, 10)]
    assert (frames[0].depth == 1.5).all()
    assert frames[0].intrinsics is None  # 8 x 6 pixels are not the calibrated 640 x 480


def test_scenes_with_rgb_and_depth_folders_pair_by_stem_and_have_no_camera_of_nyu(tmp_path):
    write_photograph(tmp_path / "kitchen_0002" / "rgb" / "7.png", size=(640, 480))
    write_raw(tmp_path / "kitchen_0002" / "depth" / "7.png", 3000, size=(640, 480))
    frames = load_depth_dataset(tmp_path, split=None)
    assert frames.names == ["kitchen_0002/rgb/7.png"]
    assert frames[0].intrinsics is None  # 640 x 480 pixels have many cameras
    (tmp_path / "nyu.txt").write_text("kitchen_0002/rgb/7.png kitchen_0002/depth/7.png 518.8579\n")
    assert load_depth_dataset(tmp_path, split_list="nyu.txt")[0].intrinsics == CAMERA


@pytest.mark.parametrize("streaming", [False, True])
def test_every_photograph_of_a_scene_is_asked_for_its_size(tmp_path, streaming):
    for number, size in enumerate([(320, 240), (640, 480), (1280, 960)]):
        write_photograph(tmp_path / "bath" / f"rgb_{number:05d}.jpg", size)
        write_raw(tmp_path / "bath" / f"sync_depth_{number:05d}.png", 2000, size)
    frames = load_depth_dataset(tmp_path, split=None, streaming=streaming)
    assert [sample.intrinsics for sample in frames] == [None, CAMERA, None]


def test_hidden_folders_are_no_scenes(tmp_path):
    write_synchronised(tmp_path, "bath", [1])
    write_synchronised(tmp_path, ".trash", [1])
    (tmp_path / "bath" / "._rgb_00001.jpg").touch()
    (tmp_path / "bath" / "._sync_depth_00002.png").touch()
    assert load_depth_dataset(tmp_path, split=None).names == ["bath/rgb_00001.jpg"]


def test_a_room_is_never_in_both_parts(tmp_path):
    rooms = ["attic_0001a", "attic_0001b", "bath_0001", "cafe_0001", "den_0001", "foyer_0001a", "foyer_0001b_out"]
    for room in rooms:
        write_synchronised(tmp_path, room, [1, 2])
    # Five rooms, the last of which is the block of validation, with both of its recordings.
    val = load_depth_dataset(tmp_path, split="val").names
    assert {name.partition("/")[0] for name in val} == {"foyer_0001a", "foyer_0001b_out"}
    train = load_depth_dataset(tmp_path).names
    assert {name.partition("/")[0] for name in train} == set(rooms[:5])
    assert len(train) + len(val) == 14


def test_too_few_scenes_have_no_validation_part(tmp_path):
    write_synchronised(tmp_path, "bedroom_0001", [0, 1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match=r"has 1 scenes.*val needs five"):
        load_depth_dataset(tmp_path, split="val")


def test_a_list_chooses_the_pairs(tmp_path):
    write_synchronised(tmp_path, "bath", [45, 46, 47])
    lines = "/bath/rgb_00047.jpg /bath/sync_depth_00047.png 518.8579\nbath/rgb_00045.jpg None 518.8579\n"
    (tmp_path / "list.txt").write_text(lines)
    frames = load_depth_dataset(tmp_path, split_list="list.txt")
    assert frames.names == ["bath/rgb_00047.jpg"]
    assert frames.num_without_depth == 1
    (tmp_path / "list.txt").write_text("/bath/rgb_00047.jpg /bath/sync_depth_00048.png 518.8579")
    with pytest.raises(ValueError, match=r"1 of the files it lists are not there.*sync_depth_00048\.png"):
        load_depth_dataset(tmp_path, split_list="list.txt")
    (tmp_path / "list.txt").write_text("../other/rgb_00047.jpg /bath/sync_depth_00047.png")
    with pytest.raises(ValueError, match="leaves the folder"):
        load_depth_dataset(tmp_path, split_list="list.txt")
    (tmp_path / "list.txt").write_text("bath/rgb_00047.jpg")
    with pytest.raises(ValueError, match="line 1 names no depth map"):
        load_depth_dataset(tmp_path, split_list="list.txt")
    with pytest.raises(ValueError, match=r"'nowhere\.txt', which is no file"):
        load_depth_dataset(tmp_path, split_list="nowhere.txt")


def test_a_frame_without_its_depth_is_refused(tmp_path):
    write_synchronised(tmp_path, "bedroom_0001", [0, 1])
    (tmp_path / "bedroom_0001" / "sync_depth_00001.png").unlink()
    with pytest.raises(ValueError, match=r"1 frames with only one of .* '00001'"):
        load_depth_dataset(tmp_path, split=None)


def test_parts_that_somebody_made_are_not_cut_anew(tmp_path):
    for part in ("train", "val"):
        write_photograph(tmp_path / part / "rgb" / "1.png")
        write_raw(tmp_path / part / "depth" / "1.png", 1000)
    assert load_depth_dataset(tmp_path, split="val").names == ["val/rgb/1.png"]
    assert load_depth_dataset(tmp_path / "val", split=None).names == ["rgb/1.png"]
    with pytest.raises(ValueError, match="none of its folders holds"):
        load_depth_dataset(tmp_path, layout="nyu_raw")
