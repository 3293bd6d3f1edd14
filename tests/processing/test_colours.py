"""Pictures of depth: which colour, which limits, and grey where nothing is known."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing.colours import MISSING_COLOUR, colourise, depth_limits, side_by_side

pytest.importorskip("matplotlib", reason="colour maps come from matplotlib, an extra")


def test_near_and_far_take_the_ends_of_the_map_and_missing_is_grey():
    depth = np.array([[1.0, 3.0, 0.0, np.nan, -1.0, np.inf]])
    picture = colourise(depth, min_depth=1, max_depth=3, cmap="gray")
    assert picture.dtype == np.uint8
    assert picture[0, :2].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert (picture[0, 2:] == MISSING_COLOUR).all()


def test_depth_beyond_the_limits_takes_the_colour_at_the_limit():
    picture = colourise(np.array([[0.5, 1.0, 2.0, 50.0]]), min_depth=1, max_depth=2, cmap="gray")
    assert picture[0, :, 0].tolist() == [0, 0, 255, 255]


def test_the_middle_of_the_scale_is_linear_in_metres():
    assert colourise(np.array([[2.0]]), min_depth=1, max_depth=3, cmap="gray")[0, 0, 0] in (127, 128)


def test_limits_are_percentiles_of_what_is_measured():
    depth = np.concatenate([np.zeros(500), np.linspace(1, 2, 1001), [1000.0]])[None]
    near, far = depth_limits(depth)
    assert near == pytest.approx(1.02, abs=2e-3)
    assert far == pytest.approx(1.98, abs=2e-3)


def test_limits_are_shared_by_all_maps_given():
    assert depth_limits(np.full((2, 2), 1.0), np.full((2, 2), 3.0)) == (1.0, 3.0)


def test_a_constant_map_and_an_empty_one_have_a_picture():
    assert colourise(np.full((2, 3), 2.0)).shape == (2, 3, 3)
    assert (colourise(np.zeros((2, 3))) == MISSING_COLOUR[0]).all()
    assert depth_limits(np.zeros((2, 2))) == (0.0, 1.0)
    near, far = depth_limits(np.full((2, 2), 2.0))
    assert near < 2 < far


def test_what_cannot_be_coloured_is_refused():
    with pytest.raises(ValueError, match="depth"):
        colourise(np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="min_depth"):
        colourise(np.ones((2, 2)), min_depth=3, max_depth=3)
    with pytest.raises(ValueError, match="cmap"):
        colourise(np.ones((2, 2)), cmap="rainbow road")


def test_panels_of_any_size_stand_in_a_row_beside_a_bar():
    panels = [("photo", Image.new("RGB", (64, 48), "red")), ("depth", np.zeros((120, 160, 3), dtype=np.uint8))]
    without = side_by_side(panels, height=90)
    with_bar = side_by_side(panels, min_depth=0.5, max_depth=4.2, height=90)
    assert without.mode == "RGB"
    assert without.width > 2 * 120
    assert with_bar.width > without.width
    assert with_bar.height == without.height
    # The bar is the last coloured column: turbo's red end (far) on top, its dark blue end (near) at the foot.
    bar = np.asarray(with_bar).astype(int)[:, without.width :]
    coloured = np.argwhere((np.ptp(bar, axis=-1) > 20).all(axis=1) | (np.ptp(bar, axis=-1) > 20).any(axis=1))[:, 0]
    top, foot = bar[coloured[0]].reshape(-1, 3), bar[coloured[-1]].reshape(-1, 3)
    assert any(r > 90 and b < 30 for r, g, b in top)
    assert any(b > r and g < 60 for r, g, b in foot)


def test_panels_that_are_not_pictures_are_refused():
    with pytest.raises(ValueError, match="panels"):
        side_by_side([])
    with pytest.raises(ValueError, match="through `colourise`"):
        side_by_side([("depth", np.ones((4, 4)))])
    with pytest.raises(ValueError, match="min_depth"):
        side_by_side([("photo", Image.new("RGB", (4, 4)))], min_depth=1)


def test_importing_the_package_loads_neither_matplotlib_nor_mitsuba():
    code = (
        "import sys, llm_mde.processing.colours, llm_mde.processing.rendered_scenes; "
        "print([name for name in ('matplotlib', 'mitsuba', 'skimage', 'datasets', 'peft') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
