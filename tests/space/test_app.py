"""The Space without a browser: what it computes, in metres, what it refuses, what it leaves behind, its API."""

import io
import json
import os
import re
import struct
import sys
import threading
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BertConfig

from llm_mde import LLMMDEDepthEstimationPipeline, LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.page.downloads import camera_of, field_of_view, write_depth_files, write_scene_files
from llm_mde.page.estimator import MAX_PROMPT_CHARACTERS, PICTURE_SIDE, DepthEstimator, load_estimator
from llm_mde.page.settings import DEMONSTRATION, DEMONSTRATION_NAME, SpaceSettings, read_space_settings
from llm_mde.page.uploads import MAX_PIXELS, Refusal, Upload, read_upload
from llm_mde.page.views import camera_note, compared, facts, legend, marked, prompt_note, reading, region
from llm_mde.processing import read_depth_png
from llm_mde.processing.depth_files import read_depth
from llm_mde.processing.point_clouds import read_ply
from tests.conftest import make_model, make_pair
from tests.processing.conftest import make_gpt_tokenizer
from tests.space.conftest import load_app, make_photograph, run_app, set_environment

PHOTOGRAPH = make_photograph()


@pytest.fixture(scope="module")
def estimator(base):
    return load_estimator(str(base), device="cpu")


@pytest.fixture(scope="module")
def estimate(estimator):
    return estimator.estimate(Upload(PHOTOGRAPH))


def depth_by_hand(folder, photograph=PHOTOGRAPH, **kwargs) -> np.ndarray:
    """Metres at the size of the photograph, from the model's own call."""
    model, processor = load_model_and_processor(folder, device="cpu")
    inputs = processor(images=Image.fromarray(photograph), return_tensors="pt", **kwargs)
    with torch.no_grad():
        outputs = model(**inputs)
    (result,) = processor.post_process_depth_estimation(outputs, [photograph.shape[:2]])
    return result["predicted_depth"].numpy()


# Depth


def test_depth_is_that_of_the_pipeline_in_metres(base, estimator, estimate):
    model, processor = load_model_and_processor(base, device="cpu")
    expected = LLMMDEDepthEstimationPipeline(model=model, processor=processor)(Image.fromarray(PHOTOGRAPH))
    assert estimate.prompt == expected["prompt"]
    np.testing.assert_allclose(estimator.metres(estimate), expected["predicted_depth"].numpy(), rtol=1e-6)
    assert estimator.metres(estimate).shape == PHOTOGRAPH.shape[:2]
    assert estimate.milliseconds > 0


def test_a_large_photograph_is_kept_small_and_its_depth_is_not(estimator):
    large = make_photograph(height=900, width=1500)
    estimate = estimator.estimate(Upload(large))
    assert estimate.picture.shape == (614, PICTURE_SIDE, 3)  # 900 * 1024 / 1500 = 614.4
    assert estimator.metres(estimate).shape == (900, 1500)


def test_another_prompt_gives_the_depth_that_the_model_has_for_it(base, estimator, estimate):
    prompt = "A kitchen scene."
    changed = estimator.with_prompt(estimate, prompt)
    assert changed.prompt == prompt
    expected = depth_by_hand(base, prompt=prompt)
    np.testing.assert_allclose(estimator.metres(changed), expected, rtol=1e-6)
    assert np.abs(expected - estimator.metres(estimate)).max() > 0
    at_once = estimator.estimate(Upload(PHOTOGRAPH), prompt=prompt)
    np.testing.assert_allclose(estimator.metres(at_once), expected, rtol=1e-6)


def test_a_prompt_is_bounded_and_a_cut_is_told(estimator, estimate):
    with pytest.raises(Refusal, match="blank"):
        estimator.with_prompt(estimate, " \n")
    with pytest.raises(Refusal, match=f"{MAX_PROMPT_CHARACTERS + 1} characters"):
        estimator.with_prompt(estimate, "a" * (MAX_PROMPT_CHARACTERS + 1))
    assert "only" not in prompt_note(estimator, estimate)
    long = estimator.with_prompt(estimate, "a street scene " * 100)
    assert long.num_tokens == 302  # 300 words, [CLS] and [SEP]
    assert "302 tokens, of which the model has read the first 96 only" in prompt_note(estimator, long)


