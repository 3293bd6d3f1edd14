"""Rendered indoor scenes with exact z-depth: data of any amount for a demo, a test or a first training run.

`furnished_rooms` says what stands in a room; here it is rendered by Mitsuba 3, which is imported with the first room.
"""

import csv
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image

from .datasets import INTRINSIC_COLUMNS, REQUIRED_COLUMNS, Intrinsics
from .depth_files import MILLIMETRE, write_depth_png
from .furnished_rooms import Room, View

MIN_DEPTH, MAX_DEPTH = 0.3, 10.0
JPEG_QUALITY = 92
ROOMS_PER_VALIDATION_ROOM = 5

# Two threads that load the first scenes of a process at once would make two Embree devices of one.
_LOADING = threading.Lock()


def render_scenes(
    root: str | os.PathLike,
    count: int,
    seed: int = 0,
    width: int = 160,
    height: int = 120,
    field_of_view: float = 63.0,
    views_per_room: int = 1,
    samples_per_pixel: int = 6,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a folder of rendered rooms with measured depth that [`RGBDFolder`] reads.

    The same arguments give the same files on any number of cores. Every fifth room is `val`, with all its views.
    Photographs are JPEG with exposure, white balance and sensor noise drawn anew for each; depth is z-depth at the
    centre of each pixel (not the length of the ray), 16-bit PNG in millimetres, 0.3 to 10 m. `index.csv` is written
    last: a folder that has one is complete.

    Mitsuba renders with threads of its own, so no process is spawned and no main guard is needed.

    Args:
        root (`str` or `os.PathLike`): Folder to create; it may exist if it is empty.
        count (`int`): Number of pairs of photograph and depth.
        seed (`int`, *optional*, defaults to 0): Which rooms; not negative.
        width (`int`, *optional*, defaults to 160): Of the photographs in pixels.
        height (`int`, *optional*, defaults to 120): Of the photographs in pixels.
        field_of_view (`float`, *optional*, defaults to 63.0): Horizontal, in degrees; 63 is the camera of NYU Depth.
        views_per_room (`int`, *optional*, defaults to 1): Cameras in each room.
        samples_per_pixel (`int`, *optional*, defaults to 6): Light paths for each pixel; time grows with it.
        on_progress (`Callable[[int, int], None]`, *optional*): Called as `on_progress(done, count)` after each room.

    Returns:
        `pathlib.Path`: The folder.

    Raises:
        ValueError: If a number is out of its range, or the folder is not empty.
        ImportError: If Mitsuba is not installed.
    """
    for name, value in {
        "count": count,
        "width": width,
        "height": height,
        "views_per_room": views_per_room,
        "samples_per_pixel": samples_per_pixel,
    }.items():
        if value < 1:
            raise ValueError(f"`{name}` is {value}; pass a positive number.")
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; pass 0 or more.")
    if not 10 <= field_of_view <= 120:
        raise ValueError(f"`field_of_view` is {field_of_view}; pass degrees from 10 to 120.")
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"`root` is {str(root)!r}, which is there and not empty; name a new folder, or delete it.")
    _mitsuba()  # a missing Mitsuba is reported before anything is written
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    camera = pinhole(width, height, field_of_view)
    views = [min(views_per_room, count - first) for first in range(0, count, views_per_room)]
    rows: dict[int, list[dict]] = {}
    done = 0
    # Two rooms at a time: one is built, filtered and written while the other one is rendered.
    with ThreadPoolExecutor(max_workers=2) as pool:
        tasks = {
            pool.submit(_render_room, root, seed, room, number, camera, (width, height), samples_per_pixel): room
            for room, number in enumerate(views)
        }
        try:
            for task in as_completed(tasks):
                rows[tasks[task]] = task.result()
                done += len(rows[tasks[task]])
                if on_progress is not None:
                    on_progress(done, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    unfinished = root / ".index.csv.tmp"
    with unfinished.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, [*REQUIRED_COLUMNS, *INTRINSIC_COLUMNS])
        writer.writeheader()
        for room in sorted(rows):
            writer.writerows(rows[room])
    os.replace(unfinished, root / "index.csv")
    return root


def pinhole(width: int, height: int, field_of_view: float) -> Intrinsics:
    """The camera of the rendered photographs, `field_of_view` degrees wide: square pixels, axis through the middle."""
    focal_length = width / 2 / math.tan(math.radians(field_of_view) / 2)
    return Intrinsics(fx=focal_length, fy=focal_length, cx=(width - 1) / 2, cy=(height - 1) / 2)


def _mitsuba():
    try:
        import mitsuba
    except ImportError as error:
        raise ImportError("rendering rooms needs Mitsuba 3: pip install mitsuba") from error
    # The variant belongs to the thread. `llvm_*` would be faster to trace and slower to compile for each new room.
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def _render_room(
    root: Path, seed: int, room: int, views: int, camera: Intrinsics, size: tuple[int, int], samples_per_pixel: int
) -> list[dict]:
    mi = _mitsuba()
    rng = np.random.default_rng([seed, room])
    build = Room(mi, rng)
    # Mitsuba's optimiser merges shapes in the order of their addresses, and the lamps' order decides who samples what.
    with _LOADING:
        scene = mi.load_dict({"type": "scene", **build.shapes}, optimize=False)
    rows = []
    for view_number in range(views):
        view = _find_view(mi, scene, build, rng, camera, size)
        depth, surfaces = _trace_depth(mi, scene, view, camera, size)
        light = _trace_light(mi, scene, view, camera, size, samples_per_pixel, seed=int(rng.integers(2**31)))
        # What would arrive by more reflections is nearly the same from everywhere.
        light = _smooth(light, depth, surfaces) + 0.1 * light.mean() * surfaces[..., 3:]
        photograph = _develop(light, rng)
        name = f"room{room:05d}_{view_number}"
        Image.fromarray(photograph).save(root / "rgb" / f"{name}.jpg", quality=JPEG_QUALITY)
        write_depth_png(
            root / "depth" / f"{name}.png", np.where((depth >= MIN_DEPTH) & (depth <= MAX_DEPTH), depth, 0)
        )
        rows.append(
            {
                "rgb": f"rgb/{name}.jpg",
                "depth": f"depth/{name}.png",
                "split": "val" if room % ROOMS_PER_VALIDATION_ROOM == ROOMS_PER_VALIDATION_ROOM - 1 else "train",
                "dataset": "rendered_rooms",
                "scene": f"room{room:05d}",
                "depth_encoding": "png16",
                "depth_scale_to_metres": MILLIMETRE,
                "depth_offset_metres": 0,
                "invalid_raw_values": 0,
                "fx": round(camera.fx, 5),
                "fy": round(camera.fy, 5),
                "cx": camera.cx,
                "cy": camera.cy,
            }
        )
    return rows


def _sensor(mi, view: View, camera: Intrinsics, size: tuple[int, int], sampler: dict):
    width, height = size
    return mi.load_dict(
        {
            "type": "perspective",
            "fov_axis": "x",
            "fov": math.degrees(2 * math.atan(width / 2 / camera.fx)),
            "near_clip": 0.01,
            "to_world": mi.ScalarTransform4f().look_at(
                origin=view.origin.tolist(), target=(view.origin + view.forward).tolist(), up=view.up.tolist()
            ),
            "film": {
                "type": "hdrfilm",
                "width": width,
                "height": height,
                "pixel_format": "rgb",
                "component_format": "float32",
                "rfilter": {"type": "box"},
            },
            "sampler": sampler,
        }
    )


def _trace_depth(mi, scene, view: View, camera: Intrinsics, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """z-depth (height, width) in metres at pixel centres, 0 where nothing is hit, and the surface there.

    The surface is (height, width, 6): normal and colour.
    """
    # One sample without jitter goes through the middle of the pixel; a mean of several would invent depths at edges.
    sensor = _sensor(mi, view, camera, size, {"type": "stratified", "sample_count": 1, "jitter": False})
    integrator = mi.load_dict({"type": "aov", "aovs": "distance:depth,point:position,normal:sh_normal,colour:albedo"})
    # (height, width, 10). Of the length of the ray only its zeros are used: z is measured along the optical axis.
    traced = np.array(mi.render(scene, sensor=sensor, integrator=integrator, spp=1), dtype=np.float64)[..., -10:]
    z = (traced[..., 1:4] - view.origin) @ view.forward
    return np.where(traced[..., 0] > 0, z, 0), traced[..., 4:]


def _trace_light(
    mi, scene, view: View, camera: Intrinsics, size: tuple[int, int], samples_per_pixel: int, seed: int
) -> np.ndarray:
    """Light that arrives at each pixel (height, width, 3), linear RGB: direct and once reflected."""
    sensor = _sensor(mi, view, camera, size, {"type": "independent", "sample_count": samples_per_pixel})
    integrator = mi.load_dict({"type": "path", "max_depth": 3, "rr_depth": 10})
    light = mi.render(scene, sensor=sensor, integrator=integrator, spp=samples_per_pixel, seed=seed)
    return np.array(light, dtype=np.float64)[..., :3]


def _find_view(mi, scene, room: Room, rng: np.random.Generator, camera: Intrinsics, size) -> View:
    """Draw cameras until one sees a room as a person would: nothing at its nose, several things, within 10 m."""
    width, height = (max(8, side // 5) for side in size)
    small = Intrinsics(camera.fx * width / size[0], camera.fy * width / size[0], (width - 1) / 2, (height - 1) / 2)
    best, best_score = None, -math.inf
    for _ in range(16):
        view = room.draw_view()
        depth, _ = _trace_depth(mi, scene, view, small, (width, height))
        near, middle, far = np.percentile(depth, (2, 50, 98))
        jumps = np.abs(np.diff(np.log(depth + 1e-3), axis=1)) > 0.08  # outlines of things
        faults = (
            depth.min() < MIN_DEPTH + 0.1,
            near < 0.6,
            not 1 < middle < 4.5,
            far - near < 0.9,
            jumps.mean() < 0.06,
        )
        score = -sum(faults) - 10 * (depth.max() > MAX_DEPTH - 0.1)
        if score > best_score:
            best, best_score = view, score
        if score == 0:
            break
    return best


def _smooth(light: np.ndarray, depth: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
    """Take the grain of few light paths out of (height, width, 3), not the texture of things.

    Three rounds of a mean over 3 x 3 pixels that lie 1, 2 and 4 apart (an "a-trous" filter), in which only neighbours
    on the same plane and of the same colour count; both are known without grain.
    """
    height, width = depth.shape
    normals, colours = surfaces[..., :3].astype(np.float32), np.sqrt(surfaces[..., 3:].clip(0)).astype(np.float32)
    # A lamp has no colour of its own: it is compared by its light.
    colours = np.where(colours.sum(axis=-1, keepdims=True) > 0, colours, -np.log1p(light)).astype(np.float32)
    guide = np.concatenate([normals / 0.15, colours / 0.04, np.log(depth + 1e-3)[..., None] / 0.06], axis=-1)
    smooth = _without_sparks(light, colours).astype(np.float32)
    for step in (1, 2, 4):
        pad = ((step, step), (step, step), (0, 0))
        wide, wide_guide = (np.pad(values.astype(np.float32), pad, mode="edge") for values in (smooth, guide))
        total, weights = 0.25 * smooth, np.full((height, width, 1), 0.25, dtype=np.float32)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if down == right == 0:
                    continue
                window = np.s_[step * (1 + down) :, step * (1 + right) :]
                other, other_guide = (values[window][:height, :width] for values in (wide, wide_guide))
                difference = other_guide - guide
                weight = np.exp(-np.einsum("ijk,ijk->ij", difference, difference))[..., None]
                weight *= 0.5 ** (2 + abs(down) + abs(right))
                total += weight * other
                weights += weight
        smooth = total / weights
    return smooth.astype(np.float64)


def _without_sparks(light: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Pull single pixels, whose few paths all met a lamp or all missed it, back towards their eight neighbours."""
    height, width, _ = light.shape
    # Light that falls on a surface changes less than its colour does: compare what is left without the colour.
    arriving = light.mean(axis=-1) / (np.square(colours).mean(axis=-1) + 0.02)
    wide = np.pad(arriving, 1, mode="edge")
    windows = [wide[down : down + height, right : right + width] for down in range(3) for right in range(3)]
    usual = np.median(np.stack(windows), axis=0)
    pulled = np.clip(arriving, 0.6 * usual, 1.5 * usual) / np.maximum(arriving, 1e-9)
    is_lamp = (colours < 0).any(axis=-1)
    return light * np.where(is_lamp | (arriving <= 1e-9), 1, pulled)[..., None]


def _develop(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph (height, width, 3), uint8 sRGB: exposure, white balance, tone curve, vignette, sensor noise."""
    luminance = light @ (0.2126, 0.7152, 0.0722)
    # The camera meters the mean of the logarithms, to a stop or so.
    exposed = light * 0.17 / np.exp(np.log(luminance + 1e-4).mean()) * 2.0 ** rng.uniform(-1.2, 0.8)
    exposed = exposed * rng.normal(1, (0.05, 0.015, 0.06)).clip(0.8, 1.2)
    height, width = luminance.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    exposed = exposed * (1 - rng.uniform(0, 0.12) * (x**2 + y**2))[..., None]
    exposed = exposed * (1 + exposed / 9) / (1 + exposed) * 1.3  # Reinhard's curve: lamps burn out softly
    grain = rng.uniform(0.002, 0.012)
    exposed = exposed + rng.normal(0, 1, exposed.shape) * grain * np.sqrt(np.maximum(exposed, 0) + 0.02)
    encoded = np.where(exposed < 0.0031308, 12.92 * exposed, 1.055 * np.maximum(exposed, 1e-4) ** (1 / 2.4) - 0.055)
    return np.rint(encoded.clip(0, 1) * 255).astype(np.uint8)
