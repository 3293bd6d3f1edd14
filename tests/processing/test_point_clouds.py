"""Depth maps as points and surfaces: positions one can work out by hand, cameras, and files that keep every bit."""

import io
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from llm_mde.processing import Intrinsics
from llm_mde.processing.point_clouds import (
    back_project,
    check_principal_point,
    depth_mesh,
    distance_between,
    intrinsics_from_exif,
    intrinsics_from_fov,
    read_ply,
    without_depth_edges,
    write_glb,
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


def parse_glb(path: Path) -> tuple[dict, bytes]:
    """The scene and the binary chunk of a GLB file, read as the glTF 2.0 standard lays them out (section 4)."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    chunks, start = [], 12
    while start < length:
        size, kind = struct.unpack_from("<I4s", content, start)
        assert start % 4 == size % 4 == 0
        chunks.append((kind, content[start + 8 : start + 8 + size]))
        start += 8 + size
    assert start == length
    (json_kind, text), (binary_kind, binary) = chunks
    assert (json_kind, binary_kind) == (b"JSON", b"BIN\0")
    scene = json.loads(text)
    assert len(binary) == scene["buffers"][0]["byteLength"]
    return scene, binary


def read_accessor(scene: dict, binary: bytes, index: int) -> np.ndarray:
    accessor = scene["accessors"][index]
    view = scene["bufferViews"][accessor["bufferView"]]
    dtype = {5123: np.dtype("<u2"), 5125: np.dtype("<u4"), 5126: np.dtype("<f4")}[accessor["componentType"]]
    columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    assert view["byteOffset"] % 4 == 0
    assert view["byteLength"] == accessor["count"] * columns * dtype.itemsize
    return np.frombuffer(binary, dtype, accessor["count"] * columns, view["byteOffset"]).reshape(-1, columns)


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
    for cx, cy in ((-0.6, 30), (79.6, 30), (40, -0.6), (40, 59.6), (2016, 1512)):
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


def test_a_square_of_pixels_is_two_triangles():
    vertices, triangles, pixels = depth_mesh(np.full((2, 2), 2.0), Intrinsics(fx=2, fy=2, cx=0, cy=0))
    assert vertices.tolist() == [[0, 0, 2], [1, 0, 2], [0, 1, 2], [1, 1, 2]]
    assert triangles.tolist() == [[0, 2, 1], [1, 2, 3]]
    assert (vertices.dtype, triangles.dtype, pixels.tolist()) == (np.float32, np.uint32, [0, 1, 2, 3])


@pytest.mark.parametrize("missing", range(4))
def test_three_of_four_pixels_are_one_triangle(missing):
    depth = np.full((2, 2), 2.0)
    depth.flat[missing] = np.nan
    vertices, triangles, pixels = depth_mesh(depth, Intrinsics(fx=2, fy=2, cx=0, cy=0))
    assert pixels.tolist() == [pixel for pixel in range(4) if pixel != missing]
    first, second, third = vertices[triangles[0]].astype(np.float64)
    assert len(triangles) == 1
    assert np.cross(second - first, third - first) @ first < 0  # it faces the camera: see the next test


def test_triangles_turn_counter_clockwise_as_the_camera_sees_them():
    depth = np.random.default_rng(0).uniform(2, 2.2, (6, 8)).astype(np.float32)
    vertices, triangles, _ = depth_mesh(depth, Intrinsics(fx=9, fy=9, cx=3.5, cy=2.5), max_angle=89.9)
    assert len(triangles) == 2 * 5 * 7
    first, second, third = (vertices[triangles[:, corner]].astype(np.float64) for corner in range(3))
    normals = np.cross(second - first, third - first)
    # With y down, counter-clockwise for the eye at the origin means a normal that points back to it.
    assert ((normals * first).sum(axis=1) < 0).all()


def test_no_triangle_crosses_a_depth_edge():
    depth = np.full((6, 10), 1.0, dtype=np.float32)
    depth[:, 5:] = 4.0
    mesh = depth_mesh(depth, Intrinsics(100, 100, 4.5, 2.5), max_angle=85)
    z = mesh.vertices[mesh.triangles][..., 2]
    assert set(z.min(axis=1)) == {1.0, 4.0}  # both surfaces are there
    np.testing.assert_array_equal(z.min(axis=1), z.max(axis=1))
    np.testing.assert_array_equal(mesh.vertices[:, 2], depth.ravel()[mesh.pixels])
    assert np.unique(mesh.triangles).tolist() == list(range(len(mesh.vertices)))


@pytest.mark.parametrize("size", [100, 800])
def test_a_surface_is_torn_at_an_angle_whatever_the_resolution(size):
    """The wall of the points' test above, met at 80 + t degrees by the line of sight t degrees right of the axis."""
    u = np.arange(-0.15 * size, 0)
    sight = u / size
    wall = np.broadcast_to(1 / (1 - math.tan(math.radians(80)) * sight), (2, u.size)).astype(np.float32)
    mesh = depth_mesh(wall, Intrinsics(size, size, 0.15 * size, 0.5), max_angle=75)
    has_triangle = np.isin(np.arange(wall.size), mesh.pixels).reshape(wall.shape)
    angles = 80 + np.degrees(np.arctan(sight))
    clear = abs(angles - 75) > 0.7
    np.testing.assert_array_equal(has_triangle[:, clear], np.broadcast_to(angles < 75, wall.shape)[:, clear])


def test_an_edge_between_two_holes_is_torn_too():
    depth = np.full((4, 4), np.nan, dtype=np.float32)
    depth[:, 1], depth[:, 2] = 1.0, 4.0
    assert not len(depth_mesh(depth, Intrinsics(100, 100, 1.5, 1.5)).triangles)


@pytest.mark.parametrize("far", range(4))
def test_a_square_with_one_far_corner_keeps_the_other_three(far):
    depth = np.ones((2, 2))
    depth.flat[far] = 9
    mesh = depth_mesh(depth, Intrinsics(100, 100, 0.5, 0.5))
    assert mesh.pixels.tolist() == [pixel for pixel in range(4) if pixel != far]
    assert mesh.triangles.shape == (1, 3)


def test_a_lonely_pixel_is_no_vertex_and_an_empty_map_no_surface():
    depth = np.zeros((3, 3), dtype=np.float32)
    for _ in range(2):
        vertices, triangles, pixels = depth_mesh(depth, Intrinsics(1, 1, 1, 1))
        assert (vertices.shape, triangles.shape, pixels.shape) == ((0, 3), (0, 3), (0,))
        depth[1, 1] = 1


def test_the_distance_of_two_pixels_is_that_of_their_points():
    depth = np.zeros((3, 4), dtype=np.float32)
    depth[0, 3], depth[2, 1] = 2.0, 5.0
    camera = Intrinsics(fx=2.0, fy=4.0, cx=1.0, cy=2.0)
    # (2, -1, 2) and (0, 0, 5): the first test has them.
    assert distance_between(depth, camera, (3, 0), (1, 2)) == pytest.approx(math.sqrt(4 + 1 + 9))
    assert distance_between(depth, camera, (1, 2), (3, 0)) == pytest.approx(math.sqrt(14))
    assert distance_between(depth, camera, (1, 2), (1, 2)) == 0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((4, 0), (1, 2), r"`first` is \(4, 0\), outside the map; pass a column from 0 to 3 and a row from 0 to 2"),
        ((1, 2), (0, 3), r"`second` is \(0, 3\), outside"),
        ((-1, 0), (1, 2), r"`first` is \(-1, 0\), outside"),
        ((1, 2), (0, 0), r"`second` is \(0, 0\), where `depth` is missing"),
        ((2, 2), (1, 2), r"`first` is \(2, 2\), where `depth` is missing"),
    ],
)
def test_no_distance_to_where_nothing_was_measured(first, second, message):
    depth = np.zeros((3, 4), dtype=np.float32)
    depth[2, 1:3] = 5.0, np.nan
    with pytest.raises(ValueError, match=message):
        distance_between(depth, Intrinsics(1, 1, 0, 0), first, second)