def test_prompts_are_compared_on_one_scale(base, estimator, estimate):
    model, processor = load_model_and_processor(base, device="cpu")
    ours, default, nothing = estimator.compare_prompts(estimate)
    special = torch.tensor([[processor.tokenizer.cls_token_id, processor.tokenizer.sep_token_id]])
    for comparison, options in ((default, {}), (nothing, {"input_ids": special})):
        with torch.no_grad():
            depth = model(pixel_values=estimate.pixel_values, **options).predicted_depth[0]
        difference = (depth - estimate.model_depth).abs()
        assert comparison.metres == pytest.approx(difference.mean().item(), rel=1e-4) and comparison.metres > 0
        assert comparison.percent == pytest.approx(100 * (difference / estimate.model_depth).mean().item(), rel=1e-4)
        (expected,) = processor.post_process_depth_estimation(
            SimpleNamespace(predicted_depth=depth[None]), [PHOTOGRAPH.shape[:2]]
        )
        np.testing.assert_allclose(comparison.depth, expected["predicted_depth"].numpy(), rtol=1e-6)
    assert (ours.metres, ours.percent) == (0, 0)
    pictures, table = compared(estimator, estimate, "viridis")
    assert [picture.shape for picture in pictures] == [estimate.picture.shape] * 3
    assert f"{default.metres:.4f} m" in table and "special tokens only" in table


def test_a_model_that_reads_no_prompt_has_none_to_compare(tmp_path):
    model, processor = make_pair(use_prompt=False)
    estimator = load_estimator(str(write_model_folder(tmp_path / "model", model, processor)), device="cpu")
    estimate = estimator.estimate(Upload(PHOTOGRAPH))
    assert "no prompt" in prompt_note(estimator, estimate)
    with pytest.raises(Refusal, match="reads no prompt"):
        estimator.compare_prompts(estimate)


