"""Augmentation: photograph, depth and camera stay one, colours leave depth alone, and bad settings are refused."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from llm_mde.processing import DepthAugmentation, DepthSample, Intrinsics, RGBDFolder
from llm_mde.processing.augmentation import colour_matrix

STILL = {"flip": 0.0, "min_crop": 1.0, "colour": 0.0}
HEIGHT, WIDTH = 120, 160
CAMERA = Intrinsics(fx=150.0, fy=150.0, cx=70.5, cy=66.0)
# Depth in metres -> column and row of the middle of a patch of 9 x 9 pixels, and its colour.
MARKS = {2.0: (60, 50, (255, 0, 0)), 3.0: (100, 45, (0, 255, 0)), 5.0: (72, 80, (0, 0, 255))}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marked(intrinsics=CAMERA, depth_step: int = 1) -> DepthSample:
    """A dark photograph at 1 m with coloured patches at their depths; depth may be `depth_step` times smaller."""
    pixels = np.full((HEIGHT, WIDTH, 3), 20, dtype=np.uint8)
    depth = np.ones((HEIGHT, WIDTH), dtype=np.float32)
    for metres, (column, row, colour) in MARKS.items():
        patch = np.s_[row - 4 : row + 5, column - 4 : column + 5]
        pixels[patch], depth[patch] = colour, metres
    return DepthSample(Image.fromarray(pixels), depth[::depth_step, ::depth_step], intrinsics, "marked")


def plain(depth, level=100) -> DepthSample:
    """A grey photograph over the given depth."""
    depth = np.asarray(depth, dtype=np.float32)
    return DepthSample(Image.new("RGB", depth.shape[::-1], (level,) * 3), depth, None, "plain")


def middle(mask) -> np.ndarray:
    """Mean column and row of the true pixels."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def points(sample) -> np.ndarray:
    """The middle of each patch, found by its depth and back-projected: rows of (X, Y, Z) in metres."""
    camera = sample.intrinsics
    x, y = np.array([middle(sample.depth == metres) for metres in MARKS]).T
    z = np.array(list(MARKS))
    return np.stack([(x - camera.cx) / camera.fx * z, (y - camera.cy) / camera.fy * z, z], axis=-1)


# Geometry


@pytest.mark.parametrize(
    "options", [{"flip": 1.0}, {"min_crop": 0.8}, {"rotation": 20.0}, {"flip": 1.0, "min_crop": 0.8, "rotation": 9.0}]
)
def test_a_patch_of_the_photograph_and_its_depth_move_together(options):
    for seed in range(5):
        augmented = DepthAugmentation(**STILL | options)(marked(), generator(seed))
        pixels = np.asarray(augmented.image).astype(int)
        assert pixels.shape[:2] == augmented.depth.shape
        for metres, (_, _, colour) in MARKS.items():
            is_coloured = np.abs(pixels - colour).sum(axis=-1) < 138  # more of the colour than of the background
            np.testing.assert_allclose(middle(is_coloured), middle(augmented.depth == metres), atol=0.2)


def test_a_mirror_negates_x_of_every_point():
    augmented = DepthAugmentation(**STILL | {"flip": 1.0})(marked(), generator())
    np.testing.assert_allclose(points(augmented), points(marked()) * [-1, 1, 1], atol=1e-9)
    assert augmented.intrinsics == replace(CAMERA, cx=159 - 70.5)


def test_a_window_moves_no_point():
    for seed in range(5):
        augmented = DepthAugmentation(**STILL | {"min_crop": 0.8})(marked(), generator(seed))
        assert augmented.image.size != (WIDTH, HEIGHT)
        np.testing.assert_allclose(points(augmented), points(marked()), atol=1e-9)


