"""Photographs of every kind become the same pixel values on both backends, and depth maps become metres."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.modeling_outputs import DepthEstimatorOutput

from llm_mde.processing import LLMMDEImageProcessor, LLMMDEImageProcessorPil, image_statistics

BACKENDS = [LLMMDEImageProcessor, LLMMDEImageProcessorPil]
UNTOUCHED = {"do_resize": False, "do_normalize": False}


@pytest.fixture(params=BACKENDS, ids=["torchvision", "pil"])
def image_processor(request):
    return request.param(size={"height": 8, "width": 12})


@pytest.fixture
def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def levels(image_processor, image, **kwargs) -> torch.Tensor:
    """Pixels of one image as the processor reads them, (height, width, channels) in levels from 0 to 255."""
    pixel_values = image_processor(image, return_tensors="pt", **UNTOUCHED, **kwargs)["pixel_values"]
    return (pixel_values[0] * 255).permute(1, 2, 0)


def assert_reads(image_processor, image, expected, **kwargs):
    expected = torch.as_tensor(np.array(expected), dtype=torch.float32)
    torch.testing.assert_close(levels(image_processor, image, **kwargs), expected, atol=1e-3, rtol=0)


# Pixel values


def test_pixel_values_are_what_the_vision_tower_was_trained_with(image_processor):
    images = [np.full((10, 20, 3), level, dtype=np.uint8) for level in (0, 51, 255)]
    pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (3, 3, 8, 12) and pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values.mean(dim=(1, 2, 3)), torch.tensor([-1.0, -0.6, 1.0]))


def test_defaults_are_224_pixels_bilinear_and_one_half():
    image_processor = LLMMDEImageProcessor()
    assert dict(image_processor.size) == {"height": 224, "width": 224}
    assert image_processor.resample == Image.Resampling.BILINEAR
    assert list(image_processor.image_mean) == list(image_processor.image_std) == [0.5, 0.5, 0.5]
    assert image_processor.model_input_names == ["pixel_values"]


def test_shrinking_averages_over_all_pixels(image_processor):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (32, 48))  # 96 columns to 12: antialiasing leaves grey
    pixel_values = image_processor(stripes, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert (pixel_values - 0.5).abs().max() < 0.06


def test_an_image_does_not_depend_on_the_rest_of_its_batch(image_processor, photograph):
    others = [photograph[:7], photograph.astype(np.float32), Image.fromarray(photograph[:, ::-1])]
    batch = image_processor([photograph, *others], return_statistics=True, return_tensors="pt")
    alone = image_processor(photograph, return_statistics=True, return_tensors="pt")
    assert torch.equal(batch["pixel_values"][:1], alone["pixel_values"])
    assert torch.equal(batch["image_statistics"][:1], alone["image_statistics"])


def test_inputs_are_left_as_they_were(image_processor, photograph):
    tensor, copy = torch.from_numpy(photograph.copy()), photograph.copy()
    image_processor([photograph, tensor], return_tensors="pt", do_resize=False)
    assert (photograph == copy).all() and (tensor.numpy() == copy).all()


@pytest.mark.parametrize("return_tensors", ["pt", "np", None])
def test_results_come_as_tensors_arrays_or_lists(image_processor, photograph, return_tensors):
    depth = np.ones(photograph.shape[:2])
    batch = image_processor([photograph] * 2, [depth] * 2, return_statistics=True, return_tensors=return_tensors)
    shapes = {"pixel_values": (2, 3, 8, 12), "labels": (2, 8, 12), "image_statistics": (2, 4)}
    assert {name: tuple(np.stack([np.asarray(item) for item in batch[name]]).shape) for name in shapes} == shapes
    if return_tensors is not None:
        kind = {"pt": torch.Tensor, "np": np.ndarray}[return_tensors]
        assert all(isinstance(batch[name], kind) for name in shapes)


# Image modes

RED, GREEN = [200, 10, 20], [0, 255, 3]


def with_palette(transparency: int | None = None) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def array_image(values, dtype, mode=None) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype), mode) if mode else Image.fromarray(np.array(values, dtype))


KINDS = {
    # name: (image, the two RGB pixels it shows)
    "RGB": (array_image([[RED, GREEN]], np.uint8), [RED, GREEN]),
    "L": (array_image([[0, 200]], np.uint8), [[0] * 3, [200] * 3]),
    "LA over white": (array_image([[[100, 255], [100, 0]]], np.uint8), [[100] * 3, [255] * 3]),
    "RGBA over white": (array_image([[[*RED, 255], [255, 10, 0, 100]]], np.uint8), [RED, [255, 159, 155]]),
    "palette": (with_palette(), [RED, GREEN]),
    "palette with a transparent colour": (with_palette(transparency=1), [RED, [255] * 3]),
    "CMYK": (
        Image.fromarray(np.array([[[0, 0, 0, 0], [0, 255, 255, 0]]], np.uint8), "CMYK"),
        [[255] * 3, [255, 0, 0]],
    ),
    "1 bit": (array_image([[0, 255]], np.uint8).convert("1"), [[0] * 3, [255] * 3]),
    "16 bits": (array_image([[386, 65535]], np.uint16), [[2] * 3, [255] * 3]),  # 386 / 257 = 1.502
    "32 bits": (array_image([[0, 257 * 130]], np.int32), [[0] * 3, [130] * 3]),
    "float image": (array_image([[0.0, 0.6]], np.float32), [[0] * 3, [153] * 3]),
    "float image up to 255": (array_image([[0.0, 99.6]], np.float32), [[0] * 3, [100] * 3]),
    "bool array": (np.array([[False, True]]), [[0] * 3, [255] * 3]),
    "uint8 array": (np.array([[RED, GREEN]], dtype=np.uint8), [RED, GREEN]),
    "int64 array of the two darkest levels": (np.array([[0, 1]]), [[0] * 3, [1] * 3]),
    "int64 array": (np.array([[RED, GREEN]]), [RED, GREEN]),
    "uint16 array": (np.array([[RED, GREEN]], dtype=np.uint16) * 257, [RED, GREEN]),
    "big-endian array": (np.array([[257, 65535]], dtype=">u2"), [[1] * 3, [255] * 3]),
    "float64 array": (np.array([[RED, GREEN]]) / 255, [RED, GREEN]),
    "float16 array up to 255": (np.array([[RED, GREEN]], dtype=np.float16), [RED, GREEN]),
    "RGBA array": (np.array([[[*RED, 255], [255, 0, 0, 128]]], dtype=np.uint8), [RED, [255, 127, 127]]),
    "mirrored view": (np.array([[GREEN, RED]], dtype=np.uint8)[:, ::-1], [RED, GREEN]),
    "tensor": (torch.tensor([RED, GREEN], dtype=torch.uint8).T[:, None], [RED, GREEN]),
    "uint16 tensor": (torch.tensor([[0, 65535]]).to(torch.uint16), [[0] * 3, [255] * 3]),
    "bfloat16 tensor": (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), [[0] * 3, [255] * 3]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_shows_the_same_colours(image_processor, kind):
    image, pixels = KINDS[kind]
    assert_reads(image_processor, image, [pixels])


@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree_within_one_level_on_every_kind_of_image(kind):
    """A PIL backend that rescales by 1/256, or resizes floats wrongly, passes all other tests of one backend."""
    image, _ = KINDS[kind]
    for height, width in ((1, 2), (9, 14)):
        torchvision, pil = (
            backend()(image, size={"height": height, "width": width}, do_normalize=False, return_tensors="pt")[
                "pixel_values"
            ]
            for backend in BACKENDS
        )
        assert (torchvision - pil).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
@pytest.mark.parametrize("num_channels", [None, 1, 2, 3, 4])
def test_backends_agree_within_one_level_on_noise(dtype, num_channels):
    shape = (37, 23) if num_channels is None else (37, 23, num_channels)
    noise = np.random.default_rng(num_channels).random(shape)
    noise = (
        noise > 0.5
        if dtype is bool
        else (noise * {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]).astype(dtype)
    )
    for size in ({"height": 8, "width": 12}, {"height": 50, "width": 41}):
        torchvision, pil = (
            backend()(noise, size=size, do_normalize=False, return_tensors="pt")["pixel_values"]
            for backend in BACKENDS
        )
        assert (torchvision - pil).abs().max() <= 1 / 255 + 1e-6


def test_a_grey_array_with_alpha_lies_over_white(image_processor):
    array = np.full((5, 6, 2), (100, 51), dtype=np.uint8)  # 100 * 0.2 + 255 * 0.8 = 224
    for image in (array, torch.from_numpy(array).permute(2, 0, 1)):
        assert_reads(image_processor, image, np.full((5, 6, 3), 224))


def test_16_bit_files_are_read_in_full(image_processor, tmp_path):
    array_image([[0, 257 * 128, 65535]], np.uint16).save(tmp_path / "deep.png")
    assert_reads(image_processor, tmp_path / "deep.png", [[[0] * 3, [128] * 3, [255] * 3]])


def test_without_conversion_channels_stay_as_they_are(image_processor):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert_reads(image_processor, array, array, do_convert_rgb=False, input_data_format="channels_last")


def test_without_rescaling_values_keep_their_range(image_processor):
    options = {**UNTOUCHED, "do_rescale": False, "return_tensors": "pt"}
    bytes_, unit = np.array([[[0, 51, 255]]], np.uint8), np.array([[[0.0, 0.2, 1.0]]])
    for image in (bytes_, unit):
        assert image_processor(image, **options)["pixel_values"].flatten().tolist() == pytest.approx(image.ravel())


def test_without_rescaling_an_image_does_not_depend_on_its_neighbours(image_processor):
    options = {"do_rescale": False, "do_normalize": False, "do_resize": False, "return_tensors": "pt"}
    unit, levels = np.linspace(0, 1, 48).reshape(4, 4, 3), np.linspace(0, 255, 48).reshape(4, 4, 3)
    together = image_processor([unit, levels], **options)["pixel_values"]
    for image, pixel_values in zip((unit, levels), together, strict=True):
        torch.testing.assert_close(image_processor(image, **options)["pixel_values"][0], pixel_values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.3, 1.7, 9.5, 255.5])
def test_values_outside_the_range_of_images_are_refused(image_processor, value):
    image = np.zeros((4, 4, 3), dtype=np.float32)
    image[1, 2, 0] = value
    with pytest.raises(ValueError, match="`images` contains values from"):
        image_processor(image)


def test_what_resampling_overshot_is_clipped_and_does_not_turn_the_image_black(image_processor):
    image = np.array([[[0.5, 1.04, -0.04]]], dtype=np.float32)
    assert_reads(image_processor, image, np.array([[[128, 255, 0]]], dtype=np.uint8))


def test_dark_levels_as_floats_are_levels_if_they_are_whole_numbers(image_processor):
    image = np.array([[[0.0, 2.0, 3.0]]], dtype=np.float32)
    assert_reads(image_processor, image, image.astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), dtype=np.complex64),
        np.full((4, 4, 3), "x"),
        np.full((4, 4), 256),
        np.full((4, 4), -1),
        array_image([[70000]], np.int32),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
        np.zeros((7, 20, 30), dtype=np.uint8),
        Image.new("La", (2, 2)),
        3.0,
        [None],
    ],
    ids=[
        "complex",
        "text",
        "large",
        "negative",
        "32 bits",
        "no pixels",
        "1-D",
        "no channels",
        "La",
        "number",
        "None",
    ],
)
def test_what_is_no_image_is_refused(image_processor, image):
    with pytest.raises(ValueError, match="`images`"):
        image_processor(image)


# Shapes


def test_a_single_pixel_is_an_image(image_processor):
    for image in (
        np.array([[[255, 0, 0]]], np.uint8),
        Image.new("RGB", (1, 1), (255, 0, 0)),
        torch.tensor([[[1.0]], [[0]], [[0]]]),
    ):
        pixel_values = image_processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixel_values.amax(dim=(2, 3)), torch.tensor([[1.0, -1.0, -1.0]]))
        assert torch.equal(pixel_values.amin(dim=(2, 3)), torch.tensor([[1.0, -1.0, -1.0]]))


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_channels_are_found_in_images_a_few_pixels_wide(image_processor, height, width, convert):
    last = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    first = last.transpose(2, 0, 1).copy()
    assert_reads(image_processor, convert(last), last, input_data_format="channels_last")
    assert_reads(image_processor, convert(first), last, input_data_format="channels_first")
    if convert is np.array or height != 3:
        assert_reads(image_processor, convert(last), last)
    if convert is torch.tensor or width != 3:
        assert_reads(image_processor, convert(first), last)


def test_channels_of_grey_images_are_found_too(image_processor):
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    expected = np.repeat(grey[..., None], 3, axis=2)
    for image in (grey, grey[None], grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert_reads(image_processor, image, expected)


def test_batches_lists_and_nested_lists_are_the_same_images(image_processor, photograph):
    expected = image_processor([photograph, photograph[::-1]], return_tensors="pt")["pixel_values"]
    stacked = np.stack([photograph, photograph[::-1]])
    for images in (
        stacked,
        torch.from_numpy(stacked),
        (stacked[0], stacked[1]),
        [[stacked[0]], [stacked[1]]],
        [stacked],
    ):
        assert torch.equal(image_processor(images, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("images", [[], (), [[]], [[], []]])
def test_an_empty_list_is_refused(image_processor, images):
    with pytest.raises(ValueError, match="`images` is empty"):
        image_processor(images)


def test_images_of_different_sizes_make_a_batch(image_processor):
    images = [Image.new("L", size) for size in ((3, 9), (100, 1), (17, 17))]
    assert image_processor(images, return_tensors="pt")["pixel_values"].shape == (3, 3, 8, 12)


# Files


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_images_and_files_upright(image_processor, photograph, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
        assert_reads(image_processor, stored, expected)
    assert_reads(image_processor, tmp_path / "turned.png", expected)
    assert_reads(image_processor, str(tmp_path / "turned.png"), expected)


def test_damaged_exif_does_not_keep_an_image_from_being_read(image_processor):
    image = Image.new("RGB", (2, 1), tuple(RED))
    image.info["exif"] = b"Exif\x00\x00garbage"
    assert_reads(image_processor, image, [[RED, RED]])


def test_a_data_uri_is_read(image_processor):
    import base64

    buffer = io.BytesIO()
    array_image([[RED, GREEN]], np.uint8).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert_reads(image_processor, uri, [[RED, GREEN]])


def test_files_that_cannot_be_read_are_named(image_processor, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:1000])
    for name in ("missing.png", "text.png", "cut.png", "."):
        with pytest.raises(ValueError, match=r"`images` contains .*cannot be read as an image"):
            image_processor(tmp_path / name)


def test_a_program_is_not_run_however_it_was_opened(image_processor, tmp_path, monkeypatch):
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 31 23\n(x) print\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(program)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: pytest.fail("it was run"))
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.format == "EPS"
        with pytest.raises(ValueError, match=r"`images` contains .*photo\.jpg', which cannot be decoded .*program"):
            image_processor(image)


# Sizes


@pytest.mark.parametrize(
    ("image_size", "multiple", "expected"),
    [
        # Scales to 64 x 64 are 0.5 and 0.25: 0.5 changes least. 100/32 is nearest to 3 multiples, 64/32 to 2.
        ((128, 256), 1, (64, 128)),
        ((128, 200), 32, (64, 96)),
        ((32, 40), 1, (51, 64)),
        ((1, 400), 16, (16, 64)),
    ],
)
def test_aspect_ratio_is_kept_with_sides_in_multiples(image_processor, image_size, multiple, expected):
    options = {"keep_aspect_ratio": True, "ensure_multiple_of": multiple, "size": {"height": 64, "width": 64}}
    batch = image_processor(np.zeros(image_size, np.uint8), np.ones(image_size), return_tensors="pt", **options)
    assert batch["pixel_values"].shape[-2:] == batch["labels"].shape[-2:] == expected


def test_sizes_that_do_not_stack_are_refused_unless_a_list_will_do(image_processor):
    images = [Image.new("L", (40, 20)), Image.new("L", (20, 40))]
    with pytest.raises(ValueError, match="`keep_aspect_ratio=False`"):
        image_processor(images, keep_aspect_ratio=True, return_tensors="pt")
    with pytest.raises(ValueError, match="`do_resize=True`"):
        image_processor(images, do_resize=False, return_tensors="pt")
    shapes = [image.shape for image in image_processor(images, keep_aspect_ratio=True)["pixel_values"]]
    # Of the scales 8/20 and 12/40 the first changes less, of 8/40 and 12/20 the second.
    assert shapes == [(3, 8, 16), (3, 24, 12)]


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"shortest_edge": 8}},
        {"ensure_multiple_of": 0},
        {"depth_scale": 0.0},
        {"depth_scale": float("nan")},
        {"do_center_crop": True, "crop_size": {"height": 4, "width": 4}},
        {"do_pad": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_make_no_sense_are_refused_by_name(image_processor, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        image_processor(Image.new("L", (4, 4)), **options)


# Depth maps


def test_labels_are_metres_at_the_size_of_the_pixel_values(image_processor, photograph):
    depth = np.linspace(1, 10, 30 * 40).reshape(30, 40)
    batch = image_processor([photograph] * 2, [depth, 2 * depth], return_tensors="pt")
    assert batch["labels"].shape == (2, 8, 12) and batch["labels"].dtype == torch.float32
    torch.testing.assert_close(batch["labels"][1], 2 * batch["labels"][0])
    # The centre of label (0, 0) lies in row 30 / 8 / 2 = 1.9 and column 40 / 12 / 2 = 1.7 of the map.
    assert batch["labels"][0, 0, 0].item() == pytest.approx(depth[1, 1])


def test_labels_are_measurements_and_never_blends_of_them(image_processor, photograph):
    depth = np.random.default_rng(1).choice([0.0, 1.0, 7.0], (30, 40))
    assert set(image_processor(photograph, depth, return_tensors="pt")["labels"].unique().tolist()) == {0.0, 1.0, 7.0}


def test_missing_measurements_become_zero(image_processor):
    depth = np.array([[0.0, -1.0, np.nan], [np.inf, -np.inf, 2.5]])
    labels = image_processor(np.zeros((2, 3), np.uint8), depth, do_resize=False, return_tensors="pt")["labels"]
    assert labels.tolist() == [[[0, 0, 0], [0, 0, 2.5]]]


MILLIMETRES = np.array([[0, 1500], [40000, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    "depth_map",
    [
        MILLIMETRES,
        MILLIMETRES.astype(np.int64),
        MILLIMETRES.astype(">u2"),
        MILLIMETRES.astype(np.float32),
        MILLIMETRES[None],
        MILLIMETRES[None, None],
        MILLIMETRES[..., None],
        torch.from_numpy(MILLIMETRES.astype(np.int32)),
        Image.fromarray(MILLIMETRES),
        Image.fromarray(MILLIMETRES.astype(np.int32)),
        Image.fromarray(MILLIMETRES.astype(np.float32)),
    ],
    ids=["uint16", "int64", ">u2", "float", "(1, h, w)", "(1, 1, h, w)", "(h, w, 1)", "tensor", "I;16", "I", "F"],
)
def test_stored_units_become_metres_through_depth_scale(image_processor, depth_map):
    batch = image_processor(
        np.zeros((2, 2), np.uint8), depth_map, depth_scale=0.001, do_resize=False, return_tensors="pt"
    )
    assert torch.equal(batch["labels"], torch.tensor([[[0, 1.5], [40, 65.535]]]))


def test_depth_files_are_read_from_png_and_npy(image_processor, tmp_path):
    Image.fromarray(MILLIMETRES).save(tmp_path / "depth.png")
    np.save(tmp_path / "depth.npy", MILLIMETRES / 1000)
    images = np.zeros((2, 2, 2, 3), np.uint8)
    options = {"do_resize": False, "return_tensors": "pt"}
    png = image_processor(images[0], tmp_path / "depth.png", depth_scale=0.001, **options)["labels"]
    npy = image_processor(images[0], tmp_path / "depth.npy", **options)["labels"]
    assert torch.equal(png, npy) and png[0, 1, 1].item() == pytest.approx(65.535)


def test_integer_depth_without_a_scale_is_refused_with_the_usual_ones(image_processor):
    with pytest.raises(ValueError, match=r"`depth_scale=0.001` for millimetres.*`depth_scale=1 / 256` for KITTI"):
        image_processor(np.zeros((2, 2), np.uint8), MILLIMETRES)


def test_one_depth_map_is_needed_for_each_image(image_processor, photograph):
    with pytest.raises(ValueError, match="`depth_maps` has 1 maps for 2 images"):
        image_processor([photograph] * 2, np.ones((30, 40)))


def test_a_depth_map_of_another_shape_is_refused(image_processor, photograph):
    with pytest.raises(ValueError, match="`depth_maps` contains a map of 40 x 30 pixels for an image of 30 x 40"):
        image_processor(photograph, np.ones((40, 30)))


def test_a_smaller_depth_map_of_the_same_view_is_accepted(image_processor, photograph):
    # 15 x 20 has the aspect ratio; 15 x 20.4 would be 2 % off; 15 x 21 is 5 % off.
    assert image_processor(photograph, np.ones((15, 20)), return_tensors="pt")["labels"].min() == 1
    with pytest.raises(ValueError, match="aspect ratios must agree"):
        image_processor(photograph, np.ones((15, 21)))


def test_a_picture_is_no_depth_map(image_processor, photograph):
    for depth_map in (photograph, Image.fromarray(photograph), with_palette(), np.zeros((0, 3)), [np.zeros(5)]):
        with pytest.raises(ValueError, match="`depth_maps`"):
            image_processor(photograph, depth_map)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_depth_map_is_turned_only_if_it_was_stored_like_the_photograph(image_processor, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    depth = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    Image.new("RGB", (3, 2)).save(tmp_path / "photo.png", exif=exif)
    stored = Image.fromarray(depth)
    stored.getexif()[0x0112] = orientation
    upright = np.array(ImageOps.exif_transpose(stored))
    options = {"do_resize": False, "return_tensors": "pt"}
    turned = image_processor(tmp_path / "photo.png", depth, **options)["labels"][0].numpy()
    # A half turn or a mirror image leaves the shape, so the map is taken to be upright.
    assert np.array_equal(turned, upright if orientation >= 5 else depth)
    kept = image_processor(tmp_path / "photo.png", upright, **options)["labels"][0].numpy()
    assert np.array_equal(kept, upright)


# Statistics


def test_statistics_are_those_of_the_resized_image(image_processor, photograph):
    batch = image_processor(
        [photograph, photograph // 4], return_statistics=True, do_normalize=False, return_tensors="pt"
    )
    assert batch["image_statistics"].dtype == torch.int64
    expected = [[one.minimum, one.maximum, one.median] for one in image_statistics(batch["pixel_values"])]
    assert batch["image_statistics"][:, :3].tolist() == expected
    assert batch["image_statistics"][1, 3] == 0  # below 64, mostly below 37


def test_statistics_do_not_depend_on_how_pixels_are_scaled(image_processor, photograph):
    options = {"return_statistics": True, "return_tensors": "pt"}
    expected = image_processor(photograph, **options)["image_statistics"]
    for image in (photograph / 255, photograph.astype(np.float32), photograph.astype(np.uint16) * 257):
        assert torch.equal(image_processor(image, do_rescale=False, **options)["image_statistics"], expected)


# After the model


def depth_output(dtype=torch.float32) -> DepthEstimatorOutput:
    return DepthEstimatorOutput(predicted_depth=torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("as_sizes", [list, torch.tensor, np.array])
def test_depth_is_resized_bilinearly_between_pixel_centres(image_processor, dtype, as_sizes):
    results = image_processor.post_process_depth_estimation(depth_output(dtype), as_sizes([(1, 4), (2, 1)]))
    assert [result["predicted_depth"].dtype for result in results] == [torch.float32] * 2
    assert results[0]["predicted_depth"].tolist() == [[1.0, 1.5, 2.5, 3.0]]
    assert results[1]["predicted_depth"].tolist() == [[2.0], [2.0]]


def test_without_target_sizes_depth_keeps_its_size(image_processor):
    results = image_processor.post_process_depth_estimation(depth_output(torch.bfloat16))
    assert [result["predicted_depth"].tolist() for result in results] == [[[1.0, 3.0]], [[2.0, 2.0]]]
    assert results[0]["predicted_depth"].numpy().dtype == np.float32


@pytest.mark.parametrize("target_sizes", [[(4, 4)], (4, 4), [(4, 4, 3)] * 2, torch.ones(3, 2)])
def test_target_sizes_that_do_not_match_the_batch_are_refused(image_processor, target_sizes):
    with pytest.raises(ValueError, match="`target_sizes`"):
        image_processor.post_process_depth_estimation(depth_output(), target_sizes)


# Saving


def test_settings_survive_saving(image_processor, tmp_path):
    first = type(image_processor)(
        size={"height": 6, "width": 10}, keep_aspect_ratio=True, ensure_multiple_of=2, depth_scale=0.001
    )
    first.save_pretrained(tmp_path)
    again = type(image_processor).from_pretrained(tmp_path)
    assert again.to_dict() == first.to_dict()
    assert (again.keep_aspect_ratio, again.ensure_multiple_of, again.depth_scale) == (True, 2, 0.001)


@pytest.mark.parametrize("saved", BACKENDS)
def test_each_backend_takes_the_code_of_the_other_along(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "_auto_class", "AutoImageProcessor")
    saved().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {
        "depth_image_processing_llm_mde.py",
        "image_inputs_llm_mde.py",
        "image_processing_llm_mde.py",
        "image_processing_pil_llm_mde.py",
        "prompting_llm_mde.py",
    }