def test_without_special_tokens_no_prompt_is_the_patches_alone():
    tokenizer = make_gpt_tokenizer()
    text_config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=37,
        max_position_embeddings=256,
    )
    processor = LLMMDEProcessor(LLMMDEImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    default = processor.default_prompt_ids()
    model = make_model(text_config=text_config, max_prompt_length=128, default_prompt_ids=default)
    estimator = DepthEstimator(model, {None: processor}, {None: []})
    estimate = estimator.estimate(Upload(PHOTOGRAPH))
    nothing = estimator.compare_prompts(estimate)[2]
    model.config.use_prompt = False
    alone = estimator.estimate(Upload(PHOTOGRAPH))
    np.testing.assert_allclose(nothing.depth, estimator.metres(alone), rtol=1e-6)


def test_a_model_without_a_scale_is_refused(tmp_path):
    model, processor = make_pair(depth_estimation_type="relative")
    folder = write_model_folder(tmp_path / "model", model, processor)
    with pytest.raises(ValueError, match="unknown factor"):
        load_estimator(str(folder))


def test_a_region_reads_the_prototypes_its_patch_attends_to(base, estimator, estimate):
    model, processor = load_model_and_processor(base, device="cpu")
    with torch.no_grad():
        inputs = processor(images=Image.fromarray(PHOTOGRAPH), return_tensors="pt")
        attentions = model(**inputs, output_prototype_attentions=True).prototype_attentions
    # 4 x 4 patches of 20 x 15 pixels: column 45 is in the third, row 50 in the fourth.
    shares = attentions[0, :, 3 * 4 + 2].mean(dim=0)
    read = estimator.region(estimate, 45, 50)
    assert [each.prototype for each in read] == shares.topk(5).indices.tolist()
    np.testing.assert_allclose([each.share for each in read], shares.topk(5).values.tolist(), rtol=1e-5)
    for each in read:
        words = [processor.tokenizer.decode([token]) for token, _ in model.nearest_words(each.prototype, k=6)]
        assert [word for word, _ in each.words] == words
    assert f"{read[0].share:.1%}" in region(estimator, estimate, 45, 50)


# Adapters


@pytest.fixture(scope="module")
def adapted(base, adapters):
    places = {name: (str(folder), None) for name, folder in adapters.items()}
    return load_estimator(str(base), adapters=places, device="cpu")


def test_every_adapter_predicts_as_it_does_merged_and_the_switch_is_immediate(base, adapters, adapted):
    expected = {None: depth_by_hand(base), **{name: depth_by_hand(folder) for name, folder in adapters.items()}}
    assert adapted.adapters == ["indoor", "street"]
    assert np.abs(expected["indoor"] - expected["street"]).max() > 1e-3
    for name in ("indoor", None, "street", "indoor", None):
        estimate = adapted.estimate(Upload(PHOTOGRAPH), adapter=name)
        np.testing.assert_allclose(adapted.metres(estimate), expected[name], rtol=1e-4)
        again = adapted.with_prompt(estimate, estimate.prompt)
        assert again.adapter == name and torch.equal(again.model_depth, estimate.model_depth)


def test_people_with_different_adapters_do_not_disturb_each_other(adapted):
    names = [None, "indoor", "street"]
    alone = {name: adapted.estimate(Upload(PHOTOGRAPH), adapter=name).model_depth for name in names}
    results = []

    def ask(name):
        for _ in range(5):
            results.append((name, adapted.estimate(Upload(PHOTOGRAPH), adapter=name).model_depth))

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15 and all(torch.equal(depth, alone[name]) for name, depth in results)


def test_an_adapter_brings_the_words_of_its_own_prototypes(adapters, adapted):
    for name, folder in adapters.items():
        model, processor = load_model_and_processor(folder, device="cpu")
        expected = [processor.tokenizer.decode([token]) for token, _ in model.nearest_words(3, k=6)]
        assert [word for word, _ in adapted.words[name][3]] == expected
    assert adapted.words["indoor"] != adapted.words["street"]


def test_an_unknown_adapter_is_refused(adapted):
    with pytest.raises(Refusal, match="'garden'"):
        adapted.estimate(Upload(PHOTOGRAPH), adapter="garden")


def test_a_folder_that_is_no_adapter_is_one_clear_line(base, tmp_path):
    pytest.importorskip("peft", reason="adapters need PEFT")
    with pytest.raises(ValueError, match=r"'indoor', but the folder .* has no adapter_config\.json\.$"):
        load_estimator(str(base), adapters={"indoor": (str(tmp_path), None)})


# Files


def test_files_hold_the_same_metres(estimator, estimate, tmp_path):
    depth = estimator.metres(estimate)
    png, npy = write_depth_files(tmp_path, depth)
    assert np.load(npy).dtype == np.float32
    np.testing.assert_array_equal(np.load(npy), depth)
    np.testing.assert_allclose(read_depth_png(png), depth, atol=0.0005)


def test_depth_beyond_the_png_is_missing_there_and_not_clipped(tmp_path):
    png, npy = write_depth_files(tmp_path, np.array([[1.0, 80.0]], dtype=np.float32))
    np.testing.assert_array_equal(read_depth_png(png), np.array([[1, 0]], dtype=np.float32))
    np.testing.assert_array_equal(read_depth(npy, "npy", 1), [[1, 80]])


def test_the_scene_lies_where_the_camera_saw_it(estimator, estimate, tmp_path):
    camera = camera_of(estimate, fov=70.0)
    glb, ply = write_scene_files(tmp_path, estimator, estimate, camera)
    points, colours = read_ply(ply)
    depth, intrinsics = estimator.metres(estimate), camera.intrinsics
    u = np.rint(points[:, 0] / points[:, 2] * intrinsics.fx + intrinsics.cx).astype(int)
    v = np.rint(points[:, 1] / points[:, 2] * intrinsics.fy + intrinsics.cy).astype(int)
    np.testing.assert_allclose(points[:, 2], depth[v, u], rtol=1e-5)
    np.testing.assert_array_equal(colours, PHOTOGRAPH[v, u])
    assert len(points) > 0.5 * depth.size
    content = glb.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    header = json.loads(content[20 : 20 + struct.unpack("<I", content[12:16])[0]])
    assert header["accessors"][0]["count"] == len(points)


def test_the_scene_of_a_large_photograph_has_its_camera_shrunk_along(estimator, tmp_path):
    estimate = estimator.estimate(Upload(make_photograph(height=900, width=1200)))
    _, ply = write_scene_files(tmp_path, estimator, estimate, camera_of(estimate, intrinsics=(900, 800, 500, 400)))
    points, _ = read_ply(ply)
    # 400 points for 1200 columns: u * 3 + 1 are the middles of three.
    columns = points[:, 0] / points[:, 2] * 900 + 500
    rows = points[:, 1] / points[:, 2] * 800 + 400
    for pixels in (columns, rows):
        np.testing.assert_allclose((pixels - 1) / 3, np.rint((pixels - 1) / 3), atol=2e-3)
    assert columns.max() == pytest.approx(1198, abs=3.1) and rows.min() == pytest.approx(1, abs=3.1)


def test_a_photograph_of_one_line_becomes_points(estimator, tmp_path):
    estimate = estimator.estimate(Upload(PHOTOGRAPH[:1]))
    glb, ply = write_scene_files(tmp_path, estimator, estimate, camera_of(estimate))
    assert glb.read_bytes()[:4] == b"glTF" and len(read_ply(ply)[0]) == PHOTOGRAPH.shape[1]


# Cameras


def with_camera(path: Path, orientation: int = 1, focal_length: int = 26) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: focal_length}
    Image.fromarray(PHOTOGRAPH).save(path, exif=exif)
    return path