def test_a_surface_comes_back_from_its_glb_file(tmp_path):
    generator = np.random.default_rng(0)
    vertices = generator.normal(size=(101, 3)).astype(np.float32)
    colours = generator.integers(0, 256, (101, 3), dtype=np.uint8)
    triangles = generator.integers(0, 101, (57, 3), dtype=np.uint32)
    write_glb(tmp_path / "a.glb", vertices, colours, triangles, comments=["fx 500"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.glb"]
    scene, binary = parse_glb(tmp_path / "a.glb")

    (primitive,) = scene["meshes"][0]["primitives"]
    assert primitive["mode"] == 4
    positions = read_accessor(scene, binary, primitive["attributes"]["POSITION"])
    np.testing.assert_array_equal(positions, vertices * np.float32([1, -1, -1]))  # y up, -z forward
    bounds = scene["accessors"][primitive["attributes"]["POSITION"]]
    assert np.float32(bounds["min"]).tolist() == positions.min(axis=0).tolist()
    assert np.float32(bounds["max"]).tolist() == positions.max(axis=0).tolist()

    colour_accessor = scene["accessors"][primitive["attributes"]["COLOR_0"]]
    assert colour_accessor["normalized"] is True
    rgba = read_accessor(scene, binary, primitive["attributes"]["COLOR_0"]) / 65535
    assert (rgba[:, 3] == 1).all()
    # Light back to sRGB, the standard's inverse formula.
    encoded = np.where(rgba <= 0.0031308, 12.92 * rgba, 1.055 * rgba ** (1 / 2.4) - 0.055)[:, :3]
    np.testing.assert_array_equal(np.rint(255 * encoded), colours)

    np.testing.assert_array_equal(read_accessor(scene, binary, primitive["indices"]).reshape(-1, 3), triangles)
    assert [view["target"] for view in scene["bufferViews"]] == [34962, 34962, 34963]


def test_a_glb_file_says_metres_and_shows_the_colours_of_the_photograph(tmp_path):
    write_glb(tmp_path / "a.glb", np.array([[1.0, 2.0, 3.0]]), np.uint8([[0, 128, 255]]), comments=["by hand"])
    scene, binary = parse_glb(tmp_path / "a.glb")
    assert scene["asset"]["version"] == "2.0"
    assert scene["asset"]["extras"] == {
        "units": "metres",
        "camera": "at the origin, x right, y up, looking along -z",
        "comments": ["by hand"],
    }
    assert scene["extensionsUsed"] == ["KHR_materials_unlit"]
    (primitive,) = scene["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert "indices" not in primitive
    assert scene["materials"][primitive["material"]]["extensions"] == {"KHR_materials_unlit": {}}
    assert scene["nodes"][scene["scenes"][scene["scene"]]["nodes"][0]]["mesh"] == 0
    # Half of the levels is ((0.50196 + 0.055) / 1.055)^2.4 = 0.21586 of the light.
    assert read_accessor(scene, binary, 1).tolist() == [[0, round(0.2158605 * 65535), 65535, 65535]]


def test_points_need_no_colours(tmp_path):
    write_glb(tmp_path / "a.glb", np.eye(3))
    scene, binary = parse_glb(tmp_path / "a.glb")
    assert scene["meshes"][0]["primitives"][0]["attributes"] == {"POSITION": 0}
    assert read_accessor(scene, binary, 0).tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, -1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 2)),), "`vertices`"),
        ((np.ones((4, 3), dtype=np.int64),), "`vertices`"),
        ((np.ones((0, 3)),), "`vertices` has 0 points"),
        ((np.full((4, 3), np.nan),), "`vertices`.* finite"),
        ((np.ones((4, 3)), np.ones((4, 3))), "`colours`"),
        ((np.ones((4, 3)), np.ones((3, 3), dtype=np.uint8)), "`colours`"),
        ((np.ones((4, 3)), None, [[0, 1, 4]]), "`triangles`.* from 0 to 3"),
        ((np.ones((4, 3)), None, [[0, 1, -1]]), "`triangles`"),
        ((np.ones((4, 3)), None, [0, 1, 2]), "`triangles`"),
        ((np.ones((4, 3)), None, [[0.0, 1.0, 2.0]]), "`triangles`"),
        ((np.ones((4, 3)), None, np.zeros((0, 3), dtype=np.int64)), "`triangles`"),
    ],
)
def test_what_is_no_surface_is_not_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_glb(tmp_path / "a.glb", *arguments)
    assert not list(tmp_path.iterdir())


def test_what_is_no_map_or_no_camera_is_refused():
    with pytest.raises(ValueError, match=r"`depth` has shape \(1, 2, 2\)"):
        back_project(np.ones((1, 2, 2)), Intrinsics(1, 1, 0, 0))
    for numbers in ((0, 1, 0, 0), (1, -1, 0, 0), (1, 1, np.nan, 0), (np.nan, 1, 0, 0), (1, np.inf, 0, 0)):
        with pytest.raises(ValueError, match=r"`intrinsics` is fx .*positive focal lengths"):
            Intrinsics(*numbers)
    with pytest.raises(ValueError, match="`depth` has shape"):
        distance_between(np.ones(4), Intrinsics(1, 1, 0, 0), (0, 0), (1, 1))
    for refuses in (without_depth_edges, depth_mesh):
        with pytest.raises(ValueError, match="`max_angle` is 90"):
            refuses(np.ones((2, 2)), Intrinsics(1, 1, 0, 0), max_angle=90)
