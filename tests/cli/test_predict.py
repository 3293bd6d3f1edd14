"""`llm-mde predict`: what it writes, what it leaves alone, what it refuses, and how it goes on after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.prediction_files import PredictionLog, model_digest
from llm_mde.processing import Intrinsics, read_depth, read_depth_png, write_depth_png
from llm_mde.processing.colours import colourise
from llm_mde.processing.point_clouds import back_project, intrinsics_from_fov, read_ply, without_depth_edges
from tests.conftest import child_environment, make_pair

ALL_FORMATS = ["--formats", "png", "npy", "colour", "ply"]
SIZES = {"a": (60, 40), "b": (40, 60), "deep/c": (50, 50), "d": (64, 48), "e": (33, 21)}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("models") / "model", *make_pair())


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five photographs of five sizes below the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed, (name, size) in enumerate(SIZES.items()):
        save_photograph(Path("photos") / f"{name}.png", size, seed)
    return Path("photos")


@pytest.fixture
def predictions(photos, model_folder):
    """Runs the command in this process; returns its exit status and the rows of its summary by stem."""

    def run(*arguments, images=(photos,), output="out", model=model_folder) -> tuple[int, dict[str, dict]]:
        words = [*images, "--model", model, "--output", output, "--num_workers", "0", *arguments]
        try:
            main(["predict", *map(str, words)])
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, PredictionLog(Path(output)).read()

    return run


@pytest.fixture
def predicted(monkeypatch):
    """How many photographs the model has looked at, batch by batch."""
    batches = []
    forward = LLMMDEForDepthEstimation.forward

    def counted(self, pixel_values, *args, **kwargs):
        batches.append(len(pixel_values))
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(LLMMDEForDepthEstimation, "forward", counted)
    return batches


def save_photograph(path, size=(60, 40), seed=0, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save(path, **options)


def read_npy(path) -> np.ndarray:
    return read_depth(path, "npy", scale=1)


READERS = {"npy": read_npy, "png": read_depth_png}


def files_below(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def depth_maps(folder) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): read_npy(path) for path in sorted(Path(folder).rglob("*.npy"))}


def assert_same_depth(folder, other) -> None:
    maps, others = depth_maps(folder), depth_maps(other)
    assert maps.keys() == others.keys()
    for name, depth in maps.items():
        np.testing.assert_allclose(depth, others[name], rtol=0, atol=1e-5)


def test_every_format_tells_the_depth_that_the_model_predicts(predictions):
    status, rows = predictions(*ALL_FORMATS)
    assert status == 0
    assert list(rows) == sorted(f"photos/{name}" for name in SIZES)
    model, processor = make_pair()
    for name, (width, height) in SIZES.items():
        row, image = rows[f"photos/{name}"], Image.open(f"photos/{name}.png")
        inputs = processor(images=image, return_tensors="pt", return_prompt=True)
        assert inputs.pop("prompt") == [row["prompt"]]
        with torch.no_grad():
            outputs = model(**inputs)
        (expected,) = processor.post_process_depth_estimation(outputs, target_sizes=[(height, width)])
        files = {each: Path("out", path) for each, path in row["outputs"].items()}
        depth = read_npy(files["npy"])
        np.testing.assert_allclose(depth, expected["predicted_depth"].numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(read_depth_png(files["png"]), depth, rtol=0, atol=0.00051)
        with Image.open(files["colour"]) as picture:
            limits = [float(picture.text[f"{which}_colour_metres"]) for which in ("first", "last")]
            np.testing.assert_allclose(limits, np.percentile(depth, (2, 98)), rtol=0, atol=1e-4)
            np.testing.assert_array_equal(np.array(picture), colourise(depth))
        points, colours = read_ply(files["ply"])
        np.testing.assert_array_equal(points, back_project(depth, intrinsics_from_fov(width, height, 60)))
        np.testing.assert_array_equal(colours, np.array(image).reshape(-1, 3))
        assert (row["input"], row["status"], row["error"]) == (f"photos/{name}.png", "done", None)
        assert (row["width"], row["height"]) == (width, height)
        assert [row["nearest"], row["median"], row["farthest"]] == pytest.approx(
            [depth.min(), np.median(depth), depth.max()], abs=1e-4
        )
    assert files_below("out") == {
        "predictions.jsonl",
        "settings.json",
        *(
            f"photos/{name}{suffix}"
            for name in SIZES
            for suffix in ("_depth_mm.png", "_depth.npy", "_colour.png", "_points.ply")
        ),
    }


def test_batches_of_any_size_and_workers_give_the_same_depth(predictions, predicted):
    predictions("--formats", "npy", "--batch_size", "1", output="one")
    predictions("--formats", "npy", "--batch_size", "3", output="three")
    assert predicted == [1, 1, 1, 1, 1, 3, 2]
    predictions("--formats", "npy", "--num_workers", "2", output="workers")
    assert len(depth_maps("one")) == 5
    assert_same_depth("one", "three")
    assert_same_depth("one", "workers")


def test_a_processor_that_keeps_the_aspect_ratio_gets_batches_of_one_size(predictions, tmp_path):
    model, processor = make_pair()
    processor.image_processor.keep_aspect_ratio = True
    processor.image_processor.ensure_multiple_of = 8
    folder = write_model_folder(tmp_path / "keeps_aspect_ratio", model, processor)
    status, rows = predictions("--formats", "npy", model=folder)
    assert status == 0
    assert {row["status"] for row in rows.values()} == {"done"}


def test_a_second_run_predicts_only_what_is_missing(predictions, predicted):
    _, first = predictions("--formats", "png", "npy")
    written = {path: path.stat().st_mtime_ns for path in Path("out/photos").rglob("*.*")}
    predicted.clear()
    assert predictions("--formats", "png", "npy") == (0, first)
    assert predicted == []
    Path("out/photos/deep/c_depth.npy").unlink()
    assert predictions("--formats", "png", "npy") == (0, first)
    assert predicted == [1]
    changed = {path for path, at in written.items() if path.stat().st_mtime_ns != at}
    assert changed == {Path("out/photos/deep/c_depth.npy"), Path("out/photos/deep/c_depth_mm.png")}


def test_a_later_format_is_added_and_the_summary_knows_both(predictions, predicted):
    predictions("--formats", "png")
    status, rows = predictions("--formats", "colour")
    assert status == 0
    assert predicted == [5, 5]
    assert all(set(row["outputs"]) == {"png", "colour"} for row in rows.values())
    Path("photos/a.png").write_text("no picture any more")
    status, rows = predictions("--formats", "npy")
    assert status == 1
    assert (rows["photos/a"]["status"], set(rows["photos/a"]["outputs"])) == ("failed", {"png", "colour"})
    assert predictions("--formats", "png")[0] == 1  # that depth is of a photograph that was there before
    assert Path("out/photos/a_depth_mm.png").is_file()


def test_a_photograph_that_has_changed_is_predicted_again_and_depth_of_the_old_one_goes(predictions, predicted):
    predictions("--formats", "npy", "colour")
    before = depth_maps("out")
    save_photograph(Path("photos/a.png"), (60, 40), seed=99)
    predicted.clear()
    status, rows = predictions("--formats", "npy")
    assert status == 0
    assert predicted == [1]
    after = depth_maps("out")
    changed = {name for name, depth in before.items() if not np.array_equal(depth, after[name])}
    assert changed == {"photos/a_depth.npy"}
    assert rows["photos/a"]["outputs"] == {"npy": "photos/a_depth.npy"}
    assert not Path("out/photos/a_colour.png").exists()
    assert Path("out/photos/b_colour.png").exists()
    assert predictions("--formats", "npy") == (0, rows)
    assert predicted == [1]


def test_new_photographs_join_the_summary_of_the_old_ones(predictions, photos, predicted):
    predictions(images=[photos / "a.png"])
    _, rows = predictions(images=[photos / "b.png"])
    assert set(rows) == {"photos/a", "photos/b"}
    assert predicted == [1, 1]


def test_overwriting_predicts_everything_again(predictions, predicted):
    predictions()
    status, rows = predictions("--overwrite", "--text", "A kitchen.")
    assert status == 0
    assert predicted == [5, 5]
    assert all("A kitchen." in row["prompt"] for row in rows.values())


def test_overwriting_with_another_model_leaves_no_depth_of_the_old_one(predictions, tmp_path):
    predictions("--formats", "npy")
    other = write_model_folder(tmp_path / "other", *make_pair(max_depth=20.0))
    status, rows = predictions("--overwrite", "--formats", "png", images=["photos/a.png"], model=other)
    assert status == 0
    assert list(rows) == ["photos/a"]
    assert files_below("out") == {"photos/a_depth_mm.png", "predictions.jsonl", "settings.json"}


def test_overwriting_loses_nothing_before_there_is_something_new(predictions, photos, monkeypatch, tmp_path):
    predictions("--formats", "npy")
    before = depth_maps("out")
    other = write_model_folder(tmp_path / "other", *make_pair(max_depth=20.0))
    with monkeypatch.context() as patched:
        patched.setattr(LLMMDEForDepthEstimation, "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predictions("--overwrite", "--formats", "npy", model=other)
    assert depth_maps("out").keys() == before.keys()
    status, rows = predictions("--formats", "npy", model=other)  # goes on where it was
    assert status == 0 and len(rows) == 5
    assert not any(np.array_equal(depth, before[name]) for name, depth in depth_maps("out").items())


def test_a_log_from_elsewhere_deletes_nothing_outside_its_folder(predictions, tmp_path):
    predictions("--formats", "npy")
    (tmp_path / "mine.npy").write_bytes(b"")
    rows = PredictionLog(Path("out")).read()
    rows["photos/a"]["outputs"]["npy"] = "../mine.npy"
    Path("out/predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    predictions("--overwrite", "--formats", "png", "--text", "A kitchen.")
    assert (tmp_path / "mine.npy").exists()
    assert not list(Path("out").rglob("[b-e]_depth.npy"))


def test_overwriting_with_another_camera_leaves_what_no_camera_changes(predictions):
    predictions("--formats", "npy", "ply", "--fov", "60")
    predictions("--overwrite", "--formats", "ply", "--fov", "70", images=["photos/a.png"])
    assert len(depth_maps("out")) == 5
    assert [path.name for path in Path("out").rglob("*.ply")] == ["a_points.ply"]
    _, rows = predictions("--formats", "npy", "ply", "--fov", "70")
    assert {row["camera"]["source"] for row in rows.values()} == {"--fov 70"}


def test_overwriting_with_the_same_settings_leaves_other_photographs_alone(predictions, predicted):
    predictions("--formats", "npy")
    before = depth_maps("out")
    status, rows = predictions("--overwrite", "--formats", "npy", images=["photos/a.png"])
    assert status == 0 and len(rows) == 5
    assert predicted == [5, 1]
    assert depth_maps("out").keys() == before.keys()
    assert not any({"again", "stale"} & row.keys() for row in rows.values())


def test_a_bad_file_is_one_line_at_the_end_and_the_rest_is_done(predictions, predicted, capsys):
    whole = Path("photos/d.png").read_bytes()
    Path("photos/d.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/words.jpg").write_text("this is\nno picture")
    status, rows = predictions("--batch_size", "2")
    assert status == 1
    assert {stem for stem, row in rows.items() if row["status"] == "failed"} == {"photos/d", "photos/words"}
    assert rows["photos/words"]["outputs"] == {}
    assert len(list(Path("out").rglob("*_depth_mm.png"))) == 4
    lines = capsys.readouterr().out.splitlines()
    assert sum("photos/d.png" in line for line in lines) == sum("photos/words.jpg" in line for line in lines) == 1
    assert any("2 of 6 photographs" in line for line in lines)

    Path("photos/d.png").write_bytes(whole)
    Path("photos/words.jpg").unlink()
    predicted.clear()
    assert predictions()[0] == 0
    assert predicted == [1]


def test_an_error_of_the_model_stops_the_run_and_blames_no_photograph(predictions, monkeypatch, predicted):
    counted = LLMMDEForDepthEstimation.forward

    def exhausted(self, *args, **kwargs):
        if len(predicted) == 2:
            raise torch.OutOfMemoryError("no memory")
        return counted(self, *args, **kwargs)

    monkeypatch.setattr(LLMMDEForDepthEstimation, "forward", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        predictions("--batch_size", "1")
    monkeypatch.setattr(LLMMDEForDepthEstimation, "forward", counted)
    del predicted[:]
    status, rows = predictions("--batch_size", "1")
    assert status == 0
    assert 3 <= len(predicted) < 5  # what was written before the stop is not predicted again
    assert [row["status"] for row in rows.values()] == ["done"] * 5


def test_depth_that_is_not_finite_is_reported_and_not_written(predictions, tmp_path):
    folder = write_model_folder(tmp_path / "broken", *make_pair())
    weights = load_file(folder / "model.safetensors")
    next(weight for name, weight in weights.items() if "patch_embeddings" in name).fill_(torch.inf)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})  # as `save_pretrained` would not
    status, rows = predictions(model=folder)
    assert status == 1
    assert all("not finite" in row["error"] for row in rows.values())
    assert not list(Path("out").rglob("*_depth_mm.png"))


def test_pixels_too_far_for_a_png_are_missing_there_and_counted(predictions, tmp_path, predicted, capsys):
    # The untrained model says about 64 m to 68 m.
    folder = write_model_folder(tmp_path / "far", *make_pair(min_depth=53.0, max_depth=103.0))
    status, rows = predictions("--formats", "png", "npy", model=folder)
    assert status == 0
    num_far = 0
    for row in rows.values():
        depth, stored = (read(Path("out", row["outputs"][name])) for name, read in READERS.items())
        is_far = depth > 65.535
        np.testing.assert_allclose(stored, np.where(is_far, 0, depth), rtol=0, atol=0.00051)
        assert row["pixels_beyond_png"] == is_far.sum()
        num_far += is_far.sum()
    assert 0 < num_far < sum(width * height for width, height in SIZES.values())
    told = f"65.535 m, where 16 bits of millimetres end: {num_far} pixels"
    assert told in capsys.readouterr().out
    predicted.clear()
    assert predictions("--formats", "png", "npy", model=folder)[0] == 0
    assert predicted == []
    assert told in capsys.readouterr().out
    predictions("--formats", "npy", model=folder)
    assert "65.535" not in capsys.readouterr().out


def test_relative_depth_is_written_only_where_no_metres_are_promised(predictions, tmp_path, capsys):
    folder = write_model_folder(tmp_path / "relative", *make_pair(depth_estimation_type="relative"))
    assert predictions("--formats", "png", model=folder) == (2, {})
    assert "unknown factor" in capsys.readouterr().err
    assert not Path("out").exists()
    assert predictions("--formats", "npy", "colour", model=folder)[0] == 0
    with Image.open("out/photos/a_colour.png") as picture:
        assert set(picture.text) == {"first_colour", "last_colour"}


def test_depth_has_the_orientation_in_which_a_photograph_is_displayed(predictions):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save_photograph(Path("turned/stored.png"), seed=7, exif=exif)
    Path("turned/upright.png").parent.mkdir(exist_ok=True)
    levels = np.array(Image.open("turned/stored.png"))
    Image.fromarray(np.rot90(levels, k=-1)).save("turned/upright.png")
    predictions("--formats", "npy", images=["turned"])
    stored, upright = depth_maps("out").values()
    assert stored.shape == (60, 40)
    np.testing.assert_allclose(stored, upright, rtol=0, atol=1e-5)


def test_points_take_the_camera_that_is_known_best(predictions, capsys):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: 24}
    save_photograph(Path("photos/with_exif.jpg"), exif=exif)
    images = ["photos/a.png", "photos/with_exif.jpg"]

    def cameras(*arguments) -> list[tuple]:
        _, rows = predictions("--formats", "ply", "--overwrite", *arguments, images=images)
        assert b"units: metres" in Path("out/photos/a_points.ply").read_bytes()[:400]
        sources = [row["camera"]["source"] for row in rows.values()]
        assert all(
            f"from {source}".encode() in Path("out", row["outputs"]["ply"]).read_bytes()[:400]
            for source, row in zip(sources, rows.values(), strict=True)
        )
        return [(source, round(row["camera"]["fx"], 3)) for source, row in zip(sources, rows.values(), strict=True)]

    # Both are 60 pixels wide: 30 / tan(30 degrees) = 51.962, 60 * 24 / 36 = 40, 30 / tan(45 degrees) = 30.
    assumed = "an assumed horizontal field of view of 60 degrees"
    assert cameras() == [(assumed, 51.962), ("EXIF", 40)]
    assert f"1 of 2 point clouds rest on {assumed}" in capsys.readouterr().out
    assert cameras("--fov", "90") == [("--fov 90", 30)] * 2
    assert assumed not in capsys.readouterr().out
    assert cameras("--intrinsics", "50", "51", "29.5", "19.5") == [("--intrinsics", 50)] * 2


def test_intrinsics_of_a_larger_photograph_give_no_points_and_stop_no_other(predictions, capsys):
    images = ["photos/a.png", "photos/d.png", "photos/e.png"]  # 60 x 40, 64 x 48 and 33 x 21
    status, rows = predictions("--formats", "npy", "ply", "--intrinsics", "50", "50", "35", "20", images=images)
    assert status == 1
    assert {stem: row["status"] for stem, row in rows.items()} == {
        "photos/a": "done",
        "photos/d": "done",
        "photos/e": "incomplete",
    }
    assert set(rows["photos/e"]["outputs"]) == {"npy"}
    assert "camera" not in rows["photos/e"]
    printed = capsys.readouterr().out
    assert "photos/e.png: no points: `intrinsics` has its principal point at (35, 20), outside" in printed
    assert "--intrinsics were taken for photographs of 2 sizes" in printed
    assert predictions("--formats", "ply", "--intrinsics", "50", "50", "35", "20", images=images[:1])[0] == 0
    assert "sizes" not in capsys.readouterr().out


def test_points_at_depth_edges_can_be_left_out(predictions):
    predictions("--formats", "npy", "ply", "--max_angle", "20", "--fov", "90", images=["photos/a.png"])
    depth, camera = read_npy("out/photos/a_depth.npy"), intrinsics_from_fov(60, 40, 90)
    points, colours = read_ply("out/photos/a_points.ply")
    kept = without_depth_edges(depth, camera, max_angle=20)
    assert 0 < len(points) < depth.size
    np.testing.assert_array_equal(points, back_project(kept, camera))
    np.testing.assert_array_equal(colours, np.array(Image.open("photos/a.png"))[kept > 0])


def test_a_data_set_is_predicted_with_its_own_cameras(model_folder, tmp_path, monkeypatch, predictions):
    frames = tmp_path / "frames"
    columns = (
        "rgb,depth,split,dataset,scene,depth_encoding,depth_scale_to_metres,depth_offset_metres,invalid_raw_values,"
        "fx,fy,cx,cy"
    )
    rows = [
        "rgb/1.png,depth/1.png,val,rooms,kitchen,png16,0.001,0,0,70,71,29.5,19.5",
        "rgb/2.png,depth/2.png,train,rooms,bath,png16,0.001,0,0,,,,",
    ]
    for name in ("1", "2"):
        save_photograph(frames / "rgb" / f"{name}.png")
        (frames / "depth").mkdir(exist_ok=True)
        write_depth_png(frames / "depth" / f"{name}.png", np.full((40, 60), 2.0))
    (frames / "index.csv").write_text("\n".join([columns, *rows]) + "\n")
    words = ["--data", str(frames), "--formats", "ply"]
    status, rows = predictions(*words, images=[])
    assert status == 0
    assert list(rows) == ["rgb/1"]
    assert rows["rgb/1"]["input"] == "rgb/1.png"
    assert rows["rgb/1"]["camera"] == {"fx": 70, "fy": 71, "cx": 29.5, "cy": 19.5, "source": "data set"}
    _, rows = predictions(*words, "--eval_split", "all", images=[])
    assert rows["rgb/2"]["camera"]["source"].startswith("an assumed")


def test_results_inside_the_folder_of_photographs_are_not_photographs(predictions, predicted):
    for _ in range(2):
        status, rows = predictions("--formats", "png", "colour", images=["."], output=".")
        assert status == 0
        assert len(rows) == 5
    assert predicted == [5]
    status, _ = predictions(images=["photos/a_depth_mm.png"], output=".")
    assert status == 2


def test_results_of_another_run_are_not_photographs_either(predictions, predicted):
    predictions("--formats", "png", "colour", output="photos/one")
    _, rows = predictions("--formats", "png", output="photos/two")
    assert predicted == [5, 5]
    assert len(rows) == 5


def test_links_to_folders_and_every_suffix_of_a_photograph_are_followed(predictions, tmp_path):
    save_photograph(tmp_path / "elsewhere" / "far.gif")
    save_photograph(Path("photos/f.JFIF"), format="JPEG")
    Path("photos/link").symlink_to(tmp_path / "elsewhere")
    Path("photos/deep/here").symlink_to(tmp_path / "photos")  # back to where it lies
    for one, other in (("x", "y"), ("y", "x")):
        Path(f"photos/{one}").mkdir()
        Path(f"photos/{one}/over").symlink_to(tmp_path / "photos" / other)
    status, rows = predictions()
    assert status == 0
    assert {"photos/link/far", "photos/f"} < set(rows) and len(rows) == 7


def test_a_model_that_reads_no_prompt_takes_no_words(predictions, tmp_path, capsys):
    folder = write_model_folder(tmp_path / "silent", *make_pair(use_prompt=False))
    for flag in ("--text", "--camera"):
        assert predictions(flag, "a kitchen", model=folder) == (2, {})
        assert f"`{flag[2:]}` is 'a kitchen', but" in capsys.readouterr().err
    assert {row["prompt"] for row in predictions(model=folder)[1].values()} == {None}


def test_photographs_that_differ_in_their_suffix_alone_keep_it_in_their_results(predictions, predicted):
    save_photograph(Path("photos/a.jpg"), seed=98)
    save_photograph(Path("photos/a.jpg.png"), seed=99)
    names = ["photos/a.jpg", "photos/a.jpg.png", "photos/a.png", "photos/b.png"]
    status, rows = predictions("--formats", "npy", images=names)
    assert status == 0
    stems = {"photos/a.jpg": names[0], "photos/a.jpg.png": names[1], "photos/a.png": names[2], "photos/b": names[3]}
    assert {stem: row["input"] for stem, row in rows.items()} == stems
    assert set(depth_maps("out")) == {f"{stem}_depth.npy" for stem in stems}
    predicted.clear()
    assert predictions("--formats", "npy", images=names[::-1]) == (0, rows)
    assert predicted == []


def test_photographs_that_would_share_a_file_are_refused_before_anything_runs(
    predictions, predicted, capsys, tmp_path
):
    for parent in ("one", "two"):
        save_photograph(tmp_path.parent / f"{tmp_path.name}_{parent}" / "album" / "a.png")
    albums = [tmp_path.parent / f"{tmp_path.name}_{parent}" / "album" for parent in ("one", "two")]
    assert predictions(images=albums) == (2, {})
    printed = capsys.readouterr().err
    assert "would both be written to 'album/a.png_depth_mm.png'" in printed
    assert printed.count("\n") == 1
    assert predicted == []
    assert not Path("out").exists()

    save_photograph(Path("photos/a.jpg"))
    predictions(images=["photos/a.jpg"])
    assert predictions(images=["photos/a.png"])[0] == 2
    assert "'out/photos/a' is what 'photos/a.jpg' was predicted to" in capsys.readouterr().err
    assert predictions("--overwrite", images=["photos/a.png"])[0] == 0


def test_predictions_with_other_settings_are_not_mixed(predictions, tmp_path, capsys):
    predictions()
    other = write_model_folder(tmp_path / "other", *make_pair())
    assert predictions(model=other)[0] == 2
    assert "`model` is" in capsys.readouterr().err
    assert predictions("--text", "A kitchen.")[0] == 2
    assert "`text` is 'A kitchen.'" in capsys.readouterr().err
    assert predictions("--formats", "ply", "--fov", "70")[0] == 0  # earlier formats do not depend on the camera
    assert predictions("--formats", "ply", "--fov", "80")[0] == 2
    assert predictions("--formats", "png", "--batch_size", "2")[0] == 0


def test_a_model_trained_again_into_its_folder_is_not_mixed_with_what_it_was(predictions, tmp_path, predicted, capsys):
    folder = write_model_folder(tmp_path / "mine", *make_pair())
    predictions("--formats", "npy", model=folder)
    before = depth_maps("out")
    for path in folder.iterdir():
        os.utime(path, (1, 1))  # as copying does; that changes no prediction
    (folder / "README.md").write_text("A card that came later.")
    predicted.clear()
    assert predictions("--formats", "npy", model=folder)[0] == 0
    assert predicted == []

    model, processor = make_pair()
    with torch.no_grad():
        for weight in model.depth_head.parameters():
            weight.mul_(1.5)
    shutil.rmtree(folder)
    write_model_folder(folder, model, processor)
    capsys.readouterr()
    assert predictions("--formats", "npy", model=folder)[0] == 2
    message = capsys.readouterr().err
    assert f"`model` is '{folder}', whose weights or configuration are no longer those" in message
    assert "`--overwrite`" in message
    assert predicted == []
    assert predictions("--formats", "npy", "--overwrite", model=folder)[0] == 0
    assert all(not np.allclose(depth, before[name], atol=1e-4) for name, depth in depth_maps("out").items())


def test_the_digest_of_an_adapter_changes_with_its_base_and_the_one_of_a_hub_id_is_its_commit(tmp_path):
    peft = pytest.importorskip("peft")
    model, processor = make_pair()
    base = write_model_folder(tmp_path / "base", model, processor)
    model = LLMMDEForDepthEstimation.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"]))
    adapter = write_adapter_folder(tmp_path / "adapter", adapted, processor)
    found = load_model_and_processor(adapter, device="cpu")[0].name_or_path
    digests = [model_digest(str(adapter), None, found)]
    assert model_digest(str(adapter), None, found) == digests[0]
    with (base / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    digests.append(model_digest(str(adapter), None, found))
    (adapter / "adapter_model.safetensors").write_bytes(b"others")
    digests.append(model_digest(str(adapter), None, found))
    assert len(set(digests)) == 3

    snapshot = tmp_path / "models--me--mine" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert model_digest(str(snapshot), None, "") == "0123456789" * 4


def test_a_data_set_read_in_another_way_is_predicted_again(predictions, tmp_path, predicted):
    for each in ("rgb", "depth"):
        (tmp_path / "frames" / each).mkdir(parents=True)
    save_photograph(tmp_path / "frames" / "rgb" / "1.png", (1240, 370))
    write_depth_png(tmp_path / "frames" / "depth" / "1.png", np.full((370, 1240), 2.0))
    words = ["--data", str(tmp_path / "frames"), "--eval_split", "all", "--formats", "npy"]
    assert predictions(*words, images=[])[0] == 0
    assert predictions(*words, images=[])[0] == 0
    assert predicted == [1]
    save_photograph(tmp_path / "frames" / "rgb" / "1.png", (1240, 370), seed=9)
    assert predictions(*words, images=[])[0] == 0
    assert predicted == [1, 1]
    assert predictions(*words, "--kb_crop", "true", images=[])[0] == 0
    assert predicted == [1, 1, 1]
    assert depth_maps("out")["rgb/1_depth.npy"].shape == (352, 1216)


def test_a_table_with_other_photographs_is_predicted_again(predictions, tmp_path, predicted):
    datasets = pytest.importorskip("datasets")
    words = ["--data", str(tmp_path / "table"), "--depth_scale", "1", "--eval_split", "all", "--formats", "npy"]
    (tmp_path / "table").mkdir()
    for level in (50, 200, 200):
        row = {"image": np.full((20, 30, 3), level, np.uint8).tolist(), "depth": np.full((20, 30), 2.0).tolist()}
        if level == 50 or len(predicted) == 1:
            datasets.Dataset.from_list([row]).to_parquet(tmp_path / "table" / "train.parquet")
        assert predictions(*words, images=[])[0] == 0
    assert predicted == [1, 1]


def test_flags_of_training_are_refused_beside_a_data_set(predictions, capsys):
    assert predictions("--data", "frames", "--shots", "5", images=[])[0] == 2
    assert "`shots` is '5', which is about training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "exr"], "`formats` is ['exr']; choose from png, npy, colour, ply"),
        (["--batch_size", "0"], "`batch_size` is 0"),
        (["--num_workers", "-1"], "`num_workers` is -1"),
        (["--intrinsics", "50", "50"], "`intrinsics` is [50.0, 50.0]"),
        (["--intrinsics", "0", "50", "1", "1"], "`intrinsics` is [0.0"),
        (["--intrinsics", "50", "50", "nan", "1"], "`intrinsics` is [50.0, 50.0, nan"),
        (["--intrinsics", "50", "50", "1", "1"], "`intrinsics` is [50.0, 50.0, 1.0, 1.0], but `formats` is ['png']"),
        (["--formats", "npy", "--fov", "60"], "add ply to `--formats`, or leave `--fov` out"),
        (["--max_angle", "85"], "`max_angle` is 85.0, but `formats`"),
        (["--depth_scale", "3"], "`depth_scale` is 3.0, which is about a data set (`--data`)"),
        (["--kb_crop", "true"], "`kb_crop` is True, which is about a data set"),
        (["--shots", "5"], "`shots` is '5', which is about a data set"),
        (["--output", "photos/a.png"], "`output` is 'photos/a.png', which is a file"),
        (["--fov", "180"], "`fov` is 180"),
        (["--max_angle", "90"], "`max_angle` is 90"),
        (["--fov", "60", "--intrinsics", "50", "50", "1", "1"], "give one of them"),
        (["--data", "frames"], "`images` and `data`"),
        (["--images", "photos"], "`--images` is given"),
        (["--device", "abacus"], "`device` is 'abacus'"),
        (["--model", "/no/such/model"], "`name_or_path` is '/no/such/model'"),
    ],
)
def test_a_wrong_argument_ends_in_one_line_and_leaves_no_folder(arguments, message, predictions, capsys):
    assert predictions(*arguments)[0] == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-mde")]
    assert len(printed) == 1
    assert message in printed[0]
    assert not Path("out").exists()


def test_a_missing_name_and_no_name_at_all_are_refused(predictions, capsys):
    assert predictions(images=["absent.jpg"])[0] == 2
    assert "'absent.jpg', where no photograph is" in capsys.readouterr().err
    assert predictions(images=[])[0] == 2
    assert "`images` and `data`" in capsys.readouterr().err


def test_arguments_can_come_from_a_file(photos, model_folder):
    Path("run.yaml").write_text(f"model: {model_folder}\nimages: [photos/a.png]\noutput: out\nformats: [npy]\n")
    main(["predict", "run.yaml", "--num_workers", "0"])
    assert list(depth_maps("out")) == ["photos/a_depth.npy"]


def test_the_log_of_a_killed_run_is_read_up_to_its_torn_line(tmp_path):
    log, other = PredictionLog(tmp_path), PredictionLog(tmp_path, rank=1)
    log.start({"model": "m"})
    log.add({"stem": "b", "run": 1})
    log.merge()
    other.add({"stem": "a", "run": 2})
    log.add({"stem": "b", "run": 2})
    log.add({"stem": "c", "run": 2})
    part = tmp_path / "predictions.0.part"
    part.write_bytes(part.read_bytes()[:-3])
    (tmp_path / f".a_depth.npy.{'0' * 32}.tmp").write_bytes(b"half")
    (tmp_path / ".mine.tmp").write_bytes(b"not ours")

    log = PredictionLog(tmp_path)
    log.start({"fov": 60})
    assert list(log.read().items()) == [("a", {"stem": "a", "run": 2}), ("b", {"stem": "b", "run": 2})]
    assert files_below(tmp_path) == {"predictions.jsonl", "settings.json", ".mine.tmp"}
    assert json.loads((tmp_path / "settings.json").read_text()) == {"model": "m", "fov": 60}
    log.start({"fov": 60}, overwritten=["a"])
    assert [row["again"] for row in log.read().values()] == [True, False]
    log.start({"model": "n"}, overwritten=[])
    assert json.loads((tmp_path / "settings.json").read_text()) == {"model": "n"}


def command(*arguments, launcher=()) -> list[str]:
    """The command for a process of its own, on CPUs."""
    return [sys.executable, "-m", *launcher, "llm_mde.cli", "predict", *map(str, arguments)]


@pytest.mark.slow
def test_two_processes_share_the_photographs_and_write_what_one_would(predictions, photos, model_folder):
    pytest.importorskip("accelerate")
    Path("photos/words.jpg").write_text("no picture")
    options = ["--model", model_folder, "--formats", "npy", "ply", "--num_workers", "0"]
    assert predictions("--formats", "npy", "ply", output="one")[0] == 1
    # On CPUs `accelerate launch --cpu --num_processes 2` starts one process; `--multi_gpu` starts two.
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    process = subprocess.run(
        command(photos, *options, "--output", "two", launcher=[*launcher, "-m"]),
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "6 photographs, 0 of them predicted before" in process.stdout, process.stderr
    assert process.stdout.count("Summary") == 1  # the main process speaks
    assert "3/3" in process.stderr  # of its half of the photographs
    assert process.returncode == 1
    assert files_below("one") == files_below("two")
    assert_same_depth("one", "two")
    rows = [PredictionLog(Path(output)).read() for output in ("one", "two")]
    assert [row["status"] for row in rows[0].values()] == [row["status"] for row in rows[1].values()]
    assert list(rows[0]) == list(rows[1])


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_a_whole_and_correct_set(predictions, photos, model_folder):
    for seed in range(40):
        save_photograph(Path(f"many/{seed:02d}.png"), (120, 90), seed)
    formats = ["--formats", "png", "npy", "ply"]
    words = ["many", "--model", model_folder, "--output", "killed", *formats, "--batch_size", "1"]
    process = subprocess.Popen(command(*words), env=child_environment(), stderr=subprocess.DEVNULL)
    part = Path("killed/predictions.0.part")
    deadline = time.monotonic() + 120
    while not (part.exists() and part.read_text().count("\n") >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = part.read_text().count("\n")
    assert 3 <= done < 40
    rows = [json.loads(line) for line in part.read_text().splitlines()[:done]]
    finished = {Path("killed", path) for row in rows for path in row["outputs"].values()}
    times = {path: path.stat().st_mtime_ns for path in finished}

    assert predictions(*formats, images=["many"], output="killed")[0] == 0
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())
    assert predictions(*formats, images=["many"], output="fresh")[0] == 0
    assert len(depth_maps("killed")) == 40
    assert files_below("killed") == files_below("fresh")
    assert_same_depth("killed", "fresh")
    for name in depth_maps("fresh"):
        png, ply = (f"killed/{name}".replace("_depth.npy", suffix) for suffix in ("_depth_mm.png", "_points.ply"))
        np.testing.assert_allclose(read_depth_png(png), read_npy(f"killed/{name}"), rtol=0, atol=0.00051)
        assert len(read_ply(ply)[0]) == 120 * 90
    assert PredictionLog(Path("killed")).read().keys() == PredictionLog(Path("fresh")).read().keys()


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA names no folder of real photographs")
def test_real_photographs_of_every_mode_and_orientation(predictions):
    photographs = Path(os.environ["LLM_MDE_DATA"]) / "photos"
    if not photographs.is_dir():
        pytest.skip("LLM_MDE_DATA has no photos/")
    status, rows = predictions("--formats", "npy", "ply", images=[photographs])
    assert status == 0
    assert len(rows) == 11
    turned = rows["photos/exif_orientation_6"]
    assert (turned["width"], turned["height"]) == (1800, 1200)
    assert rows["photos/lund_street_exif"]["camera"]["source"] == "EXIF"
    for row in rows.values():
        depth = read_npy(Path("out", row["outputs"]["npy"]))
        assert depth.shape == (row["height"], row["width"])
        points, _ = read_ply(Path("out", row["outputs"]["ply"]))
        camera = Intrinsics(**{name: row["camera"][name] for name in ("fx", "fy", "cx", "cy")})
        np.testing.assert_array_equal(points, back_project(depth, camera))
