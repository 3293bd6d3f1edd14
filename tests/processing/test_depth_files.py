"""Depth on disk and depth in metres: round trips to the bit, and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde.processing.depth_files import read_depth, read_depth_png, write_depth_npy, write_depth_png


def test_png_keeps_every_millimetre_from_0_to_65_535(tmp_path):
    depth = (np.arange(65536, dtype=np.float64) / 1000).reshape(256, 256).astype(np.float32)
    write_depth_png(tmp_path / "depth.png", depth)
    np.testing.assert_array_equal(read_depth_png(tmp_path / "depth.png"), depth)


def test_png_has_16_bits_and_states_its_scale(tmp_path):
    write_depth_png(tmp_path / "depth.png", np.array([[0.3, 40.0]]))
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode == "I;16"
        assert image.text == {"depth_scale_to_metres": "0.001"}
        assert np.array(image).tolist() == [[300, 40000]]


def test_png_rounds_and_writes_what_is_not_measured_as_0(tmp_path):
    write_depth_png(tmp_path / "depth.png", np.array([[1.0004, 1.0006, np.nan, np.inf, -np.inf, -2.0, 0.0, 0.0004]]))
    expected = np.array([[1.0, 1.001, 0, 0, 0, 0, 0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(read_depth_png(tmp_path / "depth.png"), expected)


def test_tensors_of_any_precision_are_written(tmp_path):
    write_depth_png(tmp_path / "depth.png", torch.tensor([[1.5, 0.0]], dtype=torch.bfloat16, requires_grad=True))
    assert read_depth_png(tmp_path / "depth.png").tolist() == [[1.5, 0.0]]


def test_npy_keeps_float32_and_the_name_it_was_given(tmp_path):
    depth = np.array([[1.23456789, 100.5], [np.nan, -1]])
    write_depth_npy(tmp_path / "depth.metres", depth)
    read = read_depth(tmp_path / "depth.metres", "npy", scale=1)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.array([[1.23456789, 100.5], [0, 0]], dtype=np.float32))


def test_a_png_too_far_for_its_format_is_refused_and_leaves_the_old_file(tmp_path):
    write_depth_png(tmp_path / "depth.png", np.array([[1.0]]))
    with pytest.raises(ValueError, match=r"65\.535 m"):
        write_depth_png(tmp_path / "depth.png", np.array([[1.0, 65.536]]))
    assert read_depth_png(tmp_path / "depth.png").tolist() == [[1.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["depth.png"]


def test_millimetres_given_as_metres_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not millimetres"):
        write_depth_png(tmp_path / "depth.png", np.array([[1500]], dtype=np.uint16))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_depth_png(tmp_path / "depth.png", np.ones((2, 2)))
    assert not list(tmp_path.iterdir())


def test_a_batch_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`depth` is float64 of shape \(1, 2, 2\)"):
        write_depth_png(tmp_path / "depth.png", np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="create"):
        write_depth_npy(tmp_path / "nowhere" / "depth.npy", np.ones((2, 2)))


def test_png8_has_scale_and_offset_on_measured_pixels_only(tmp_path):
    Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)).save(tmp_path / "depth.png")
    depth = read_depth(tmp_path / "depth.png", "png8", scale=0.04, offset=0.02)
    np.testing.assert_allclose(depth, [[0, 0.06, 10.22]], rtol=1e-6)


def test_png16_drops_every_invalid_raw_value(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535, 65534]], dtype=np.uint16)).save(tmp_path / "depth.png")
    depth = read_depth(tmp_path / "depth.png", "png16", scale=1 / 256, invalid_raw_values=(0, 65535))
    np.testing.assert_array_equal(depth, np.array([[0, 1, 0, 65534 / 256]], dtype=np.float32))


def test_png16_rot3_turns_each_value_right_by_three_bits(tmp_path):
    # 1234 turned left by three bits is 9872; 0x8001 turned left by three is 0x000C.
    Image.fromarray(np.array([[9872, 0x000C, 0]], dtype=np.uint16)).save(tmp_path / "depth.png")
    depth = read_depth(tmp_path / "depth.png", "png16_rot3")
    np.testing.assert_allclose(depth, [[1.234, 32.769, 0]], rtol=1e-6)


def test_npz_reads_the_named_array_and_keeps_what_is_finite_and_positive(tmp_path):
    np.savez(tmp_path / "depth.npz", sweep=np.array([[1.5, np.nan, -1, np.inf, 0]], dtype=np.float32))
    depth = read_depth(tmp_path / "depth.npz", "npz:sweep", scale=1)
    assert depth.tolist() == [[1.5, 0, 0, 0, 0]]


def test_an_offset_that_carries_depth_below_0_means_missing(tmp_path):
    np.save(tmp_path / "depth.npy", np.array([[0.5, 2.0]]))
    assert read_depth(tmp_path / "depth.npy", "npy", scale=1, offset=-1).tolist() == [[0.0, 1.0]]


def test_the_wrong_bit_depth_is_refused_with_the_right_encoding(tmp_path):
    Image.fromarray(np.full((2, 2), 7, dtype=np.uint8)).save(tmp_path / "eight.png")
    Image.fromarray(np.full((2, 2), 700, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="use 'png8' for 8 bits"):
        read_depth(tmp_path / "eight.png")
    with pytest.raises(ValueError, match="use 'png16' for 16 bits"):
        read_depth(tmp_path / "sixteen.png", "png8")
    with pytest.raises(ValueError, match="colour picture"):
        read_depth(tmp_path / "colour.png")


def test_unreadable_files_are_refused_by_name(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    (tmp_path / "torn.npy").write_bytes(b"")
    np.savez(tmp_path / "depth.npz", sweep=np.ones((2, 2)))
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match=r"absent\.png.*no such file"):
        read_depth(tmp_path / "absent.png")
    with pytest.raises(ValueError, match=r"torn\.png"):
        read_depth(tmp_path / "torn.png")
    with pytest.raises(ValueError, match=r"torn\.npy"):
        read_depth(tmp_path / "torn.npy", "npy")
    with pytest.raises(ValueError, match="holds sweep"):
        read_depth(tmp_path / "depth.npz", "npz:depth")
    with pytest.raises(ValueError, match="npz:KEY"):
        read_depth(tmp_path / "depth.npz", "npy")
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\)"):
        read_depth(tmp_path / "cube.npy", "npy")


def test_a_truncated_png_is_refused(tmp_path):
    write_depth_png(tmp_path / "depth.png", np.random.default_rng(0).uniform(1, 5, (64, 64)))
    whole = (tmp_path / "depth.png").read_bytes()
    (tmp_path / "depth.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable PNG"):
        read_depth_png(tmp_path / "depth.png")


@pytest.mark.parametrize("arguments", [{"encoding": "png"}, {"encoding": "npz:"}, {"scale": 0}, {"scale": np.nan}])
def test_arguments_that_mean_nothing_are_refused_by_name(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        read_depth(tmp_path / "depth.png", **arguments)
