"""Depth on disk and depth in metres: the stored encodings of common RGB-D data, read and written in one place."""

import io
import math
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from .image_inputs_llm_mde import readable_formats

DEPTH_ENCODINGS = ("png8", "png16", "png16_rot3", "npz:KEY", "npy")
MILLIMETRE = 0.001
_LARGEST_UINT16 = 65535
LARGEST_PNG_DEPTH = 65.535  # metres, the most that 16 bits of millimetres hold


def check_depth_encoding(encoding: str) -> None:
    """Raise a `ValueError` unless `encoding` is one of `png8`, `png16`, `png16_rot3`, `npz:KEY`, `npy`."""
    if encoding in DEPTH_ENCODINGS[:3] or encoding == "npy":
        return
    if encoding.startswith("npz:") and len(encoding) > len("npz:"):
        return
    raise ValueError(f"`encoding` is {encoding!r}; use one of {', '.join(DEPTH_ENCODINGS)}.")


def read_depth(
    path: str | os.PathLike,
    encoding: str = "png16",
    scale: float = MILLIMETRE,
    offset: float = 0.0,
    invalid_raw_values: Sequence[float] = (0,),
) -> np.ndarray:
    """Read a stored depth map as metres: `raw * scale + offset` where measured, 0 elsewhere.

    A pixel is measured when its raw value is finite, positive and not one of `invalid_raw_values`.

    Args:
        path (`str` or `os.PathLike`): The file.
        encoding (`str`, *optional*, defaults to `"png16"`): How the raw array is stored. `png8` and `png16` are
            grey-scale PNGs of that many bits; `png16_rot3` is the 16-bit PNG of SUN RGB-D, each value rotated right
            by three bits; `npz:KEY` is the array `KEY` of a NumPy archive; `npy` is a single NumPy array.
        scale (`float`, *optional*, defaults to 0.001): Metres per raw unit. 0.001 for millimetres, 1/256 for KITTI,
            1/5000 for TUM RGB-D, 1 for arrays in metres.
        offset (`float`, *optional*, defaults to 0.0): Metres added after the scale, on measured pixels only.
        invalid_raw_values (`Sequence[float]`, *optional*, defaults to `(0,)`): Raw values that mean "missing".

    Returns:
        `np.ndarray` of shape `(height, width)`, float32: Depth in metres; 0 marks a missing measurement, which also
        covers a value that the offset carries to 0 or below, and one that is more than float32 holds.

    Raises:
        ValueError: If the encoding or the scale is not usable, the file is absent or unreadable, its bit depth is not
            the one the encoding names, or its array is not two-dimensional.
    """
    check_depth_encoding(encoding)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"`scale` is {scale}; pass metres per stored unit, for example 0.001 for millimetres.")
    if not math.isfinite(offset):
        raise ValueError(f"`offset` is {offset}; pass metres, 0 for none.")

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` is {str(path)!r}, and there is no such file; check the folder and the suffix.")
    raw = _read_png(path, encoding) if encoding.startswith("png") else _read_numpy(path, encoding)

    valid = np.isfinite(raw) & (raw > 0)
    for value in invalid_raw_values:
        valid &= raw != value
    # Through float64: 65535 * 0.001 is exact to the last bit of float32 only then.
    depth = np.where(valid, raw, 0).astype(np.float64) * scale + offset
    return np.where(valid & (depth > 0) & (depth <= np.finfo(np.float32).max), depth, 0).astype(np.float32)


def read_depth_png(path: str | os.PathLike) -> np.ndarray:
    """Read a 16-bit PNG in millimetres, as [`write_depth_png`] writes it, into float32 metres; 0 marks missing.

    Raises:
        ValueError: As [`read_depth`].
    """
    return read_depth(path, encoding="png16", scale=MILLIMETRE)


def write_depth_png(path: str | os.PathLike, depth) -> None:
    """Write depth as a 16-bit grey-scale PNG in millimetres, rounded; 0 marks a missing measurement.

    The scale is also stated inside the file, as the PNG text `depth_scale_to_metres`. Values that are not finite, not
    positive, or below half a millimetre become 0. A finite depth of more than 65.535 m does not fit and is refused,
    never clipped: a clipped map would claim a wall at 65.535 m. The file appears complete or not at all.

    Args:
        path (`str` or `os.PathLike`): Where to write; the folder has to exist.
        depth (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): Depth in metres.

    Raises:
        ValueError: If `depth` is not two-dimensional, is too far for the format, or the folder does not exist.
    """
    depth = _as_depth_array(depth)
    measured = np.isfinite(depth) & (depth > 0)
    millimetres = np.rint(np.where(measured, depth, 0).astype(np.float64) / MILLIMETRE)
    if millimetres.max(initial=0) > _LARGEST_UINT16:
        raise ValueError(
            f"`depth` reaches {millimetres.max() * MILLIMETRE:.3f} m, but a 16-bit PNG in millimetres ends at "
            "65.535 m; pass metres (not millimetres), set far pixels to 0, or use `write_depth_npy`."
        )
    text = PngImagePlugin.PngInfo()
    text.add_text("depth_scale_to_metres", str(MILLIMETRE))
    stored = io.BytesIO()
    # A uint16 array becomes Pillow's mode I;16, the only grey mode whose PNG keeps all 16 bits.
    Image.fromarray(millimetres.astype(np.uint16)).save(stored, format="PNG", pnginfo=text)
    write_whole(Path(path), stored.getvalue())


def write_depth_npy(path: str | os.PathLike, depth) -> None:
    """Write depth as a float32 NumPy array in metres; missing and non-finite values become 0.

    The file is named exactly `path` (NumPy's own `save` appends a suffix) and appears complete or not at all. Read it
    with `read_depth(path, encoding="npy", scale=1)`.

    Args:
        path (`str` or `os.PathLike`): Where to write; the folder has to exist.
        depth (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): Depth in metres.

    Raises:
        ValueError: If `depth` is not two-dimensional, or the folder does not exist.
    """
    depth = _as_depth_array(depth)
    stored = io.BytesIO()
    np.save(stored, np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32), allow_pickle=False)
    write_whole(Path(path), stored.getvalue())


def _read_png(path: Path, encoding: str) -> np.ndarray:
    try:
        with Image.open(path, formats=readable_formats()) as image:
            mode, raw = image.mode, np.array(image)
    except Exception as error:  # damaged files raise whatever the decoders run into
        raise ValueError(f"`path` is {str(path)!r}, which is not a readable PNG: {error}") from error

    if encoding == "png8":
        if mode != "L":
            raise ValueError(
                f"{str(path)!r} has Pillow mode {mode}, but `encoding='png8'` means 8-bit grey (L); "
                "use 'png16' for 16 bits. A colour picture of a depth map cannot be read back."
            )
        return raw
    # Never convert(): Pillow turns I;16 into L or RGB by clipping at 255. Mode I is how older versions open 16 bits.
    if mode not in ("I;16", "I;16L", "I;16B", "I"):
        raise ValueError(
            f"{str(path)!r} has Pillow mode {mode}, but `encoding={encoding!r}` means 16-bit grey (I;16); "
            "use 'png8' for 8 bits. A colour picture of a depth map cannot be read back."
        )
    if raw.max(initial=0) > _LARGEST_UINT16 or raw.min(initial=0) < 0:
        raise ValueError(f"{str(path)!r} has values from {raw.min()} to {raw.max()}, which are not 16 bits.")
    raw = raw.astype(np.uint16)
    return (raw >> 3) | (raw << 13) if encoding == "png16_rot3" else raw


def _read_numpy(path: Path, encoding: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if encoding == "npy":
            raw = loaded
        else:
            with loaded:
                raw = loaded[encoding.removeprefix("npz:")]
    except KeyError:
        raise ValueError(
            f"`encoding` is {encoding!r}, but {str(path)!r} holds {', '.join(loaded.files) or 'nothing'}; "
            "name one of its arrays after 'npz:'."
        ) from None
    except Exception as error:  # as above; a header may also ask for more memory than there is
        raise ValueError(f"{str(path)!r} cannot be read as {encoding!r}: {error}") from error
    if not isinstance(raw, np.ndarray):
        raise ValueError(f"{str(path)!r} is a NumPy archive; name its array with `encoding='npz:KEY'`.")
    if raw.ndim != 2 or raw.dtype.kind not in "fiu":
        raise ValueError(
            f"{str(path)!r} holds {raw.dtype} of shape {raw.shape}; a depth map is real numbers (height, width)."
        )
    return raw


def _as_depth_array(depth) -> np.ndarray:
    if hasattr(depth, "detach"):  # a tensor, possibly bfloat16 and on a device
        depth = depth.detach().float().cpu().numpy()
    depth = np.asarray(depth)
    if depth.ndim != 2 or depth.size == 0 or depth.dtype.kind not in "fiu":
        raise ValueError(
            f"`depth` is {depth.dtype} of shape {depth.shape}; pass one map of metres (height, width), "
            "for example `predicted_depth[0]`."
        )
    return depth


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the goal and rename, so that a reader or a crash never meets half a file."""
    if not path.parent.is_dir():
        raise ValueError(f"`path` is {str(path)!r}, but its folder does not exist; create {str(path.parent)!r} first.")
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # short: names may be as long as a file system takes
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what [`write_whole`] was writing anywhere below a folder when its process was killed."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\.(.+\.)?[0-9a-f]{32}\.tmp", path.name):
            path.unlink(missing_ok=True)
