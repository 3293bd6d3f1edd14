"""Photographs found in files, folders and patterns, and read so that a bad one spoils nothing."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from llm_mde.processing import DepthSample, Intrinsics, LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.processing.photographs import (
    Camera,
    PhotographCollator,
    PhotographDataset,
    find_photographs,
    photographs_of_samples,
)


def save_photograph(path, size=(60, 40), seed=0, **options) -> np.ndarray:
    """Writes random RGB levels and returns them, `(height, width, 3)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save(path, **options)
    return levels


class Samples:
    """A map-style data set of two samples, as `DepthDataset` is one."""

    names = ["street/rgb/0001.jpg", "../0002"]

    def __getitem__(self, index):
        image = Image.new("RGB", (6, 4), (10 * index, 20, 30))
        intrinsics = Intrinsics(5.0, 5.0, 2.5, 1.5) if index == 0 else None
        return DepthSample(image, np.ones((4, 6), np.float32), intrinsics, self.names[index])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_photographs_below_the_working_directory_keep_their_paths(here):
    for name in ("photos/b.jpg", "photos/deep/a.PNG", "photos/.hidden/c.jpg", "photos/.d.jpg", "photos/notes.txt"):
        save_photograph(here / name, format="png")
    (here / "photos" / "folder.jpg").mkdir()
    found = find_photographs(["photos"])
    assert [(each.name, each.stem) for each in found] == [
        ("photos/b.jpg", "photos/b"),
        ("photos/deep/a.PNG", "photos/deep/a"),
    ]
    assert [each.stem for each in find_photographs([str(here / "photos" / "b.jpg")])] == ["photos/b"]
    assert [each.stem for each in find_photographs(["photos/**/*.PNG"])] == ["photos/deep/a"]


def test_photographs_elsewhere_keep_their_paths_from_the_folder_that_was_named(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    save_photograph(tmp_path / "album" / "deep" / "a.b.jpg")
    absolute = (tmp_path / "album" / "deep" / "a.b.jpg").as_posix()
    for name, stem in [
        ("../album", "album/deep/a.b"),
        (str(tmp_path / "album"), "album/deep/a.b"),
        ("../album/**/*.jpg", "album/deep/a.b"),
        ("../album/deep", "deep/a.b"),
        ("../album/deep/a.b.jpg", "a.b"),
    ]:
        (found,) = find_photographs([name])
        assert (found.name, found.stem) == (absolute, stem)


def test_a_photograph_named_twice_comes_once_and_the_order_is_kept(here):
    for name in ("photos/a.jpg", "photos/b.jpg", "z[1].jpg"):
        save_photograph(here / name)
    found = find_photographs(["z[1].jpg", "photos/b.jpg", "photos", "photos/*.jpg"])
    assert [each.name for each in found] == ["z[1].jpg", "photos/b.jpg", "photos/a.jpg"]


@pytest.mark.parametrize("name", ["absent.jpg", "empty", "*.jpg"])
def test_a_name_that_leads_to_no_photograph_is_refused(name, here):
    (here / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`images` has .* where no photograph is"):
        find_photographs([name])


def test_samples_are_named_as_their_data_set_names_them_and_stay_below_the_output_folder():
    photographs = photographs_of_samples(Samples())
    assert [(each.name, each.stem) for each in photographs] == [
        ("street/rgb/0001.jpg", "street/rgb/0001"),
        ("../0002", "0002"),
    ]
    levels, camera = photographs[0].read()
    assert levels[:, 0, 0].tolist() == [0, 20, 30]
    assert camera == Camera(Intrinsics(5.0, 5.0, 2.5, 1.5), "data set")
    assert photographs[1].read()[1] is None


def test_a_stream_without_names_is_refused():
    with pytest.raises(ValueError, match="`data` is a generator"):
        photographs_of_samples(sample for sample in Samples())


def test_photographs_are_read_upright_with_the_camera_of_their_exif(here):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: 24}
    levels = save_photograph(here / "a.png", size=(60, 40), exif=exif)
    read = PhotographDataset(find_photographs(["a.png"]))[0]
    assert read.size == (60, 40)
    np.testing.assert_array_equal(read.levels.transpose(1, 2, 0), np.rot90(levels, k=-1))
    assert read.camera.source == "EXIF"
    assert read.camera.intrinsics == Intrinsics(40.0, 40.0, 19.5, 29.5)


def test_bad_and_vanished_files_become_errors_of_one_line(here):
    save_photograph(here / "whole.jpg", size=(200, 200))
    (here / "torn.jpg").write_bytes((here / "whole.jpg").read_bytes()[:2000])
    (here / "words.jpg").write_text("this is\nno picture")
    save_photograph(here / "gone.jpg")
    dataset = PhotographDataset(find_photographs(["torn.jpg", "words.jpg", "gone.jpg", "whole.jpg"]))
    (here / "gone.jpg").unlink()
    for index, name in enumerate(["torn.jpg", "words.jpg", "gone.jpg"]):
        assert dataset[index].levels is None
        assert name in dataset[index].error
        assert "\n" not in dataset[index].error
    assert dataset[3].error is None


@pytest.mark.parametrize("keep_aspect_ratio", [False, True])
def test_batches_are_parted_only_where_the_processor_would_not_make_one_size(keep_aspect_ratio, here, bert_tokenizer):
    for name, size in [("a.png", (60, 40)), ("b.png", (40, 40)), ("c.png", (60, 40))]:
        save_photograph(here / name, size=size)
    (here / "d.png").write_text("no picture")
    image_processor = LLMMDEImageProcessor(
        size={"height": 32, "width": 32}, keep_aspect_ratio=keep_aspect_ratio, ensure_multiple_of=8
    )
    processor = LLMMDEProcessor(image_processor, bert_tokenizer)
    dataset = PhotographDataset(find_photographs(["a.png", "b.png", "c.png", "d.png"]))
    pairs = PhotographCollator(processor, keep_levels=False, text="A street.")([dataset[i] for i in range(4)])
    indices = [[read.index for read in group] for group, _ in pairs]
    assert indices == ([[0, 2], [1], [3]] if keep_aspect_ratio else [[0, 1, 2], [3]])
    *read, (_, nothing) = pairs
    assert nothing is None
    for group, inputs in read:
        assert len(inputs["pixel_values"]) == len(inputs["prompt"]) == len(group)
        assert all("A street." in prompt for prompt in inputs["prompt"])
        assert all(photograph.levels is None for photograph in group)
        expected = processor(images=[dataset.photographs[each.index].path for each in group], return_tensors="pt")
        assert expected["pixel_values"].equal(inputs["pixel_values"])