def test_the_camera_is_what_was_entered_else_exif_else_assumed_and_said(estimator, estimate, tmp_path):
    with_exif = estimator.estimate(read_upload(with_camera(tmp_path / "a.jpg")))
    entered = camera_of(with_exif, fov=90.0)
    assert entered.intrinsics.fx == pytest.approx(40) and "90 degrees" in entered.source  # half of 80, tan 45 = 1
    assert camera_of(with_exif, 90.0, (50, 51, 30, 31)).intrinsics.cy == 31
    from_exif = camera_of(with_exif)
    assert from_exif.intrinsics.fx == pytest.approx(26 / 36 * 80) and "EXIF" in from_exif.source
    assert field_of_view(from_exif.intrinsics, 80) == pytest.approx(69.39, abs=0.01)  # 2 atan(18 / 26)
    assumed = camera_of(estimate)
    assert field_of_view(assumed.intrinsics, 80) == pytest.approx(60)
    assert "assumed" in camera_note(assumed, 80) and "only as right as that" in camera_note(assumed, 80)
    assert "only as right" not in camera_note(from_exif, 80)


@pytest.mark.parametrize(
    "entered",
    [{"fov": 0.9}, {"fov": 179.1}, {"intrinsics": (1, 2, 3)}, {"intrinsics": (50, 50, 500, 20)}, {"fov": np.nan}],
)
def test_what_is_no_camera_is_refused(estimate, entered):
    with pytest.raises(Refusal) as refusal:
        camera_of(estimate, **entered)
    assert "`" not in str(refusal.value)  # a visitor has no arguments


def test_a_photograph_is_upright_and_so_is_its_camera(tmp_path):
    path = with_camera(tmp_path / "a.jpg", orientation=6)
    upload = read_upload(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(upload.levels, np.array(ImageOps.exif_transpose(image)))
    assert upload.levels.shape == (80, 60, 3)
    assert upload.camera.intrinsics.fx == pytest.approx(26 / 36 * 80)  # of the longer side, which is upright now
    assert upload.camera.intrinsics.cx == pytest.approx(29.5)


# Uploads


def saved(**kwargs) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(stored, **kwargs)
    return stored.getvalue()


BAD_FILES = {
    "empty": (b"", "empty"),
    "text.jpg": (b"This is no photograph.", "not a photograph that can be read"),
    "truncated.jpg": (saved(format="JPEG")[:400], "damaged|not a photograph"),
    "truncated.png": (saved(format="PNG")[:-2000], "damaged"),
    "vector.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not a photograph"),
    "postscript.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a photograph"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_friendly_sentence(name, tmp_path):
    content, sentence = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match=sentence) as refusal:
        read_upload(tmp_path / name)
    assert str(tmp_path) not in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_photograph_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(Refusal, match="more than the 0 megapixels"):
        read_upload(tmp_path / "a.png", max_pixels=PHOTOGRAPH[..., 0].size - 1)
    monkeypatch.undo()
    assert read_upload(tmp_path / "a.png", max_pixels=PHOTOGRAPH[..., 0].size).levels.shape == PHOTOGRAPH.shape


def test_a_photograph_of_24_megapixels_is_read_and_a_larger_one_is_told_its_size(tmp_path):
    assert MAX_PIXELS >= 5712 * 4284  # of a phone
    Image.new("L", (5000, 5001)).save(tmp_path / "a.png")
    with pytest.raises(Refusal, match="has 5000 x 5001 pixels, more than the 25 megapixels"):
        read_upload(tmp_path / "a.png")


def test_a_header_of_billions_of_pixels_is_refused(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(Refusal, match="megapixels"):
        read_upload(tmp_path / "a.png")


def test_too_many_bytes_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0" * 1001)
    with pytest.raises(Refusal, match="MB"):
        read_upload(tmp_path / "a.jpg", max_bytes=1000)


def test_unusual_photographs_are_read_as_people_see_them(tmp_path):
    image = Image.fromarray(PHOTOGRAPH)
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.new("L", image.size, 0))
    transparent.save(tmp_path / "transparent.png")
    assert read_upload(tmp_path / "transparent.png").levels.min() == 255  # white shines through
    other = Image.fromarray(make_photograph(seed=1))
    image.quantize().save(tmp_path / "animated.gif", save_all=True, append_images=[other.quantize()])
    first = read_upload(tmp_path / "animated.gif").levels.astype(int)
    assert np.abs(first - PHOTOGRAPH).mean() < 20 < np.abs(first - np.array(other)).mean()
    deep = (PHOTOGRAPH[..., 0].astype(np.uint16)) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_upload(tmp_path / "deep.png").levels, PHOTOGRAPH[..., :1].repeat(3, axis=2))
    image.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(read_upload(tmp_path / "print.jpg").levels.astype(int) - PHOTOGRAPH).mean() < 5
    image.convert("L").save(tmp_path / "grey.webp")
    assert read_upload(tmp_path / "grey.webp").levels.shape == PHOTOGRAPH.shape


# What the page shows


def test_the_legend_states_round_metres_in_place():
    shown = legend(0.9, 4.9, "turbo")
    assert "Colours from 0.90 metres, near, to 4.90 metres, far" in shown
    for metres in (1, 2, 3, 4):
        assert f"left: {100 * (metres - 0.9) / 4:.2f}%" in shown and f">{metres} m<" in shown
    assert ">5 m<" not in shown and ">0 m<" not in shown