@pytest.mark.parametrize("min_crop", [1.0, 0.8])
def test_a_rotation_rolls_the_scene_about_the_optical_axis(min_crop):
    angles = []
    for seed in range(8):
        augmented = DepthAugmentation(**STILL | {"min_crop": min_crop, "rotation": 10.0})(marked(), generator(seed))
        before, after = (sample[:, 0] + 1j * sample[:, 1] for sample in (points(marked()), points(augmented)))
        angle = np.angle(np.vdot(before, after))
        # A third of a pixel at 5 m is 11 mm; patches of picked pixels are no more exact than that.
        np.testing.assert_allclose(after, before * np.exp(1j * angle), atol=0.011)
        assert (augmented.intrinsics.fx, augmented.intrinsics.fy) == (CAMERA.fx, CAMERA.fy)
        angles.append(np.degrees(angle))
    assert -10.1 < min(angles) < -3
    assert 3 < max(angles) < 10.1


def test_mirror_window_and_rotation_together_are_a_mirrored_roll():
    for seed in range(8):
        augmented = DepthAugmentation(flip=1.0, min_crop=0.7, rotation=8.0)(marked(), generator(seed))
        if not all((augmented.depth == metres).sum() > 70 for metres in MARKS):
            continue  # the window cut a patch
        before, after = (sample[:, 0] + 1j * sample[:, 1] for sample in (points(marked()), points(augmented)))
        angle = np.angle(np.vdot(-before.conj(), after))
        np.testing.assert_allclose(after, -before.conj() * np.exp(1j * angle), atol=0.011)
        break
    else:
        pytest.fail("every window cut a patch")


def test_a_window_keeps_the_aspect_ratio_and_its_share_of_the_side():
    sizes = [
        DepthAugmentation(min_crop=0.6)(plain(np.ones((400, 600))), generator(seed)).image.size for seed in range(30)
    ]
    shares = [height / 400 for _, height in sizes]
    assert 0.6 <= min(shares) < 0.7
    assert 0.9 < max(shares) <= 1
    for width, height in sizes:
        assert width / height == pytest.approx(1.5, abs=0.01)


def test_no_depth_value_is_invented():
    depth = np.where(np.arange(60) < 30, np.float32(1), np.float32(9)) * np.ones((40, 1), dtype=np.float32)
    depth[:6] = 0
    sample = DepthSample(Image.new("RGB", (120, 80)), depth, None, "edge at half the photograph's resolution")
    for seed in range(8):
        augmented = DepthAugmentation(rotation=15.0)(sample, generator(seed))
        assert augmented.depth.dtype == np.float32
        assert set(np.unique(augmented.depth)) <= {0.0, 1.0, 9.0}


def test_depth_of_lower_resolution_lies_where_it_lay():
    for seed in range(4):
        augmented = DepthAugmentation(**STILL | {"flip": 1.0, "rotation": 10.0})(marked(depth_step=2), generator(seed))
        full = DepthAugmentation(**STILL | {"flip": 1.0, "rotation": 10.0})(marked(), generator(seed))
        assert augmented.depth.shape == full.depth.shape
        # Pixel i of the small map covers pixels 2i and 2i + 1 of the photograph.
        assert np.mean(augmented.depth == full.depth) > 0.98


