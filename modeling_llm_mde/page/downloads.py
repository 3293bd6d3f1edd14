"""What a visitor takes away: depth as PNG and NPY, the scene as GLB and PLY, all in stated units."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_mde.processing import Intrinsics, write_depth_png
from llm_mde.processing.depth_files import LARGEST_PNG_DEPTH, write_depth_npy
from llm_mde.processing.photographs import Camera
from llm_mde.processing.point_clouds import (
    back_project,
    check_principal_point,
    depth_mesh,
    intrinsics_from_fov,
    write_glb,
    write_ply,
)

from .estimator import DepthEstimate, DepthEstimator, shrunk
from .uploads import Refusal

SCENE_SIDE = 400  # points along the longer side of the surface, which phones have to draw
ASSUMED_FOV = 60.0
ASSUMED = f"an assumed field of view of {ASSUMED_FOV:g} degrees"


def camera_of(estimate: DepthEstimate, fov: float | None = None, intrinsics: Sequence[float] | None = None) -> Camera:
    """
    The camera of a photograph: what was entered, else what its EXIF states, else an assumed one.

    Args:
        estimate ([`DepthEstimate`]): Of the photograph.
        fov (`float`, *optional*): Horizontal field of view, 1 to 179 degrees.
        intrinsics (`Sequence[float]`, *optional*): fx, fy, cx and cy in pixels of the photograph.

    Raises:
        Refusal: If what was entered describes no camera.
    """
    height, width = estimate.size
    if intrinsics is not None:
        if len(intrinsics) != 4 or not all(map(math.isfinite, intrinsics)) or min(intrinsics[:2]) <= 0:
            raise Refusal(
                "Intrinsics are four numbers, fx, fy, cx and cy in pixels, the first two positive, such as 525 525 "
                "319.5 239.5."
            )
        try:
            check_principal_point(Intrinsics(*intrinsics), width, height)
        except ValueError as error:
            raise Refusal(
                f"The principal point at ({intrinsics[2]:g}, {intrinsics[3]:g}) lies outside this photograph of "
                f"{width} x {height} pixels. Please give fx, fy, cx and cy in its pixels, or a field of view, which "
                "suits every size."
            ) from error
        return Camera(Intrinsics(*intrinsics), "the intrinsics entered")
    if fov is not None:
        if not 1 <= fov <= 179:
            raise Refusal("The field of view has to be an angle from 1 to 179 degrees.")
        return Camera(intrinsics_from_fov(width, height, fov), f"the field of view entered, {fov:g} degrees")
    if estimate.camera is not None:
        return Camera(estimate.camera.intrinsics, "the focal length in the photograph's EXIF")
    return Camera(intrinsics_from_fov(width, height, ASSUMED_FOV), ASSUMED)


def is_assumed(camera: Camera) -> bool:
    return camera.source == ASSUMED


def field_of_view(intrinsics: Intrinsics, width: int) -> float:
    """Horizontal, in degrees."""
    return 2 * math.degrees(math.atan(width / 2 / intrinsics.fx))


def write_depth_files(folder: Path, depth: np.ndarray) -> tuple[Path, Path]:
    """A 16-bit PNG in millimetres, 0 beyond 65.535 m, where these end, and a float32 NPY in metres."""
    png, npy = folder / "depth_millimetres.png", folder / "depth_metres.npy"
    write_depth_png(png, np.where(depth > LARGEST_PNG_DEPTH, 0, depth))
    write_depth_npy(npy, depth)
    return png, npy


def write_scene_files(
    folder: Path, estimator: DepthEstimator, estimate: DepthEstimate, camera: Camera
) -> tuple[Path, Path]:
    """The surface as GLB and its points as PLY, both in metres; no side has more than `SCENE_SIDE` of them."""
    colours = shrunk(estimate.picture, SCENE_SIDE)
    size = colours.shape[:2]
    depth = estimator.metres(estimate, size)
    intrinsics = _scaled(camera.intrinsics, size[1] / estimate.size[1], size[0] / estimate.size[0])
    colours = colours.reshape(-1, 3)
    glb, ply = folder / "surface.glb", folder / "points.ply"
    comment = f"camera from {camera.source}"
    mesh = depth_mesh(depth, intrinsics)
    points = back_project(depth, intrinsics)
    if len(mesh.triangles):
        write_glb(glb, mesh.vertices, colours[mesh.pixels], mesh.triangles, [comment])
        write_ply(ply, mesh.vertices, colours[mesh.pixels], [comment])
    else:  # nothing but edges, or a photograph of one line
        write_glb(glb, points, colours, comments=[comment])
        write_ply(ply, points, colours, [comment])
    return glb, ply


def _scaled(intrinsics: Intrinsics, across: float, down: float) -> Intrinsics:
    """The same camera with other pixels; their centres are at integers, so the edge of the picture is at -0.5."""
    return Intrinsics(
        fx=across * intrinsics.fx,
        fy=down * intrinsics.fy,
        cx=across * (intrinsics.cx + 0.5) - 0.5,
        cy=down * (intrinsics.cy + 0.5) - 0.5,
    )


__all__ = ["camera_of", "field_of_view", "is_assumed", "write_depth_files", "write_scene_files"]