def test_two_points_are_read_in_metres_with_the_distance_between_them(estimator, estimate):
    camera, depth = camera_of(estimate, fov=90.0), estimator.metres(estimate)
    ends = []
    for u, v in ((10, 20), (70, 50)):
        z = float(depth[v, u])
        ends.append(np.array([(u - 39.5) * z / 40, (v - 29.5) * z / 40, z]))
    shown = reading(estimator, estimate, [(10, 20), (70, 50)], camera)
    assert f"column 10, row 20: <strong>{depth[20, 10]:.3f} m" in shown
    assert f"<strong>{np.linalg.norm(ends[0] - ends[1]):.3f} m" in shown
    assert "distance" in reading(estimator, estimate, [(10, 20)], camera)


def test_markers_are_drawn_where_the_points_are(estimate):
    changed = np.argwhere((marked(estimate, [(20, 30)]) != estimate.picture).any(axis=-1))
    np.testing.assert_allclose((changed.min(axis=0) + changed.max(axis=0)) / 2, (30, 20), atol=1)
    np.testing.assert_array_equal(marked(estimate, []), estimate.picture)


def test_facts_name_sizes_time_and_device(estimator, estimate):
    shown = facts(estimator, estimate)
    assert "80 x 60 pixels" in shown and "32 x 32 pixels" in shown and "cpu" in shown
    assert f"{np.median(estimator.metres(estimate)):.2f} m" in shown and "Adapter" not in shown


def test_words_of_a_tokenizer_are_text_and_no_html(estimator, estimate, monkeypatch):
    words = [[("<img src=x onerror=alert(1)>", 1.0), ("${value}", 0.5), ("{{x}}", 0.4)]] * 10
    monkeypatch.setattr(estimator, "words", {None: words})
    shown = region(estimator, estimate, 0, 0)
    assert "<img" not in shown and "${" not in shown and "{{" not in shown and "&lt;img" in shown


# Which model


def test_the_environment_goes_before_the_file_and_the_file_before_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"LLM_MDE_MODEL.*make space.*llm-mde publish space"):
        read_space_settings({}, tmp_path)
    (tmp_path / "model").mkdir()
    model = str(tmp_path / "model")
    assert read_space_settings({}, tmp_path) == SpaceSettings(model, None, {}, DEMONSTRATION, DEMONSTRATION_NAME)
    stated = {"model": "user/a", "revision": "abc", "adapters": {"x": "user/b@c"}, "note": "Good."}
    (tmp_path / "space.json").write_text(json.dumps(stated))
    expected = SpaceSettings("user/a", "abc", {"x": ("user/b", "c")}, "Good.")
    assert read_space_settings({}, tmp_path) == expected
    assert read_space_settings({"LLM_MDE_MODEL": "user/d"}, tmp_path) == SpaceSettings("user/d")
    environment = {"LLM_MDE_MODEL": "user/d", "LLM_MDE_REVISION": "v2", "LLM_MDE_ADAPTERS": "y=user/e, z=model"}
    adapters = {"y": ("user/e", None), "z": (model, None)}
    assert read_space_settings(environment, tmp_path) == SpaceSettings("user/d", "v2", adapters)
    (tmp_path / "space.json").write_text('{"model": "model"}')
    assert read_space_settings({}, tmp_path).model == model
    with pytest.raises(ValueError, match=r"LLM_MDE_REVISION is 'v2', but the model is the folder .*unset it"):
        read_space_settings({"LLM_MDE_REVISION": "v2"}, tmp_path)


def test_a_model_is_called_by_its_own_name(tmp_path):
    (tmp_path / "rooms" / "model").mkdir(parents=True)
    for place, name in (("rooms", "rooms"), ("rooms/model", "rooms"), ("user/model", "user/model")):
        assert read_space_settings({"LLM_MDE_MODEL": place}, tmp_path).name == name
    (tmp_path / "space.json").write_text('{"model": "rooms/model", "name": "Rooms, second edition"}')
    assert read_space_settings({}, tmp_path).name == "Rooms, second edition"
    assert read_space_settings({"LLM_MDE_MODEL": "user/a"}, tmp_path).name == "user/a"


