"""DIODE: arrays in metres, validity masks, official parts."""

import numpy as np
import pytest

from llm_mde.processing import Intrinsics, load_depth_dataset
from tests.processing.data_folders import write_photograph

SCAN = "indoors/scene_00019/scan_00183"
STEM = "00019_00183_indoors_000_010"


def write_frame(root, part, stem=STEM, metres=2.5):
    """Depth (H, W, 1) with a mask that leaves out one pixel."""
    write_photograph(root / part / SCAN / f"{stem}.png")
    depth, mask = np.full((6, 8, 1), metres, np.float32), np.ones((6, 8), np.float32)
    depth[0, :3, 0] = 77, np.nan, 0
    mask[0, 0] = 0
    np.save(root / part / SCAN / f"{stem}_depth.npy", depth)
    np.save(root / part / SCAN / f"{stem}_depth_mask.npy", mask)


def test_depth_is_in_metres_where_the_mask_is_one(tmp_path):
    write_frame(tmp_path, "val")
    (sample,) = load_depth_dataset(tmp_path, split="val")
    assert sample.name == f"val/{SCAN}/{STEM}.png"
    assert sample.depth.shape == (6, 8)
    assert sample.depth.dtype == np.float32
    assert sample.depth[0].tolist() == [0, 0, 0, 2.5, 2.5, 2.5, 2.5, 2.5]
    assert (sample.depth[1:] == 2.5).all()
    assert sample.intrinsics == Intrinsics(fx=886.81, fy=927.06, cx=512, cy=384)


def test_parts_are_the_official_folders(tmp_path):
    write_frame(tmp_path, "train")
    write_frame(tmp_path, "val", metres=3)
    assert load_depth_dataset(tmp_path).names == [f"train/{SCAN}/{STEM}.png"]
    assert len(load_depth_dataset(tmp_path, split=None)) == 2
    assert load_depth_dataset(tmp_path / "val", split=None).names == [f"{SCAN}/{STEM}.png"]
    with pytest.raises(ValueError, match="'train' and 'val' only"):
        load_depth_dataset(tmp_path, split="test")
    with pytest.raises(ValueError, match=r"holds no \*_depth_mask\.npy"):
        load_depth_dataset(tmp_path / "val", split="train")


def test_incomplete_or_odd_frames_are_refused(tmp_path):
    write_frame(tmp_path, "val")
    folder = tmp_path / "val" / SCAN
    np.save(folder / f"{STEM}_depth_mask.npy", np.ones((6, 7)))
    with pytest.raises(ValueError, match=r"shape \(6, 8\) and its mask \(6, 7\)"):
        load_depth_dataset(tmp_path, split="val")
    (folder / f"{STEM}_depth_mask.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read as a NumPy array"):
        load_depth_dataset(tmp_path, split="val")
    (folder / f"{STEM}_depth.npy").unlink()
    with pytest.raises(ValueError, match=r"1 of the files it lists are not there.*_depth\.npy"):
        load_depth_dataset(tmp_path, split="val")
