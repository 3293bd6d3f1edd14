"""What lies in every exported folder reads photographs as the processor does: the same pixels, the same prompt."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from tokenizers import Tokenizer
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tvF

import llm_mde.export
from llm_mde import LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.export.description import describe_images, describe_prompts
from llm_mde.processing.image_inputs_llm_mde import read_photograph
from tests.conftest import make_pair
from tests.export.conftest import make_photograph
from tests.processing.conftest import make_bert_tokenizer, make_gpt_tokenizer

STANDALONE = Path(llm_mde.export.__file__).parent / "standalone"
READING = runpy.run_path(str(STANDALONE / "photographs.py"))


def as_arrays(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


def prepared(image, model, processor) -> tuple[dict[str, np.ndarray], str, tuple[int, int]]:
    settings = {
        "inputs": ["pixel_values", "input_ids", "attention_mask"],
        "image": describe_images(model, processor),
        "prompt": describe_prompts(model, processor),
    }
    return READING["prepare"](image, settings, Tokenizer.from_str(processor.tokenizer.backend_tokenizer.to_str()))


def test_resizing_gives_every_bit_that_torchvision_gives():
    generator = np.random.default_rng(0)
    for _ in range(60):
        height, width, new_height, new_width = generator.integers((1, 1, 8, 8), (300, 300, 120, 120)).tolist()
        levels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        levels = np.where(levels > 128, 255, 0).astype(np.uint8) if height % 2 else levels  # overshoots would show
        expected = tvF.resize(torch.from_numpy(levels).permute(2, 0, 1), [new_height, new_width], antialias=True)
        np.testing.assert_array_equal(READING["resize"](levels, (new_height, new_width)), as_arrays(expected))


def test_a_side_that_has_its_length_already_is_not_touched():
    levels = np.array(make_photograph(40, 32))
    expected = tvF.resize(torch.from_numpy(levels).permute(2, 0, 1), [32, 32], antialias=True)
    np.testing.assert_array_equal(READING["resize"](levels, (32, 32)), as_arrays(expected))
    np.testing.assert_array_equal(READING["resize"](levels, (40, 32)), levels)


@pytest.mark.parametrize("size", [(96, 61), (20, 70), (13, 9), (32, 40)])
def test_depth_is_enlarged_as_the_post_processing_does(size):
    depth = torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) * 10
    expected = F.interpolate(depth[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    enlarged = READING["enlarge"](depth.numpy(), size)
    assert enlarged.dtype == np.float32
    np.testing.assert_allclose(enlarged, expected.numpy(), rtol=0, atol=1e-4)


def photograph_of(mode: str) -> Image.Image:
    image = make_photograph(30, 40, seed=3).convert("RGBA")
    image.putalpha(Image.fromarray(np.linspace(0, 255, 30 * 40, dtype=np.uint8).reshape(30, 40)))
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.int32))
    if mode == "P with transparency":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = 3
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "P with transparency", "CMYK", "I;16", "I"])
def test_images_of_any_mode_have_the_levels_that_the_processor_reads(mode):
    image = photograph_of(mode)
    expected = as_arrays(read_photograph(image).levels)
    np.testing.assert_array_equal(READING["upright_levels"](image), expected)


def test_an_image_of_floats_is_refused():
    with pytest.raises(ValueError, match="mode F"):
        READING["upright_levels"](Image.fromarray(np.zeros((4, 4), dtype=np.float32)))


@pytest.mark.parametrize("value", [-500, 70_000])
def test_whole_numbers_beyond_16_bits_are_refused_as_by_the_processor(value):
    image = Image.fromarray(np.full((4, 4), value, dtype=np.int32))
    with pytest.raises(ValueError, match=f"values from {value}"):
        READING["upright_levels"](image)
    with pytest.raises(ValueError, match=f"values from {value}"):
        read_photograph(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    make_photograph(30, 41).save(tmp_path / "turned.png", exif=exif)
    image = Image.open(tmp_path / "turned.png")
    np.testing.assert_array_equal(READING["upright_levels"](image), as_arrays(read_photograph(image).levels))


@pytest.mark.parametrize(
    ("tokenizer", "options"),
    [
        (make_bert_tokenizer, {}),
        (make_gpt_tokenizer, {"prompt_style": "short"}),
        (make_bert_tokenizer, {"camera_prompt": "Taken with a lens of 35 mm", "perspectives": ["class", "pixel"]}),
        (make_bert_tokenizer, {"perspectives": ["dataset", "task"], "dataset_prompt": "A kitchen {scene} at 100 %"}),
    ],
)
def test_prompts_are_those_of_the_processor_word_for_word(tokenizer, options):
    model, usual = make_pair()
    processor = LLMMDEProcessor(usual.image_processor, tokenizer(), max_prompt_length=96, **options)
    prompts = set()
    for seed in range(25):
        image = make_photograph(20 + 3 * seed, 90 - 2 * seed, seed, top=20 + 9 * seed)
        inputs, prompt, size = prepared(image, model, processor)
        expected = processor(images=image, return_prompt=True, return_tensors="np")
        assert [prompt] == expected["prompt"]
        assert size == (image.height, image.width)
        np.testing.assert_array_equal(inputs["input_ids"], expected["input_ids"])
        np.testing.assert_array_equal(inputs["attention_mask"], expected["attention_mask"])
        np.testing.assert_allclose(inputs["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
        prompts.add(prompt)
    assert len(prompts) > 1 or options.get("perspectives") == ["dataset", "task"]


@pytest.mark.parametrize(
    "options",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": 0.25, "rescale_factor": 1 / 128},
        {"size": {"height": 30, "width": 50}, "ensure_multiple_of": 8},
    ],
)
def test_pixel_values_follow_the_settings_of_the_image_processor(options):
    model, usual = make_pair()
    image_processor = LLMMDEImageProcessor(**{"size": {"height": 32, "width": 32}, **options})
    processor = LLMMDEProcessor(image_processor, usual.tokenizer, max_prompt_length=96)
    image = make_photograph()
    expected = processor(images=image, return_tensors="np")["pixel_values"]
    inputs, _, _ = prepared(image, model, processor)
    assert inputs["pixel_values"].dtype == np.float32
    np.testing.assert_allclose(inputs["pixel_values"], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_prompts_about_real_photographs_of_every_kind_are_the_same_word_for_word():
    if "LLM_MDE_DATA" not in os.environ:
        pytest.skip("LLM_MDE_DATA names no folder of real frames")
    folder = Path(os.environ["LLM_MDE_DATA"]) / "photos"
    if not folder.is_dir():
        pytest.skip("the folder of LLM_MDE_DATA holds no photos/")
    model, processor = make_pair()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg")):
        inputs, prompt, _ = prepared(Image.open(path), model, processor)
        expected = processor(images=str(path), return_prompt=True, return_tensors="np")
        assert [prompt] == expected["prompt"], path
        np.testing.assert_allclose(inputs["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