@pytest.mark.parametrize("place", ["/no/folder", "./model", "~/model", "outputs/rooms/model"])
def test_a_path_without_a_folder_is_called_that(place, tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder '{place}'"):
        read_space_settings({"LLM_MDE_MODEL": place}, tmp_path)
    with pytest.raises(ValueError, match=f"there is no folder '{place}'"):
        read_space_settings({"LLM_MDE_MODEL": "user/a", "LLM_MDE_ADAPTERS": f"x={place}"}, tmp_path)


@pytest.mark.parametrize("adapters", ["indoor", "indoor=", "a=b,a=c", "none=user/a", "in.door=user/a", "a=b,,"])
def test_adapters_that_cannot_be_named_are_refused(adapters, tmp_path):
    with pytest.raises(ValueError, match=r"adapter|ADAPTERS"):
        read_space_settings({"LLM_MDE_MODEL": "user/a", "LLM_MDE_ADAPTERS": adapters}, tmp_path)


@pytest.mark.parametrize("content", ["no json", "[]", '{"adapters": []}', '{"model": "a", "adapters": "x=y"}'])
def test_a_broken_file_of_settings_is_named(content, tmp_path):
    (tmp_path / "space.json").write_text(content)
    if content == '{"adapters": []}':  # says nothing, and is not wrong
        with pytest.raises(ValueError, match="there is no model"):
            read_space_settings({}, tmp_path)
    else:
        with pytest.raises(ValueError, match=r"space\.json"):
            read_space_settings({}, tmp_path)


@pytest.mark.slow
def test_without_a_model_there_is_one_line_and_status_2(tmp_path):
    pytest.importorskip("gradio", reason="the Space needs gradio")
    process, log = run_app(tmp_path, LLM_MDE_MODEL=tmp_path / "nowhere")
    assert process.wait(timeout=120) == 2
    (line,) = log.read_text().splitlines()
    assert line.startswith("app.py: ") and "nowhere" in line


# The application


def test_predict_gives_metres_and_files_without_gradio(app, estimator, estimate, tmp_path):
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "a.png")
    summary, (png, npy, glb, ply) = app.predict(tmp_path / "a.png", tmp_path, fov=50.0)
    depth = estimator.metres(estimate)
    np.testing.assert_allclose(np.load(npy), depth, rtol=1e-6)
    assert summary["nearest"] == pytest.approx(depth.min(), abs=1e-4)
    assert summary["median"] == pytest.approx(np.median(depth), abs=1e-4)
    assert (summary["units"], summary["width"], summary["height"]) == ("metres", 80, 60)
    assert summary["prompt"] == estimate.prompt and summary["field_of_view_degrees"] == 50
    assert summary["model"] == "base"  # and no path of the server
    assert all(path.is_file() for path in (png, glb, ply))


def test_a_click_is_taken_where_it_is_in_the_photograph(app):
    estimator = app.load_model()
    estimate = estimator.estimate(Upload(make_photograph(height=900, width=1536)))  # shown at two thirds
    click = SimpleNamespace(index=[1023, 0])
    points, _, answer, _, column, row = app.on_click(estimate, [], "", "", click)
    assert (column, row) == (1535, 0) and points == [(1535, 0)]
    assert f"{estimator.metres(estimate)[0, 1535]:.3f} m" in answer
    points, *_ = app.on_pixel(estimate, points, "", "", "5", "6")
    assert points == [(1535, 0), (5, 6)]
    points, *_ = app.on_pixel(estimate, points, "", "", "7", "8")
    assert points == [(7, 8)]


def test_what_a_visitor_can_mend_is_said_and_escaped_and_all_results_stay(app, monkeypatch):
    import gradio as gr

    estimate, told = app.load_model().estimate(Upload(PHOTOGRAPH)), []
    monkeypatch.setattr(gr, "Warning", told.append)
    for call, sentence in (
        (lambda: app.on_estimate(None, "none", [], "turbo"), "choose a photograph"),
        (lambda: app.on_prompt(None, "a", [], "turbo"), "estimate the depth of a photograph first"),
        (lambda: app.on_prompt(estimate, "", [], "turbo"), "blank"),
        (lambda: app.on_pixel(estimate, [], "", "", 80, 0), "Columns go from 0 to 79 and rows from 0 to 59"),
        (lambda: app.on_pixel(estimate, [], "", "", "", "0"), "enter a column"),
        (lambda: app.on_pixel(estimate, [], "", "", "1.5", "0"), "whole numbers"),
        (lambda: app.on_pixel(estimate, [], "wide", "", "1", "1"), "has to be a number of degrees"),
        (lambda: app.on_pixel(estimate, [], "", "1 2 3", "1", "1"), "four numbers.*525 525 319.5 239.5"),
        (lambda: app.on_camera(estimate, [], "", "a b c d"), "fx fy cx cy in pixels, such as 525"),
        (lambda: app.on_estimate({"path": f"{write_upload()}.gone"}, "none", [], "turbo"), "is no longer here.*again"),
        (lambda: app.on_estimate({"path": write_upload()}, "<i>", [], "turbo"), "adapter &#x27;&lt;i&gt;"),
    ):
        told.clear()
        # A refusal of Gradio's own would cover every output with the word "Error".
        assert call() == gr.skip()
        (message,) = told
        assert re.search(sentence, message) and "<" not in message


