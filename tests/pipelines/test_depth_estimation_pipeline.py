"""`pipeline("depth-estimation")`: photographs of any size in, metres at that size out."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoModelForDepthEstimation, pipeline
from transformers.pipelines.depth_estimation import DepthEstimationPipeline

from llm_mde import LLMMDEDepthEstimationPipeline
from llm_mde.hub import write_model_folder
from tests.conftest import make_pair


def make_photo(height: int, width: int, seed: int = 0, top: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype=np.uint8))


PHOTOS = [make_photo(40, 60), make_photo(71, 33, seed=1, top=40), make_photo(32, 32, seed=2, top=128)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_model_folder(tmp_path_factory.mktemp("hub") / "model", *make_pair()))


@pytest.fixture(scope="module")
def estimate(folder):
    return pipeline("depth-estimation", model=folder, trust_remote_code=True)


def test_the_folder_alone_gives_the_pipeline_with_prompts(estimate):
    assert type(estimate).__name__ == "LLMMDEDepthEstimationPipeline"
    assert type(estimate.processor).__name__ == "LLMMDEProcessor"


def test_the_task_is_found_in_the_folder(folder):
    assert type(pipeline(model=folder, trust_remote_code=True)).__name__ == "LLMMDEDepthEstimationPipeline"


def test_an_installed_package_needs_no_remote_code(folder):
    model, processor = make_pair()
    loaded = AutoModelForDepthEstimation.from_pretrained(folder)
    estimate = pipeline(
        "depth-estimation", model=loaded, processor=processor, pipeline_class=LLMMDEDepthEstimationPipeline
    )
    assert torch.equal(estimate(PHOTOS[0])["predicted_depth"], by_hand(model, processor, PHOTOS[0]))


def by_hand(model, processor, photo) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(**processor(images=photo, return_tensors="pt"))
    return processor.post_process_depth_estimation(outputs, [photo.size[::-1]])[0]["predicted_depth"]


@pytest.mark.parametrize("photo", PHOTOS)
def test_depth_is_in_metres_at_the_size_of_the_photograph(estimate, photo):
    result = estimate(photo)
    expected = by_hand(*make_pair(), photo)
    assert result["predicted_depth"].shape == photo.size[::-1]
    assert result["predicted_depth"].dtype == torch.float32
    assert torch.equal(result["predicted_depth"], expected)
    assert result["depth"].size == photo.size
    levels = np.asarray(result["depth"])
    assert (levels.min(), levels.max()) == (0, 255)
    farthest = np.unravel_index(expected.numpy().argmax(), expected.shape)
    assert levels[farthest] == 255


def test_the_prompt_about_the_photograph_is_read_and_returned(estimate):
    result = estimate(PHOTOS[1])
    _, processor = make_pair()
    assert result["prompt"] == processor(images=PHOTOS[1], return_prompt=True)["prompt"][0]
    assert "Pixel values range from" in result["prompt"]
    other = estimate(PHOTOS[1], prompt="near far")
    assert other["prompt"] == "near far"
    assert not torch.equal(other["predicted_depth"], result["predicted_depth"])


def test_a_scene_in_words_replaces_the_sentence_about_the_data_set(estimate):
    result = estimate(PHOTOS[0], text="a street scene up to 80 metres")
    assert result["prompt"].startswith("a street scene up to 80 metres")
    assert not torch.equal(result["predicted_depth"], estimate(PHOTOS[0])["predicted_depth"])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_mixed_sizes_in_a_batch_equal_one_by_one(estimate, batch_size):
    results = estimate(PHOTOS, batch_size=batch_size)
    for result, photo in zip(results, PHOTOS, strict=True):
        alone = estimate(photo)
        assert result["prompt"] == alone["prompt"]
        torch.testing.assert_close(result["predicted_depth"], alone["predicted_depth"], rtol=0, atol=1e-4)


def test_a_path_is_read_with_its_orientation(estimate, tmp_path):
    photo = PHOTOS[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    assert estimate(str(tmp_path / "photo.png"))["predicted_depth"].shape == (60, 40)


def test_a_constant_depth_map_becomes_a_black_picture(estimate, monkeypatch):
    """The stock pipeline divides by zero."""
    monkeypatch.setattr(
        type(estimate.processor),
        "post_process_depth_estimation",
        lambda self, outputs, target_sizes: [{"predicted_depth": torch.full(target_sizes[0].tolist(), 3.0)}],
    )
    assert np.asarray(estimate(PHOTOS[0])["depth"]).max() == 0


def test_half_precision_gives_float32_metres(folder, estimate):
    half = pipeline("depth-estimation", model=folder, trust_remote_code=True, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    depth, expected = (each(PHOTOS[0])["predicted_depth"] for each in (half, estimate))
    assert depth.dtype == torch.float32
    assert ((depth - expected).abs() / expected).mean() < 0.02


def test_the_stock_pipeline_works_with_the_processor_as_image_processor():
    model, processor = make_pair()
    stock = DepthEstimationPipeline(model=model, image_processor=processor)
    for photo in PHOTOS:
        assert torch.equal(stock(photo)["predicted_depth"], by_hand(model, processor, photo))


def test_the_stock_pipeline_without_the_processor_reads_the_default_prompt():
    model, processor = make_pair()
    stock = DepthEstimationPipeline(model=model, image_processor=processor.image_processor)
    with torch.no_grad():
        expected = model(processor.image_processor(PHOTOS[0], return_tensors="pt")["pixel_values"]).predicted_depth
    assert torch.equal(
        stock(PHOTOS[0])["predicted_depth"],
        torch.nn.functional.interpolate(expected[None], size=(40, 60), mode="bilinear", align_corners=False)[0, 0],
    )


def test_the_default_prompt_of_the_model_is_the_one_the_processor_writes():
    """The model's file and the processor's travel separately, so the sentence stands in both."""
    from llm_mde import LLMMDEConfig
    from llm_mde.processing import write_prompt

    assert LLMMDEConfig().default_prompt == write_prompt(None)


def test_real_photographs_of_every_mode_get_depth_at_their_upright_size(estimate):
    """Grey, RGBA, portrait, panorama and EXIF orientation 6, in one call."""
    if "LLM_MDE_DATA" not in os.environ:
        pytest.skip("LLM_MDE_DATA names no folder of real frames")
    folder = Path(os.environ["LLM_MDE_DATA"]) / "photos"
    if not folder.is_dir():
        pytest.skip("the folder of LLM_MDE_DATA holds no photos/")
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    for path, result in zip(paths, estimate(paths, batch_size=4), strict=True):
        with Image.open(path) as photo:
            upright = ImageOps.exif_transpose(photo)
        assert result["predicted_depth"].shape == upright.size[::-1], path
        assert result["predicted_depth"].isfinite().all()
        assert result["depth"].size == upright.size


def test_a_sentence_about_the_camera_reaches_the_prompt(estimate):
    said = estimate(PHOTOS[0], camera="focal length 519 pixels")["prompt"]
    assert "519" in said and "519" not in estimate(PHOTOS[0])["prompt"]


def test_an_option_that_nothing_would_read_is_refused(estimate):
    with pytest.raises(ValueError, match="`txt` is no option of this pipeline; it has text, prompt, camera, timeout"):
        estimate(PHOTOS[0], txt="A kitchen.")


def test_an_option_that_nothing_would_read_is_refused_at_construction_too(folder):
    with pytest.raises(ValueError, match="`txt` is no option of this pipeline"):
        pipeline("depth-estimation", model=folder, trust_remote_code=True, txt="A kitchen.")


def test_a_model_that_reads_no_prompt_takes_none_and_returns_none():
    model, processor = make_pair(use_prompt=False)
    estimate = LLMMDEDepthEstimationPipeline(model, processor=processor)
    assert estimate(PHOTOS[0])["prompt"] is None
    for option in ("text", "prompt", "camera"):
        with pytest.raises(ValueError, match=f"`{option}` is 'a kitchen', but this model reads no prompt"):
            estimate(PHOTOS[0], **{option: "a kitchen"})
