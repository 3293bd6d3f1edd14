"""Folders of photographs with depth: both layouts, their splits, and what is wrong with a folder, said at once."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from transformers.utils.logging import warning_once

from llm_mde.processing import (
    DepthAugmentation,
    DepthDataset,
    DepthSample,
    Intrinsics,
    LLMMDEImageProcessor,
    RGBDFolder,
    write_depth_png,
)
from llm_mde.processing.datasets import median_depth
from llm_mde.processing.depth_files import write_depth_npy
from tests.processing.data_folders import index_row, write_index


def write_pair(root, stem, metres=1.0, size=(8, 6)):
    """A photograph and its constant depth under rgb/ and depth/."""
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(root / "rgb" / f"{stem}.png")
    write_depth_png(root / "depth" / f"{stem}.png", np.full((size[1], size[0]), metres))


@pytest.fixture
def indexed(tmp_path):
    """Three pairs at 1, 2 and 3 m; a depth of 2 m is a code for "missing" in this data."""
    for number in (1, 2, 3):
        write_pair(tmp_path, str(number), metres=number)
    camera = {"fx": "500.5", "fy": "501", "cx": "4", "cy": "3"}
    write_index(tmp_path, [index_row("1", **camera), index_row("2", dataset="home"), index_row("3", split="val")])
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
    assert RGBDFolder(indexed, dataset="home", check_units=False).names == ["rgb/2.png"]
    assert len(RGBDFolder(indexed, split=None)) == 3


def test_invalid_raw_values_are_missing_and_an_unknown_camera_is_none(indexed):
    sample = RGBDFolder(indexed, dataset="home", check_units=False)[0]
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
    write_index(snapshot, [index_row("1")])
    assert (RGBDFolder(snapshot)[0].depth == 1).all()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def upright(array, orientation):
    """An array as Pillow turns an image of this orientation."""
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    return np.array(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("is_upright", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_and_its_depth_as_for_prediction(tmp_path, orientation, is_upright):
    write_pair(tmp_path, "1")
    photograph = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path / "rgb" / "1.png"
    Image.fromarray(photograph).save(path, exif=exif_of(orientation))
    depth = np.arange(1, 49, dtype=np.float32).reshape(6, 8) / 8
    depth = upright(depth, orientation) if is_upright else depth
    write_depth_png(tmp_path / "depth" / "1.png", depth)
    frames = RGBDFolder(tmp_path, split=None)
    sample = frames[0]
    assert np.array_equal(np.asarray(sample.image), upright(photograph, orientation))
    expected = LLMMDEImageProcessor(do_resize=False)(path, depth, return_tensors="np")["labels"][0]
    assert np.array_equal(sample.depth, expected)
    assert np.array_equal(frames.depth(0), expected)


def as_text_of_png(path, photograph, key):
    """Where files that went through other programs carry their orientation: XMP, or EXIF as ImageMagick writes it."""
    text = PngImagePlugin.PngInfo()
    if key == "xmp":
        text.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    else:
        raw = exif_of(6).tobytes()
        text.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n")
    photograph.save(path, pnginfo=text)


@pytest.mark.parametrize("key", ["xmp", "raw profile", "exif"])
def test_an_augmented_sample_cannot_be_turned_once_more_by_metadata(tmp_path, key):
    write_pair(tmp_path, "1")
    path, photograph = tmp_path / "rgb" / "1.png", Image.new("RGB", (8, 6), (200, 100, 50))
    if key == "exif":
        photograph.save(path, exif=exif_of(6))
    else:
        as_text_of_png(path, photograph, key)
    with Image.open(path) as stored:
        assert stored.getexif()[0x0112] == 6
    sample = RGBDFolder(tmp_path, split=None)[0]
    assert sample.image.info == {}
    assert sample.image.size == sample.depth.shape[::-1] == (6, 8)
    changed = DepthAugmentation(flip=1.0, min_crop=1.0, grayscale=1.0)(sample, torch.Generator().manual_seed(0))
    assert changed.image.getexif().get(0x0112, 1) == 1
    inputs = LLMMDEImageProcessor(do_resize=False)(changed.image, changed.depth, return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == inputs["labels"].shape[-2:] == (8, 6)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_camera_is_turned_with_photograph_and_depth(indexed, orientation):
    """The pixel at the principal point stays there."""
    photograph = np.zeros((6, 8, 3), np.uint8)
    photograph[3, 1] = 255
    Image.fromarray(photograph).save(indexed / "rgb" / "1.png", exif=exif_of(orientation))
    write_index(indexed, [index_row("1", fx="500", fy="501", cx="1", cy="3")])
    sample = RGBDFolder(indexed)[0]
    assert (sample.intrinsics.fx, sample.intrinsics.fy) == (501, 500)
    assert sample.image.getpixel((int(sample.intrinsics.cx), int(sample.intrinsics.cy))) == (255, 255, 255)


def test_a_camera_of_an_unknown_grid_is_left_out_with_a_warning(indexed, caplog):
    Image.new("RGB", (8, 6)).save(indexed / "rgb" / "1.png", exif=exif_of(6))
    write_depth_png(indexed / "depth" / "1.png", np.ones((8, 6)))
    warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="llm_mde.processing.depth_readers"):
        assert [RGBDFolder(indexed)[0].intrinsics for _ in range(2)] == [None, None]
    assert ["turned upright" in record.getMessage() for record in caplog.records] == [True]


def test_depth_that_fits_a_turned_photograph_neither_way_is_refused_with_its_orientation(indexed):
    Image.new("RGB", (8, 6)).save(indexed / "rgb" / "1.png", exif=exif_of(6))
    write_depth_png(indexed / "depth" / "1.png", np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"6x8 \(turned upright by its EXIF orientation 6\) but .* is 4x4"):
        RGBDFolder(indexed)[0]


def test_transparent_pixels_lie_over_white_as_for_prediction(indexed):
    Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(indexed / "rgb" / "1.png")
    assert RGBDFolder(indexed)[0].image.getpixel((0, 0)) == (255, 255, 255)


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
        (dict.fromkeys(("fx", "fy", "cx", "cy"), "0"), "line 2.*positive focal lengths"),
        ({"rgb": "rgb/7.png"}, r"1 of the files it lists are not there.*7\.png"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_at_construction(indexed, changes, message):
    write_index(indexed, [index_row("1", **changes)])
    with pytest.raises(ValueError, match=message):
        RGBDFolder(indexed)


def test_missing_columns_are_named(indexed):
    write_index(indexed, [index_row("1")], columns=("rgb", "depth", "split"))
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


def test_depth_of_a_plain_folder_may_be_arrays_in_metres(tmp_path):
    write_pair(tmp_path, "1", metres=2)
    (tmp_path / "depth" / "1.png").unlink()
    write_depth_npy(tmp_path / "depth" / "1.npy", np.full((6, 8), 2.5))
    assert RGBDFolder(tmp_path, split=None)[0].depth[0, 0] == 2.5
    assert RGBDFolder(tmp_path, split=None, depth_scale=2.0)[0].depth[0, 0] == 5


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp", "JPG"])
def test_every_photograph_that_can_be_predicted_can_be_trained_on(tmp_path, suffix):
    write_pair(tmp_path, "1")
    (tmp_path / "rgb" / "1.png").unlink()
    Image.new("RGB", (8, 6), (0, 0, 255)).save(tmp_path / "rgb" / f"1.{suffix}")
    sample = RGBDFolder(tmp_path, split=None)[0]
    assert sample.name == f"rgb/1.{suffix}"
    assert sample.image.getpixel((3, 3))[2] > 250


def test_pairs_may_lie_in_the_same_subfolders(tmp_path):
    for scene, metres in [("room_10", 3), ("room_9", 2)]:
        for folder in ("rgb", "depth"):
            (tmp_path / folder / scene).mkdir(parents=True)
        write_pair(tmp_path, f"{scene}/1", metres=metres)
    folder = RGBDFolder(tmp_path, split=None)
    assert folder.names == ["rgb/room_9/1.png", "rgb/room_10/1.png"]
    assert [float(sample.depth[0, 0]) for sample in folder] == [2, 3]


@pytest.mark.parametrize(("folder", "split"), [("val", "val"), ("validation", "val"), ("test", "test")])
def test_parts_that_somebody_made_are_the_splits(tmp_path, folder, split):
    for part, metres in [("train", 1), (folder, 2)]:
        write_pair(tmp_path / part, "1", metres=metres)
    assert RGBDFolder(tmp_path).names == ["train/rgb/1.png"]
    assert RGBDFolder(tmp_path, split=split)[0].depth[0, 0] == 2
    assert RGBDFolder(tmp_path, split=None).names == ["train/rgb/1.png", f"{folder}/rgb/1.png"]
    with pytest.raises(ValueError, match=f"`split` is 'other', but .* has the parts train, {split}"):
        RGBDFolder(tmp_path, split="other")


def test_files_that_no_pair_takes_are_named_and_hidden_ones_are_not_looked_at(tmp_path):
    write_pair(tmp_path, "1")
    for hidden in ("._1.png", ".thumbnails/1.png"):
        (tmp_path / "rgb" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "rgb" / hidden).write_bytes(b"")
    assert RGBDFolder(tmp_path, split=None).names == ["rgb/1.png"]
    (tmp_path / "depth" / "1.png").rename(tmp_path / "depth" / "1.exr")
    with pytest.raises(ValueError, match=r"the first '1'; .* Ignored in depth/: 1 \.exr; it takes \.png, \.npy\.$"):
        RGBDFolder(tmp_path)
    (tmp_path / "rgb" / "1.png").rename(tmp_path / "rgb" / "1.heic")
    with pytest.raises(ValueError, match=r"rgb/ holds no photograph .* Ignored in rgb/: 1 \.heic"):
        RGBDFolder(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_depth_of_eight_bits_is_refused_with_a_way_that_a_plain_folder_has(tmp_path, mode):
    write_pair(tmp_path, "1")
    Image.new(mode, (8, 6)).save(tmp_path / "depth" / "1.png")
    with pytest.raises(ValueError, match=f"mode {mode}, but depth/ takes PNGs of 16 bits .* index.csv"):
        RGBDFolder(tmp_path, split=None)


def test_a_digit_that_is_no_decimal_may_stand_in_a_name(tmp_path):
    for stem in ("1", "1\u00b2"):
        write_pair(tmp_path, stem)
    assert RGBDFolder(tmp_path, split=None).names == ["rgb/1.png", "rgb/1\u00b2.png"]


def test_a_folder_checks_its_units_unless_told_otherwise(tmp_path):
    write_pair(tmp_path, "1", metres=5)
    with pytest.raises(ValueError, match=r"median depth of 1 samples is 5000 m.*pass `check_units=False`"):
        RGBDFolder(tmp_path, split=None, depth_scale=1)
    assert RGBDFolder(tmp_path, split=None, depth_scale=1, check_units=False)[0].depth[0, 0] == 5000


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
