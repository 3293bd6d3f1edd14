"""Rendered rooms: depth that geometry confirms, files that a seed repeats."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from llm_mde.processing import RGBDFolder
from llm_mde.processing.furnished_rooms import View
from llm_mde.processing.rendered_scenes import _trace_depth, pinhole, render_scenes

mi = pytest.importorskip("mitsuba", reason="rooms are rendered by mitsuba, an extra")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Five rooms of one small view each."""
    calls = []
    root = render_scenes(
        tmp_path_factory.mktemp("rendered") / "rooms",
        5,
        seed=3,
        width=48,
        height=36,
        samples_per_pixel=2,
        on_progress=lambda done, count: calls.append((done, count)),
    )
    return root, calls


def tilted_plane(view, normal, distance):
    """A scene of one large plane through the point `distance` metres in front of the camera."""
    mi.set_variant("scalar_rgb")
    point = view.origin + distance * view.forward
    frame = mi.ScalarTransform4f().look_at(origin=point.tolist(), target=(point + normal).tolist(), up=[0.3, 0.9, 0.1])
    plane = {"type": "rectangle", "to_world": frame @ mi.ScalarTransform4f().scale([50, 50, 1])}
    return mi.load_dict({"type": "scene", "plane": plane}), point


@pytest.mark.parametrize("normal", [(0.0, -1.0, 0.0), (0.4, -0.8, 0.45), (-0.7, -0.7, 0.1)])
def test_depth_of_a_plane_is_its_z_depth_at_every_pixel_centre(normal):
    size, normal = (40, 30), np.array(normal) / np.linalg.norm(normal)
    # Looking along +y with +z up, moved and a little rolled: right is x.
    roll = 0.1
    up = np.array([np.sin(roll), 0, np.cos(roll)])
    view = View(origin=np.array([1.0, 2.0, 1.5]), forward=np.array([0.0, 1.0, 0.0]), up=up)
    camera = pinhole(*size, field_of_view=63)
    scene, point = tilted_plane(view, normal, distance=2.5)
    depth, surfaces = _trace_depth(mi, scene, view, camera, size)

    # Back through the pinhole with the published intrinsics: ray = (u - cx) / fx right + (v - cy) / fy down + forward.
    rows, columns = np.mgrid[: size[1], : size[0]]
    right, down = np.cross(view.forward, up), -up
    rays = (
        view.forward
        + ((columns - camera.cx) / camera.fx)[..., None] * right
        + ((rows - camera.cy) / camera.fy)[..., None] * down
    )
    expected = ((point - view.origin) @ normal) / (rays @ normal)  # z, since each ray has length 1 along forward
    in_front = (expected > 0) & (expected < 12)
    assert in_front.mean() > 0.5
    np.testing.assert_allclose(depth[in_front], expected[in_front], rtol=2e-5)
    np.testing.assert_allclose(np.abs(surfaces[..., :3] @ normal)[in_front], 1, atol=1e-5)


def test_a_facing_wall_has_one_depth_to_the_corners():
    view = View(origin=np.zeros(3), forward=np.array([0.0, 1.0, 0.0]), up=np.array([0.0, 0.0, 1.0]))
    scene, _ = tilted_plane(view, np.array([0.0, -1.0, 0.0]), distance=3.0)
    depth, _ = _trace_depth(mi, scene, view, pinhole(32, 24, 90), (32, 24))
    np.testing.assert_allclose(depth, 3.0, rtol=1e-5)  # the ray to the corner is 3.75 m long


def test_nothing_in_sight_has_no_depth():
    view = View(origin=np.zeros(3), forward=np.array([0.0, 1.0, 0.0]), up=np.array([0.0, 0.0, 1.0]))
    scene, _ = tilted_plane(view, np.array([0.0, -1.0, 0.0]), distance=-3.0)
    assert (_trace_depth(mi, scene, view, pinhole(8, 6, 63), (8, 6))[0] == 0).all()


def test_rooms_read_as_pairs_in_metres_with_their_camera(rooms):
    root, _ = rooms
    folder = RGBDFolder(root, split=None)
    assert len(folder) == 5
    for sample in folder:
        assert sample.image.size == (48, 36)
        assert sample.depth.shape == (36, 48)
        assert (sample.depth > 0).mean() > 0.95
        assert sample.depth[sample.depth > 0].min() >= 0.3
        assert sample.depth.max() <= 10
        assert 10 < np.asarray(sample.image).mean() < 245
        assert sample.intrinsics.fx == pytest.approx(24 / np.tan(np.radians(31.5)), abs=1e-4)
        assert (sample.intrinsics.cx, sample.intrinsics.cy) == (23.5, 17.5)


def test_every_fifth_room_is_for_validation_and_no_room_is_in_both(rooms):
    root, _ = rooms
    with (root / "index.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"]
    assert len({row["scene"] for row in rows}) == 5


def test_progress_counts_up_to_the_number_asked_for(rooms):
    assert rooms[1] == [(done, 5) for done in range(1, 6)]


def test_one_seed_repeats_every_file_and_another_does_not(rooms, tmp_path):
    root, _ = rooms
    arguments = {"width": 48, "height": 36, "samples_per_pixel": 2}
    again = render_scenes(tmp_path / "again", 2, seed=3, **arguments)
    other = render_scenes(tmp_path / "other", 1, seed=4, **arguments)
    for path in sorted(again.glob("*/*")):
        assert path.read_bytes() == (root / path.relative_to(again)).read_bytes(), path
    assert (other / "depth" / "room00000_0.png").read_bytes() != (root / "depth" / "room00000_0.png").read_bytes()


def test_views_of_one_room_differ_and_stay_in_one_split(tmp_path):
    root = render_scenes(tmp_path / "rooms", 3, width=24, height=18, views_per_room=2, samples_per_pixel=1)
    names = RGBDFolder(root).names
    assert names == ["rgb/room00000_0.jpg", "rgb/room00000_1.jpg", "rgb/room00001_0.jpg"]
    first, second = (np.asarray(Image.open(root / name)) for name in names[:2])
    assert not np.array_equal(first, second)


def test_an_interrupted_rendering_leaves_no_index(tmp_path):
    def stop(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_scenes(tmp_path / "rooms", 4, width=16, height=12, samples_per_pixel=1, on_progress=stop)
    assert not (tmp_path / "rooms" / "index.csv").exists()


@pytest.mark.slow
def test_a_fresh_process_renders_without_a_warning(tmp_path):
    # Embree complained, and lost shapes, when the first two rooms were loaded at once.
    code = (
        "import sys; from llm_mde.processing.rendered_scenes import render_scenes; "
        "render_scenes(sys.argv[1], 4, width=16, height=12, samples_per_pixel=1)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rooms")], capture_output=True, text=True, check=True
    )
    assert "WARN" not in result.stdout + result.stderr
    assert "Error" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [{"count": 0}, {"width": 0}, {"views_per_room": 0}, {"seed": -1}, {"field_of_view": 180}]
)
def test_numbers_out_of_range_are_refused_by_name(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        render_scenes(tmp_path / "rooms", **({"count": 1} | arguments))
    assert not (tmp_path / "rooms").exists()


def test_a_folder_with_something_in_it_is_refused(rooms):
    with pytest.raises(ValueError, match="root"):
        render_scenes(rooms[0], 1)