def test_corners_that_nobody_recorded_are_missing_and_of_the_mean_colour():
    sample = plain(np.ones((HEIGHT, WIDTH)), level=0)
    sample.image.paste((200, 100, 50), (0, 0, WIDTH // 2, HEIGHT))
    augmented = DepthAugmentation(**STILL | {"rotation": 30.0})(sample, generator(3))
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert augmented.depth[corner] == 0
        np.testing.assert_allclose(np.asarray(augmented.image)[corner], (100, 50, 25), atol=1)
    assert (augmented.depth == 1).mean() > 0.7


def test_a_turned_window_stays_inside_the_photograph_where_it_may_shrink():
    sample = plain(np.ones((HEIGHT, WIDTH)))
    for seed in range(40):
        for rotation in (5.0, 20.0):
            augmented = DepthAugmentation(min_crop=0.5, rotation=rotation)(sample, generator(seed))
            assert (augmented.depth == 1).all()


def test_a_camera_without_square_pixels_is_not_turned():
    turning, still = DepthAugmentation(rotation=20.0), DepthAugmentation(rotation=0.0)
    stretched = replace(CAMERA, fy=152.0)
    for camera, turns in ((stretched, False), (replace(CAMERA, fy=151.0), True), (None, True)):
        augmented, plain_window = (each(marked(camera), generator()) for each in (turning, still))
        assert (augmented.depth.shape != plain_window.depth.shape) == turns
        assert (augmented.intrinsics is None) == (camera is None)


# Colours


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({}, (10, 20, 30), (10, 20, 30)),
        ({"brightness": 1.5}, (10, 20, 30), (15, 30, 45)),
        ({"contrast": 0.5}, (200, 100, 0), (150, 100, 50)),
        ({"saturation": 0.0}, (255, 0, 0), (76.245, 76.245, 76.245)),
        ({"saturation": 2.0}, (100, 50, 0), (200 - 59.25, 100 - 59.25, -59.25)),
        ({"hue": 1 / 3}, (10, 20, 30), (30, 10, 20)),
        ({"brightness": 1.2, "contrast": 0.5, "saturation": 1.4, "hue": 0.1}, (60, 60, 60), (96, 96, 96)),
    ],
)
def test_each_change_of_colour_by_hand(changes, before, after):
    matrix = colour_matrix(**{"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "pivot": 100} | changes)
    np.testing.assert_allclose(matrix @ [*before, 1], after, atol=1e-9)


def test_colours_change_the_photograph_and_not_one_bit_of_depth():
    sample = marked()
    sample.depth[:20, :20] = np.random.default_rng(0).gamma(2, 1.5, (20, 20))
    augmented = DepthAugmentation(flip=0.0, min_crop=1.0, colour=2.0)(sample, generator())
    assert augmented.depth.tobytes() == sample.depth.tobytes()
    assert augmented.intrinsics == sample.intrinsics
    assert (np.asarray(augmented.image) != np.asarray(sample.image)).mean() > 0.9


@pytest.mark.parametrize(("colour", "reach"), [(1.0, 20), (2.0, 40)])
def test_strength_is_a_fifth_of_the_brightness(colour, reach):
    # The photograph is of its own mean, grey: neither contrast nor saturation nor hue can change it.
    augment = DepthAugmentation(colour=colour)
    levels = [augment(plain(np.ones((4, 4))), generator(seed)).image.getpixel((0, 0)) for seed in range(40)]
    assert all(red == green == blue for red, green, blue in levels)
    assert 100 - reach <= min(levels)[0] < 100 - reach / 2
    assert 100 + reach / 2 < max(levels)[0] <= 100 + reach


def test_strength_0_leaves_the_photograph_as_it_is():
    augmented = DepthAugmentation(**STILL)(marked(), generator())
    np.testing.assert_array_equal(np.asarray(augmented.image), np.asarray(marked().image))


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_grayscale_takes_all_colour_away(colour):
    pixels = np.asarray(DepthAugmentation(colour=colour, grayscale=1.0)(marked(), generator()).image).astype(int)
    assert np.ptp(pixels, axis=-1).max() == 0
    assert np.ptp(pixels) > 50


# CutDepth


def test_cut_depth_shows_grey_levels_in_a_rectangle_and_nowhere_else():
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[::4], depth[1::4], depth[2::4, ::2] = 0.0, 12.0, 10.0
    sample = plain(depth)
    is_shown = (depth > 0) & (depth <= 10)
    expected = np.where(depth == 2, 51, 255)  # 255 * 2 / 10
    areas = []
    for seed in range(30):
        # Without a change of geometry; colours come first and leave the levels of depth exact.
        augment = DepthAugmentation(flip=0.0, min_crop=1.0, colour=0.5, cut_depth=1.0, max_depth=10.0)
        augmented = augment(sample, generator(seed))
        pixels = np.asarray(augmented.image)
        photograph = np.asarray(replace(augment, cut_depth=0.0)(sample, generator(seed)).image)
        is_cut = (pixels != photograph).any(axis=-1)
        if not is_cut.any():
            continue  # a rectangle over missing depth only
        rows, columns = (np.flatnonzero(is_cut.any(axis=axis)) for axis in (1, 0))
        rectangle = np.zeros_like(is_cut)
        rectangle[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(is_cut, rectangle & is_shown)
        for channel in range(3):
            np.testing.assert_array_equal(pixels[is_cut, channel], expected[is_cut])
        np.testing.assert_array_equal(augmented.depth, sample.depth)
        # At most three quarters of what is right of and below its corner, which missing depth may hide.
        assert columns[-1] + 1 - columns[0] <= 0.75 * (WIDTH - columns[0]) + 1
        assert rows[-1] + 1 - rows[0] <= 0.75 * (HEIGHT - rows[0]) + 1
        areas.append(rectangle.mean())
    assert len(areas) > 25
    assert max(areas) > 0.1


# All of it


def test_the_strong_preset_does_more_of_everything():
    mild, strong = DepthAugmentation(), DepthAugmentation.strong()
    assert strong.min_crop < mild.min_crop
    assert strong.rotation > mild.rotation
    assert strong.colour > mild.colour


def test_one_generator_state_gives_one_result_and_the_sample_stays_as_it_was():
    sample, augment = marked(), DepthAugmentation.strong()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    (first, second), (again, _) = [
        [augment(sample, each), augment(sample, each)] for each in (generator(), generator())
    ]
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
    np.testing.assert_array_equal(first.depth, again.depth)
    assert first.intrinsics == again.intrinsics != second.intrinsics
    np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(marked().image))
    np.testing.assert_array_equal(sample.depth, marked().depth)


def test_switching_colours_off_leaves_the_draws_of_geometry():
    source = generator(7), generator(7)
    for _ in range(3):
        coloured, uncoloured = (
            DepthAugmentation(colour=colour, rotation=5.0)(marked(), each)
            for colour, each in zip((1.0, 0.0), source, strict=True)
        )
        np.testing.assert_array_equal(coloured.depth, uncoloured.depth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "`flip` is 1.5"),
        ({"grayscale": -0.1}, "`grayscale` is -0.1"),
        ({"cut_depth": float("nan")}, "`cut_depth` is nan"),
        ({"min_crop": 0}, "`min_crop` is 0"),
        ({"rotation": 90}, "`rotation` is 90"),
        ({"colour": 5}, "`colour` is 5"),
        ({"cut_depth": 0.5}, r"`max_depth` is None.*config\.max_depth"),
        ({"max_depth": 0.0}, r"`max_depth` is 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DepthAugmentation(**options)


def test_samples_that_are_no_pair_are_refused():
    with pytest.raises(ValueError, match=r"'marked'.*120 x 160.*120 x 100.*same field of view"):
        DepthAugmentation()(replace(marked(), depth=np.ones((120, 100), dtype=np.float32)), generator())
    with pytest.raises(ValueError, match="mode L"):
        DepthAugmentation()(replace(marked(), image=marked().image.convert("L")), generator())


@pytest.mark.skipif("LLM_MDE_DATA" not in os.environ, reason="LLM_MDE_DATA does not name a folder of RGB-D frames")
def test_real_frames_stay_registered_with_their_depth():
    """A photograph that shows its own depth as grey levels shows it still after all changes of geometry."""
    folder = RGBDFolder(os.environ["LLM_MDE_DATA"], split="val")
    augment = replace(DepthAugmentation.strong(), colour=0.0, grayscale=0.0)
    for index in range(0, len(folder), 10):
        sample = folder[index]
        if (sample.depth > 0).mean() < 0.9:
            continue  # single measured points have no surface around them to be interpolated
        levels = np.clip(20 * sample.depth, 0, 255).astype(np.uint8)
        augmented = augment(replace(sample, image=Image.fromarray(levels).convert("RGB")), generator(index))
        shown = np.asarray(augmented.image)[..., 0].astype(float)
        # One picked pixel against the mean of its neighbours: they differ at edges, elsewhere by rounding.
        differs = np.abs(shown - np.clip(20 * augmented.depth, 0, 255)) > 2.5
        assert differs.mean() < 0.03, sample.name