def test_a_program_is_told_in_plain_text(app):
    import gradio as gr

    for photograph, adapter, sentence in (
        ({"path": None}, None, "Please choose a photograph first."),
        ({"path": write_upload()}, "<i>", "There is no adapter '<i>' here; choose none."),
    ):
        with pytest.raises(gr.Error) as error:
            app.on_predict(photograph, adapter=adapter)
        assert error.value.message == sentence and not error.value.print_exception
    with pytest.raises(gr.Error, match="number of degrees"):
        app.on_predict({"path": write_upload()}, fov=True)


def test_a_field_of_view_is_read_as_people_write_it(app):
    assert [app.as_angle(written) for written in ("60,5", " 90° ", 75, "", None)] == [60.5, 90, 75, None, None]


def test_a_refused_estimate_starts_no_writing_of_files(app):
    """Files follow a new estimate, told by its hash as Gradio does, and not the event that may have been refused."""
    from gradio.utils import deep_hash

    demo, estimator = app.build_demo(), app.load_model()
    (state,) = {fn.inputs[0]._id for fn in demo.fns.values() if fn.name == "on_files"}
    assert [fn.targets for fn in demo.fns.values() if fn.name == "on_files"] == [[(state, "change")]]
    estimate = estimator.estimate(Upload(PHOTOGRAPH))
    again = estimator.with_prompt(estimate, estimate.prompt)
    assert deep_hash(estimate) == deep_hash(estimate) != deep_hash(again)


def test_empty_folders_of_deleted_files_go_too(app):
    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    for name in ("tmpold", "tmpfull", "tmpnew"):
        (cache / name).mkdir(parents=True)
    (cache / "tmpfull" / "depth.png").touch()
    for name in ("tmpold", "tmpfull"):
        os.utime(cache / name, times=(0, 0))
    with app.new_folder() as folder:
        assert {path.name for path in cache.iterdir()} == {"tmpfull", "tmpnew", folder.name}


def test_a_defect_is_logged_and_its_trace_stays_off_the_page(app, monkeypatch, caplog):
    import gradio as gr

    def fail(*args):
        raise RuntimeError("secret path")

    estimate = app.load_model().estimate(Upload(PHOTOGRAPH))
    monkeypatch.setattr(app, "write_depth_files", fail)
    before, told = set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")), []
    monkeypatch.setattr(gr, "Warning", told.append)
    assert app.on_files(estimate) == gr.skip()
    with pytest.raises(gr.Error) as error:
        app.on_predict({"path": write_upload()})
    assert [*told, error.value.message] == ["This did not work; the log of the server says why."] * 2
    assert error.value.__suppress_context__ and "secret path" in caplog.text
    (Path(os.environ["GRADIO_TEMP_DIR"]) / "a.png").unlink()
    assert set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) == before  # the folder was removed


def test_the_picker_is_there_where_adapters_are(base, adapters, monkeypatch, app):
    def picker(module):
        (found,) = [each for each in module.build_demo().blocks.values() if each.elem_id == "adapter"]
        return found

    assert not picker(app).visible and not picker(app).filterable
    listed = ",".join(f"{name}={folder}" for name, folder in adapters.items())
    set_environment(monkeypatch, LLM_MDE_MODEL=base, LLM_MDE_ADAPTERS=listed)
    shown = picker(load_app())
    assert shown.visible and [value for _, value in shown.choices] == ["none", "indoor", "street"]


def test_under_zero_gpu_the_forward_alone_is_handed_over(base, monkeypatch):
    handed_over = []

    def gpu(function):
        def run(*args):
            handed_over.append(function.__name__)
            return function(*args)

        return run

    set_environment(monkeypatch, LLM_MDE_MODEL=base, SPACES_ZERO_GPU="true")
    spaces = ModuleType("spaces")
    spaces.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    module = load_app()
    # There is no GPU here: what the model is moved to stays on the CPU.
    moved = []
    monkeypatch.setattr(
        "llm_mde.LLMMDEForDepthEstimation.to", lambda self, *args, **kwargs: moved.append(args) or self
    )
    estimator = module.load_model()
    assert moved[-1] == ("cuda",) and handed_over == []
    estimate = estimator.estimate(Upload(PHOTOGRAPH))
    estimator.compare_prompts(estimate)
    assert handed_over == ["_run_model", "_run_model"]
    estimator.region(estimate, 1, 1)
    estimator.metres(estimate)
    assert len(handed_over) == 2  # clicks need no GPU


def write_upload() -> str:
    path = Path(os.environ["GRADIO_TEMP_DIR"]) / "a.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(PHOTOGRAPH).save(path)
    return str(path)


# The API


