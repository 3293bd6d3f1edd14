"""Depth maps as points and surfaces in metres, and the PLY and GLB files that other programs read them from.

The camera is the origin; x points right, y down and z forward, as in OpenCV. (In a GLB file y points up and -z
forward, as its standard has it.)
"""

import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from .depth_files import write_whole
from .depth_samples import Intrinsics

_FILM_WIDTH = 36.0  # millimetres of the frame that "35 mm film" names
_COORDINATES = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
_COLOURS = [("red", "u1"), ("green", "u1"), ("blue", "u1")]

# What the numbers of glTF 2.0 mean.
_POINTS, _TRIANGLES = 0, 4
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_GLTF_TYPES = {"<f4": 5126, "<u2": 5123, "<u4": 5125}


class DepthMesh(NamedTuple):
    """A depth map as a surface.

    Attributes:
        vertices (`np.ndarray` of shape `(num_vertices, 3)`, float32): x, y, z in metres.
        triangles (`np.ndarray` of shape `(num_triangles, 3)`, uint32): Three vertices each, counter-clockwise as the
            camera sees them.
        pixels (`np.ndarray` of shape `(num_vertices,)`, int64): Which pixel each vertex is, counted row by row, so
            that `image.reshape(-1, 3)[pixels]` are its colours.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    pixels: np.ndarray


def back_project(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    r"""Points seen by a pinhole camera (Hartley & Zisserman, Multiple View Geometry, 2004, section 6.1).

    Pixel $(u, v)$ with depth $z$ lies at $x = (u - c_x) z / f_x$, $y = (v - c_y) z / f_y$, $z$. Pixel centres are at
    integers: the centre of the top left pixel is $(0, 0)$.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): z-depth in metres; 0 and non-finite values are missing.
        intrinsics (`Intrinsics`): The camera, in pixels of this map.

    Returns:
        `np.ndarray` of shape `(num_points, 3)`, float32: x, y, z in metres of every measured pixel, row by row: the
        order of `image[depth > 0]`.

    Raises:
        ValueError: If `depth` is not two-dimensional.
    """
    depth = _as_map(depth)
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0))
    z = depth[v, u].astype(np.float64)
    x, y = (u - intrinsics.cx) * z / intrinsics.fx, (v - intrinsics.cy) * z / intrinsics.fy
    return np.stack([x, y, z], axis=1).astype(np.float32)


def without_depth_edges(depth: np.ndarray, intrinsics: Intrinsics, max_angle: float = 85.0) -> np.ndarray:
    r"""Depth without the pixels between a near and a far surface, which would fly in the air as points.

    A pixel is dropped where the line of sight and the normal of the surface through its neighbours are more than
    `max_angle` apart. With $u, v$ counted from the principal point, the normal is
    $n = (-f_x z_u, -f_y z_v, z + u z_u + v z_v)$, the line of sight $s = (u / f_x, v / f_y, 1)$, and the cosine of
    their angle $z / (|n| |s|)$. An angle, unlike a jump in metres, suits near and far surfaces and photographs of any
    resolution. A floor seen from the height $h$ is dropped as well beyond $h \tan\alpha$: for 85 degrees and 1.5 m,
    beyond 17 m.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): z-depth in metres; 0 and non-finite values are missing.
        intrinsics (`Intrinsics`): The camera, in pixels of this map.
        max_angle (`float`, *optional*, defaults to 85.0): Degrees, between 0 and 90.

    Returns:
        `np.ndarray` of the same shape, float32: The depth, 0 where it was dropped or missing.

    Raises:
        ValueError: If `depth` is not two-dimensional, or the angle is out of range.
    """
    depth = _as_map(depth).astype(np.float32)
    _check_max_angle(max_angle)
    measured = np.isfinite(depth) & (depth > 0)
    z = np.where(measured, depth, np.float32(np.nan))
    z_v, z_u = (np.gradient(z, axis=axis) if z.shape[axis] > 1 else np.zeros_like(z) for axis in (0, 1))
    v = np.arange(z.shape[0], dtype=np.float32)[:, None] - np.float32(intrinsics.cy)
    u = np.arange(z.shape[1], dtype=np.float32)[None] - np.float32(intrinsics.cx)
    fx, fy = np.float32(intrinsics.fx), np.float32(intrinsics.fy)
    normal = np.sqrt((fx * z_u) ** 2 + (fy * z_v) ** 2 + (z + u * z_u + v * z_v) ** 2)
    sight = np.sqrt((u / fx) ** 2 + (v / fy) ** 2 + 1)
    # Beside a hole the normal is unknown (NaN), which is no reason to drop a measurement.
    is_edge = z < math.cos(math.radians(max_angle)) * normal * sight
    return np.where(measured & ~is_edge, depth, 0).astype(np.float32)


def depth_mesh(depth: np.ndarray, intrinsics: Intrinsics, max_angle: float = 85.0) -> DepthMesh:
    """The surface through neighbouring pixels, torn where the depth jumps.

    Four neighbouring pixels give two triangles, or the one that is left beside a hole. A triangle is left out where
    the line of sight and its normal are more than `max_angle` apart, as between a near and a far surface; see
    [`without_depth_edges`], which asks the same of points. There are twice as many triangles as pixels: for a browser,
    pass a map of at most some 640 x 480 pixels.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): z-depth in metres; 0 and non-finite values are missing.
        intrinsics (`Intrinsics`): The camera, in pixels of this map.
        max_angle (`float`, *optional*, defaults to 85.0): Degrees, between 0 and 90.

    Returns:
        [`DepthMesh`]: Vertices, triangles and pixels, without vertices in no triangle; empty where nothing is left.

    Raises:
        ValueError: If `depth` is not two-dimensional, or the angle is out of range.
    """
    depth = _as_map(depth)
    _check_max_angle(max_angle)
    points = np.full((*depth.shape, 3), np.nan, dtype=np.float32)
    points[np.isfinite(depth) & (depth > 0)] = back_project(depth, intrinsics)

    def corners(values: np.ndarray) -> tuple[np.ndarray, ...]:
        return values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]

    def is_surface(*triangle: np.ndarray) -> np.ndarray:
        first, second, third = triangle
        normal, sight = np.cross(third - first, second - first), first + second + third
        lengths = np.linalg.norm(normal, axis=-1) * np.linalg.norm(sight, axis=-1)
        return (normal * sight).sum(axis=-1) >= math.cos(math.radians(max_angle)) * lengths  # False beside a hole

    # a b
    # c d   split from b to c; where neither half is left, perhaps one beside the other diagonal is.
    (a, b, c, d), at = corners(points), corners(np.arange(depth.size).reshape(depth.shape))
    upper, lower = is_surface(a, c, b), is_surface(b, c, d)
    neither = ~(upper | lower)
    halves = [
        (upper, (0, 2, 1)),
        (lower, (1, 2, 3)),
        (neither & is_surface(a, c, d), (0, 2, 3)),
        (neither & is_surface(a, d, b), (0, 3, 1)),
    ]
    triangles = np.concatenate([np.stack([at[corner][half] for corner in turn], axis=1) for half, turn in halves])
    is_vertex = np.zeros(depth.size, dtype=bool)
    is_vertex[triangles] = True
    number = (np.cumsum(is_vertex) - 1).astype(np.uint32)
    return DepthMesh(points.reshape(-1, 3)[is_vertex], number[triangles], np.flatnonzero(is_vertex))


def distance_between(
    depth: np.ndarray, intrinsics: Intrinsics, first: tuple[int, int], second: tuple[int, int]
) -> float:
    """How far apart two pixels of a depth map lie in space, in metres, along a straight line.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): z-depth in metres; 0 and non-finite values are missing.
        intrinsics (`Intrinsics`): The camera, in pixels of this map.
        first, second (`tuple[int, int]`): Column and row of a pixel, from the top left.

    Raises:
        ValueError: If a pixel lies outside the map or its depth is missing, or `depth` is not two-dimensional.
    """
    depth = _as_map(depth)
    height, width = depth.shape
    ends = []
    for name, (column, row) in {"first": first, "second": second}.items():
        if not (0 <= column < width and 0 <= row < height):
            raise ValueError(
                f"`{name}` is ({column}, {row}), outside the map; pass a column from 0 to {width - 1} and a row from "
                f"0 to {height - 1}."
            )
        # A map of this pixel alone, seen by a camera whose pixels are counted from it.
        camera = replace(intrinsics, cx=intrinsics.cx - column, cy=intrinsics.cy - row)
        point = back_project(depth[row : row + 1, column : column + 1], camera)
        if not len(point):
            raise ValueError(f"`{name}` is ({column}, {row}), where `depth` is missing; choose another pixel.")
        ends.append(point[0].astype(np.float64))
    return float(np.linalg.norm(ends[0] - ends[1]))


def intrinsics_from_fov(width: int, height: int, horizontal_fov_degrees: float) -> Intrinsics:
    r"""A camera with square pixels and a centred principal point: $f = \frac{w}{2} / \tan\frac{\alpha}{2}$.

    Args:
        width, height (`int`): Size of the photograph in pixels.
        horizontal_fov_degrees (`float`): Angle $\alpha$ between the left and the right edge of the photograph.

    Raises:
        ValueError: If the angle is not between 0 and 180 degrees.
    """
    if not 0 < horizontal_fov_degrees < 180:
        raise ValueError(
            f"`horizontal_fov_degrees` is {horizontal_fov_degrees}; pass the angle between the left and the right "
            "edge in degrees, between 0 and 180."
        )
    return _centred(width, height, width / 2 / math.tan(math.radians(horizontal_fov_degrees) / 2))


def intrinsics_from_exif(image: Image.Image) -> Intrinsics | None:
    """The camera that the photograph's EXIF states as `FocalLengthIn35mmFilm`, taking 36 mm for the longer side.

    Args:
        image (`PIL.Image.Image`): The photograph as it was opened, with its EXIF.

    Returns:
        `Intrinsics`, *optional*: In pixels of the upright photograph, that is after its EXIF orientation; `None` if
        no focal length is stated.
    """
    try:
        exif = image.getexif()
        focal_length = float(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
        is_turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # damaged metadata are no reason to refuse a picture
        return None
    if not 0 < focal_length < math.inf:  # the standard writes 0 for unknown
        return None
    width, height = image.size[::-1] if is_turned else image.size
    return _centred(width, height, focal_length / _FILM_WIDTH * max(width, height))


def check_principal_point(intrinsics: Intrinsics, width: int, height: int) -> None:
    """
    Raises:
        ValueError: If the principal point lies outside a photograph of this size, as it does when the intrinsics are
            those of a larger one.
    """
    # Pixel centres are at integers, so a photograph reaches from -0.5 to its size - 0.5.
    if not (-0.5 <= intrinsics.cx <= width - 0.5 and -0.5 <= intrinsics.cy <= height - 0.5):
        raise ValueError(
            f"`intrinsics` has its principal point at ({intrinsics.cx:g}, {intrinsics.cy:g}), outside the photograph "
            f"of {width} x {height} pixels; give fx, fy, cx and cy in pixels of this size, or a field of view, which "
            "suits every size."
        )


def write_ply(
    path: str | os.PathLike, points: np.ndarray, colours: np.ndarray | None = None, comments: Sequence[str] = ()
) -> None:
    """Write points as a binary little-endian PLY file in metres, which a comment in its header says.

    The file appears complete or not at all.

    Args:
        path (`str` or `os.PathLike`): Where to write; the folder has to exist.
        points (`np.ndarray` of shape `(num_points, 3)`): x, y, z in metres.
        colours (`np.ndarray` of shape `(num_points, 3)`, *optional*): RGB, uint8.
        comments (`Sequence[str]`, *optional*): More lines for the header, such as the camera; ASCII.

    Raises:
        ValueError: If shapes or types differ from these, a comment is not one line of ASCII, or the folder does not
            exist.
    """
    points = _as_points(points, "points")
    _check_colours(colours, points)
    comments = ["units: metres", "camera at the origin, x right, y down, z forward", *comments]
    for comment in comments:
        if not comment.isascii() or not comment.isprintable():
            raise ValueError(f"`comments` has {comment!r}; a PLY header takes single lines of ASCII.")
    fields = _COORDINATES if colours is None else _COORDINATES + _COLOURS
    vertices = np.empty(len(points), dtype=fields)
    for column, (name, _) in enumerate(fields):
        vertices[name] = points[:, column] if column < 3 else colours[:, column - 3]
    write_whole(Path(path), _header(len(points), fields, comments) + vertices.tobytes())


def write_glb(
    path: str | os.PathLike,
    vertices: np.ndarray,
    colours: np.ndarray | None = None,
    triangles: np.ndarray | None = None,
    comments: Sequence[str] = (),
) -> None:
    """Write points, or with `triangles` a surface, as binary glTF 2.0 in metres, which browsers show.

    The file says that its colours are light already (`KHR_materials_unlit`), so a viewer shows those of the
    photograph. Points are drawn one pixel large by most viewers: [`depth_mesh`] makes a surface, which looks better.
    Units and camera are stated in `asset.extras`. The file appears complete or not at all.

    Args:
        path (`str` or `os.PathLike`): Where to write; the folder has to exist.
        vertices (`np.ndarray` of shape `(num_vertices, 3)`): x, y, z in metres, finite, at least one; x right, y down,
            z forward as everywhere here. The file has (x, -y, -z), as glTF wants it.
        colours (`np.ndarray` of shape `(num_vertices, 3)`, *optional*): sRGB, uint8. The file has them as linear
            `COLOR_0` under an unlit material, with 16 bits, as 8 would merge dark ones.
        triangles (`np.ndarray` of shape `(num_triangles, 3)`, *optional*): Integers, three vertices each,
            counter-clockwise as the camera sees them; both sides are shown.
        comments (`Sequence[str]`, *optional*): More lines for `asset.extras`, such as the camera.

    Raises:
        ValueError: If shapes, types or values differ from these, or the folder does not exist.
    """
    vertices = _as_points(vertices, "vertices")
    _check_colours(colours, vertices)
    positions = (vertices * np.array([1, -1, -1], dtype=vertices.dtype)).astype("<f4")
    if not len(positions) or not np.isfinite(positions).all():
        raise ValueError(f"`vertices` has {len(positions)} points; a GLB file takes at least one, and finite ones.")

    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    arrays = [(positions, {"type": "VEC3", **bounds})]
    primitive = {"attributes": {"POSITION": 0}, "mode": _POINTS, "material": 0}
    if colours is not None:
        primitive["attributes"]["COLOR_0"] = len(arrays)
        arrays.append((_linear_colours(np.asarray(colours)), {"type": "VEC4", "normalized": True}))
    if triangles is not None:
        primitive |= {"mode": _TRIANGLES, "indices": len(arrays)}
        arrays.append((_as_indices(triangles, len(positions)), {"type": "SCALAR"}))
    camera = "at the origin, x right, y up, looking along -z"
    scene = {
        "asset": {
            "version": "2.0",
            "generator": "llm_mde",
            "extras": {"units": "metres", "camera": camera, "comments": list(comments)},
        },
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [
            {
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},  # for viewers without unlit
                "doubleSided": True,
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
    }
    write_whole(Path(path), _glb(scene, arrays))


def read_ply(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a PLY file that [`write_ply`] has written.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: Points, float32 `(num_points, 3)` in metres, and colours, uint8
        `(num_points, 3)`, if it has them.

    Raises:
        ValueError: If there is no such file, or it is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` is {str(path)!r}, and there is no such file.")
    head, end, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii", errors="replace").splitlines()
    counts = [line.split()[-1] for line in lines if line.startswith("element vertex ")]
    comments = [line.removeprefix("comment ") for line in lines if line.startswith("comment ")]
    for fields in (_COORDINATES, _COORDINATES + _COLOURS):
        dtype = np.dtype(fields)
        is_ours = len(counts) == 1 and counts[0].isdigit() and head + end == _header(int(counts[0]), fields, comments)
        if is_ours and len(body) == int(counts[0]) * dtype.itemsize:
            vertices = np.frombuffer(body, dtype=dtype)
            points = np.stack([vertices[name] for name, _ in _COORDINATES], axis=1)
            colours = np.stack([vertices[name] for name, _ in _COLOURS], axis=1) if fields[3:] else None
            return points, colours
    raise ValueError(
        f"`path` is {str(path)!r}, which is no complete PLY file of `write_ply`; other kinds are not read."
    )


def _header(num_points: int, fields: Sequence[tuple[str, str]], comments: Sequence[str]) -> bytes:
    types = {"<f4": "float", "u1": "uchar"}
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {comment}" for comment in comments),
        f"element vertex {num_points}",
        *(f"property {types[kind]} {name}" for name, kind in fields),
        "end_header",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


def _glb(scene: dict, arrays: Sequence[tuple[np.ndarray, dict]]) -> bytes:
    """A glTF scene as one binary file, its accessors in the order of the arrays, each with more fields of its own.

    Elements of 4, 8 and 12 bytes need no padding: every array starts at a multiple of 4.
    """
    buffer = b"".join(values.tobytes() for values, _ in arrays)
    views, accessors, offset = [], [], 0
    for values, fields in arrays:
        target = _ELEMENT_ARRAY_BUFFER if fields["type"] == "SCALAR" else _ARRAY_BUFFER
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": values.nbytes, "target": target})
        component = _GLTF_TYPES[values.dtype.str]
        accessors.append({"bufferView": len(accessors), "componentType": component, "count": len(values), **fields})
        offset += values.nbytes
    scene = {**scene, "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(buffer)}]}
    text = json.dumps(scene, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _as_indices(triangles: np.ndarray, num_vertices: int) -> np.ndarray:
    triangles = np.asarray(triangles)
    is_list = triangles.ndim == 2 and triangles.shape[1] == 3 and triangles.dtype.kind in "iu" and len(triangles) > 0
    if not is_list or triangles.min() < 0 or triangles.max() >= num_vertices:
        raise ValueError(
            f"`triangles` is {triangles.dtype} of shape {triangles.shape}; pass at least one triangle, integers "
            f"(num_triangles, 3) from 0 to {num_vertices - 1}."
        )
    return triangles.astype("<u4").ravel()


def _linear_colours(colours: np.ndarray) -> np.ndarray:
    """sRGB levels (IEC 61966-2-1), `(num, 3)` uint8, as opaque linear RGBA with 16 bits."""
    level = np.arange(256) / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    rgba = np.full((len(colours), 4), 65535, dtype="<u2")
    rgba[:, :3] = np.rint(65535 * light).astype("<u2")[colours]
    return rgba


def _as_points(points: np.ndarray, argument: str) -> np.ndarray:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise ValueError(f"`{argument}` is {points.dtype} of shape {points.shape}; pass metres (num_points, 3).")
    return points


def _check_colours(colours: np.ndarray | None, points: np.ndarray) -> None:
    if colours is not None and (np.shape(colours) != points.shape or np.asarray(colours).dtype != np.uint8):
        raise ValueError(
            f"`colours` is {np.asarray(colours).dtype} of shape {np.shape(colours)} for {len(points)} points; pass "
            "uint8 (num_points, 3)."
        )


def _centred(width: int, height: int, focal_length: float) -> Intrinsics:
    # Pixels reach from -0.5 to width - 0.5, so their middle is at (width - 1) / 2.
    return Intrinsics(fx=focal_length, fy=focal_length, cx=(width - 1) / 2, cy=(height - 1) / 2)


def _as_map(depth: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth)
    if depth.ndim != 2:
        raise ValueError(f"`depth` has shape {depth.shape}; pass one map (height, width), for example `depth[0]`.")
    return depth


def _check_max_angle(max_angle: float) -> None:
    if not 0 < max_angle < 90:
        raise ValueError(f"`max_angle` is {max_angle}; pass degrees between 0 and 90, for example 85.")


__all__ = [
    "DepthMesh",
    "back_project",
    "check_principal_point",
    "depth_mesh",
    "distance_between",
    "intrinsics_from_exif",
    "intrinsics_from_fov",
    "read_ply",
    "without_depth_edges",
    "write_glb",
    "write_ply",
]
