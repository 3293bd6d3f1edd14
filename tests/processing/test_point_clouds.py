"""Depth maps as points: positions that one can work out by hand, cameras, and files that keep every bit."""

import io
import math

import numpy as np
import pytest
from PIL import ExifTags, Image

from llm_mde.processing import Intrinsics
from llm_mde.processing.point_clouds import (
    back_project,
    check_principal_point,
    intrinsics_from_exif,
    intrinsics_from_fov,
    read_ply,
    without_depth_edges,
    write_ply,
)


def photograph_with_exif(size=(60, 40), focal_length=None, orientation=None) -> Image.Image:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    if focal_length is not None:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.FocalLengthIn35mmFilm: focal_length}
    stored = io.BytesIO()
    Image.new("RGB", size).save(stored, format="JPEG", exif=exif)
    return Image.open(stored)


def test_a_pixel_lies_where_the_pinhole_equation_puts_it():
    depth = np.zeros((3, 4), dtype=np.float32)
    depth[0, 3], depth[2, 1] = 2.0, 5.0
    points = back_project(depth, Intrinsics(fx=2.0, fy=4.0, cx=1.0, cy=2.0))
    assert points.dtype == np.float32
    # (3 - 1) * 2 / 2, (0 - 2) * 2 / 4, 2 and (1 - 1) * 5 / 2, (2 - 2) * 5 / 4, 5
    assert points.tolist() == [[2.0, -1.0, 2.0], [0.0, 0.0, 5.0]]


def test_points_are_measured_pixels_row_by_row():
    depth = np.array([[1, 0, 2], [np.nan, 3, np.inf], [-1, 4, 5]], dtype=np.float32)
    assert back_project(depth, Intrinsics(1, 1, 0, 0))[:, 2].tolist() == [1, 2, 3, 4, 5]
    assert back_project(np.zeros((2, 2)), Intrinsics(1, 1, 0, 0)).shape == (0, 3)


def test_a_principal_point_lies_between_the_outer_edges_of_the_outer_pixels():
    for cx, cy in ((-0.5, -0.5), (79.5, 59.5), (40, 30)):
        check_principal_point(Intrinsics(90, 90, cx, cy), width=80, height=60)
    for cx, cy in ((-0.6, 30), (79.6, 30), (40, -0.6), (40, 59.6), (2016, 1512), (math.nan, 30)):
        with pytest.raises(ValueError, match="outside the photograph of 80 x 60 pixels"):
            check_principal_point(Intrinsics(90, 90, cx, cy), width=80, height=60)


def test_points_project_back_onto_their_pixels():
    depth = np.random.default_rng(0).uniform(0.5, 80, (48, 64)).astype(np.float32)
    camera = Intrinsics(fx=51.9, fy=52.1, cx=31.3, cy=25.4)
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    pixels = back_project(depth, camera).astype(np.float64) @ matrix.T
    v, u = np.indices(depth.shape)
    np.testing.assert_allclose(pixels[:, 0] / pixels[:, 2], u.ravel(), atol=1e-4)
    np.testing.assert_allclose(pixels[:, 1] / pixels[:, 2], v.ravel(), atol=1e-4)


def test_the_field_of_view_reaches_from_the_left_edge_to_the_right_edge():
    camera = intrinsics_from_fov(640, 480, 90.0)
    assert camera.fx == pytest.approx(320.0)  # tan(45 degrees) = 1
    assert camera.fy == camera.fx
    assert (camera.cx, camera.cy) == (319.5, 239.5)
    assert math.degrees(math.atan((639.5 - camera.cx) / camera.fx)) == pytest.approx(45.0)


@pytest.mark.parametrize("fov", [0, 180, -10, math.nan])
def test_an_impossible_field_of_view_is_refused(fov):
    with pytest.raises(ValueError, match="`horizontal_fov_degrees`"):
        intrinsics_from_fov(640, 480, fov)


def test_exif_gives_the_focal_length_in_pixels_of_the_upright_photograph():
    # 24 mm of 36 mm is two thirds of the 60 pixels.
    assert intrinsics_from_exif(photograph_with_exif(focal_length=24)) == Intrinsics(40, 40, 29.5, 19.5)
    turned = photograph_with_exif(focal_length=24, orientation=6)
    assert intrinsics_from_exif(turned) == Intrinsics(40, 40, 19.5, 29.5)


def test_exif_without_a_focal_length_gives_no_camera():
    assert intrinsics_from_exif(Image.new("RGB", (60, 40))) is None
    assert intrinsics_from_exif(photograph_with_exif(orientation=6)) is None
    assert intrinsics_from_exif(photograph_with_exif(focal_length=0)) is None