@pytest.fixture(scope="module")
def client(server):
    gradio_client = pytest.importorskip("gradio_client", reason="the API is called with gradio_client")
    return gradio_client.Client(server.url, verbose=False)


@pytest.fixture
def photograph_file(tmp_path):
    from gradio_client import handle_file

    Image.fromarray(PHOTOGRAPH).save(tmp_path / "room.png")
    return handle_file(str(tmp_path / "room.png"))


@pytest.mark.slow
def test_the_api_gives_the_metres_of_the_model(client, photograph_file, base):
    summary, png, npy, glb, ply = client.predict(photograph_file, api_name="/predict")
    model = os.environ.get("LLM_MDE_DEMO_MODEL") or base
    depth = np.load(npy)
    np.testing.assert_allclose(depth, depth_by_hand(model), rtol=1e-4)
    np.testing.assert_allclose(read_depth_png(png), depth, atol=0.0005)
    assert summary["median"] == pytest.approx(np.median(depth), abs=1e-4)
    assert len(read_ply(ply)[0]) > 0 and Path(glb).read_bytes()[:4] == b"glTF"
    prompt = "A kitchen scene."
    summary, _, npy, *_ = client.predict(photograph_file, prompt, 75, api_name="/predict")
    assert summary["prompt"] == prompt and summary["field_of_view_degrees"] == 75
    np.testing.assert_allclose(np.load(npy), depth_by_hand(model, prompt=prompt), rtol=1e-4)


@pytest.mark.slow
def test_predict_is_the_only_endpoint_in_the_documentation(client):
    described = client.view_api(return_format="dict", print_info=False)
    assert list(described["named_endpoints"]) == ["/predict"] and not described["unnamed_endpoints"]
    parameters = described["named_endpoints"]["/predict"]["parameters"]
    assert [each["parameter_name"] for each in parameters] == ["photograph", "prompt", "fov", "adapter"]
    assert "in degrees" in parameters[2]["label"]
    labels = [each["label"] for each in described["named_endpoints"]["/predict"]["returns"]]
    assert [label.rpartition(" in ")[2] for label in labels] == ["metres", "millimetres", *["metres"] * 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_through_the_api_is_the_same_sentence(client, server, tmp_path, name):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    content, sentence = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    told = len(server.log.read_text())
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(str(tmp_path / name)), api_name="/predict")
    assert "Traceback" not in server.log.read_text()[told:]


@pytest.mark.slow
def test_no_file_of_the_server_can_be_asked_for(client, server, photograph_file):
    secret = server.folder / "secret.png"
    Image.fromarray(PHOTOGRAPH).save(secret)
    for asked in (
        {"path": str(secret), "meta": {"_type": "gradio.FileData"}},
        {"path": str(secret)},
        {"path": str(server.folder / "gradio" / ".." / "secret.png"), "meta": {"_type": "gradio.FileData"}},
        {"path": str(server.folder / "gradio" / ".." / "secret.png")},
    ):
        answer = ask(server, [asked, "", None, ""])
        assert answer["event"] == "error" and "median" not in answer["data"]
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server.url}gradio_api/file={secret}")
    assert error.value.code in (403, 404)


def ask(server, data) -> dict[str, str]:
    """One call of the endpoint without a client, which would not send such things."""
    import urllib.request

    url = f"{server.url}gradio_api/call/predict"
    request = urllib.request.Request(url, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        event_id = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{url}/{event_id}") as response:
        lines = response.read().decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines) if key}


@pytest.mark.slow
def test_nothing_is_left_outside_of_the_cache(client, server, photograph_file):
    client.predict(photograph_file, api_name="/predict")
    assert [path.name for path in (server.folder / "tmp").iterdir() if path.is_file()] == []
    written = {path.name for path in (server.folder / "gradio").rglob("*") if path.is_file()}
    assert {"room.png", "depth_metres.npy", "depth_millimetres.png", "surface.glb", "points.ply"} <= written


@pytest.mark.slow
def test_all_that_the_page_has_written_is_deleted(app, photograph_file):
    from gradio.route_utils import delete_files_created_by_app
    from gradio_client import Client

    cache = Path(os.environ["GRADIO_TEMP_DIR"])
    demo = app.build_demo()
    kept = {path for path in cache.rglob("*") if path.is_file()}  # the examples
    try:
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
        Client(url, verbose=False).predict(photograph_file, api_name="/predict")
        assert {path for path in cache.rglob("*") if path.is_file()} > kept
        # What the schedule of `delete_cache` calls, with the age of its second number.
        assert demo.delete_cache == (600, 3600)
        delete_files_created_by_app(demo, age=3600)
        assert {path for path in cache.rglob("*") if path.is_file()} > kept
        delete_files_created_by_app(demo, age=None)
        assert {path for path in cache.rglob("*") if path.is_file()} == kept
    finally:
        demo.close()
