"""Depth maps as points in metres, and the PLY files that other programs read them from.

The camera is the origin; x points right, y down and z forward, as in OpenCV.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from .depth_files import write_whole
from .depth_samples import Intrinsics

_FILM_WIDTH = 36.0  # millimetres of the frame that "35 mm film" names
_COORDINATES = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
_COLOURS = [("red", "u1"), ("green", "u1"), ("blue", "u1")]


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
        ValueError: If `depth` is not two-dimensional, or a focal length is not positive.
    """
    depth = _as_map(depth)
    _check_focal_lengths(intrinsics)
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
        ValueError: If `depth` is not two-dimensional, a focal length is not positive, or the angle is out of range.
    """
    depth = _as_map(depth).astype(np.float32)
    _check_focal_lengths(intrinsics)
    if not 0 < max_angle < 90:
        raise ValueError(f"`max_angle` is {max_angle}; pass degrees between 0 and 90, for example 85.")
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
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise ValueError(f"`points` is {points.dtype} of shape {points.shape}; pass metres (num_points, 3).")
    if colours is not None and (np.shape(colours) != points.shape or np.asarray(colours).dtype != np.uint8):
        raise ValueError(
            f"`colours` is {np.asarray(colours).dtype} of shape {np.shape(colours)} for {len(points)} points; pass "
            "uint8 (num_points, 3)."
        )
    comments = ["units: metres", "camera at the origin, x right, y down, z forward", *comments]
    for comment in comments:
        if not comment.isascii() or not comment.isprintable():
            raise ValueError(f"`comments` has {comment!r}; a PLY header takes single lines of ASCII.")
    fields = _COORDINATES if colours is None else _COORDINATES + _COLOURS
    vertices = np.empty(len(points), dtype=fields)
    for column, (name, _) in enumerate(fields):
        vertices[name] = points[:, column] if column < 3 else colours[:, column - 3]
    write_whole(Path(path), _header(len(points), fields, comments) + vertices.tobytes())


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


def _centred(width: int, height: int, focal_length: float) -> Intrinsics:
    # Pixels reach from -0.5 to width - 0.5, so their middle is at (width - 1) / 2.
    return Intrinsics(fx=focal_length, fy=focal_length, cx=(width - 1) / 2, cy=(height - 1) / 2)


def _as_map(depth: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth)
    if depth.ndim != 2:
        raise ValueError(f"`depth` has shape {depth.shape}; pass one map (height, width), for example `depth[0]`.")
    return depth


def _check_focal_lengths(intrinsics: Intrinsics) -> None:
    if not (intrinsics.fx > 0 and intrinsics.fy > 0):
        raise ValueError(f"`intrinsics` is {intrinsics}; focal lengths are positive numbers of pixels.")


__all__ = [
    "back_project",
    "check_principal_point",
    "intrinsics_from_exif",
    "intrinsics_from_fov",
    "read_ply",
    "without_depth_edges",
    "write_ply",
]