def test_flying_pixels_between_two_surfaces_are_dropped_and_the_surfaces_kept():
    depth = np.full((5, 9), 2.0, dtype=np.float32)
    depth[:, 4], depth[:, 5:] = 3.0, 4.0
    # Central differences in columns 3 to 5 are 0.5, 1 and 0.5 m a pixel. Times f / z, near the middle of the image the
    # tangent of the angle: 50 * 0.5 / 2 = 12.5, 50 * 1 / 3 = 16.7 and 50 * 0.5 / 4 = 6.3.
    camera = Intrinsics(50, 50, 4, 2)
    kept = without_depth_edges(depth, camera, max_angle=math.degrees(math.atan(15)))
    assert (kept[:, 4] == 0).all()
    np.testing.assert_array_equal(np.delete(kept, 4, axis=1), np.delete(depth, 4, axis=1))
    wider = without_depth_edges(depth, camera, max_angle=math.degrees(math.atan(10)))
    assert (wider == 0).all(axis=0).tolist() == [False, False, False, True, True, False, False, False, False]


@pytest.mark.parametrize("size", [100, 800])
def test_the_limit_is_an_angle_whatever_the_resolution(size):
    """A wall z = 1 + tan(80 degrees) x: the line of sight t degrees right of the axis meets it at 80 + t degrees."""
    u = np.arange(-0.15 * size, 0)
    sight = u / size
    wall = np.broadcast_to(1 / (1 - math.tan(math.radians(80)) * sight), (3, u.size)).astype(np.float32)
    kept = without_depth_edges(wall, Intrinsics(size, size, 0.15 * size, 1), max_angle=75) > 0
    angles = 80 + np.degrees(np.arctan(sight))
    clear = abs(angles - 75) > 0.5
    assert {bool(angle < 75) for angle in angles[clear]} == {True, False}
    np.testing.assert_array_equal(kept[:, clear], np.broadcast_to(angles < 75, wall.shape)[:, clear])


def test_a_hole_is_no_edge():
    depth = np.full((3, 5), 2.0, dtype=np.float32)
    depth[1, 2] = 0
    np.testing.assert_array_equal(without_depth_edges(depth, Intrinsics(50, 50, 2, 1)), depth)
    row = np.full((1, 5), 2.0, dtype=np.float32)
    np.testing.assert_array_equal(without_depth_edges(row, Intrinsics(50, 50, 2, 0)), row)


@pytest.mark.parametrize("has_colours", [False, True])
def test_a_ply_file_keeps_every_bit(has_colours, tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(1000, 3)).astype(np.float32)
    colours = generator.integers(0, 256, (1000, 3), dtype=np.uint8) if has_colours else None
    write_ply(tmp_path / "points.ply", points, colours)
    read_points, read_colours = read_ply(tmp_path / "points.ply")
    np.testing.assert_array_equal(read_points, points)
    if has_colours:
        np.testing.assert_array_equal(read_colours, colours)
    else:
        assert read_colours is None
    assert [path.name for path in tmp_path.iterdir()] == ["points.ply"]


def test_a_ply_header_is_what_other_programs_expect_and_says_metres(tmp_path):
    write_ply(tmp_path / "a.ply", np.array([[1.0, 2.0, 3.0]]), np.array([[4, 5, 6]], dtype=np.uint8), ["by hand"])
    assert (tmp_path / "a.ply").read_bytes() == (
        b"ply\nformat binary_little_endian 1.0\ncomment units: metres\n"
        b"comment camera at the origin, x right, y down, z forward\ncomment by hand\nelement vertex 1\n"
        b"property float x\nproperty float y\nproperty float z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
        b"\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x04\x05\x06"
    )


def test_an_empty_cloud_is_a_file_too(tmp_path):
    write_ply(tmp_path / "empty.ply", np.zeros((0, 3), dtype=np.float32))
    assert read_ply(tmp_path / "empty.ply")[0].shape == (0, 3)


def test_half_a_ply_file_and_other_kinds_are_refused(tmp_path):
    write_ply(tmp_path / "a.ply", np.ones((10, 3)))
    whole = (tmp_path / "a.ply").read_bytes()
    for content in (whole[:-1], whole[:40], whole.replace(b"property float z", b"property double z"), b""):
        (tmp_path / "other.ply").write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` is .*other\.ply"):
            read_ply(tmp_path / "other.ply")
    with pytest.raises(ValueError, match="no such file"):
        read_ply(tmp_path / "absent.ply")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 2)),), "`points`"),
        ((np.ones((4, 3), dtype=np.int64),), "`points`"),
        ((np.ones((4, 3)), np.ones((4, 3))), "`colours`"),
        ((np.ones((4, 3)), np.ones((3, 3), dtype=np.uint8)), "`colours`"),
        ((np.ones((4, 3)), None, ["two\nlines"]), "`comments`"),
        ((np.ones((4, 3)), None, ["72 °"]), "`comments`"),
    ],
)
def test_what_is_no_cloud_is_not_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_ply(tmp_path / "a.ply", *arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_no_map_or_no_camera_is_refused():
    with pytest.raises(ValueError, match=r"`depth` has shape \(1, 2, 2\)"):
        back_project(np.ones((1, 2, 2)), Intrinsics(1, 1, 0, 0))
    for refuses in (back_project, without_depth_edges):
        with pytest.raises(ValueError, match="`intrinsics`"):
            refuses(np.ones((2, 2)), Intrinsics(0, 1, 0, 0))
    with pytest.raises(ValueError, match="`max_angle` is 90"):
        without_depth_edges(np.ones((2, 2)), Intrinsics(1, 1, 0, 0), max_angle=90)
