"""Photographs as nobody should send them, and what becomes of each: a size in pixels, or nothing."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
HEIGHT, WIDTH = 23, 31
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """One input. `size` (height, width) is that of its depth; `None` where it has to be refused, `either` where both
    will do, as decoders differ in what they forgive."""

    name: str
    make: Callable[[], Any]
    size: tuple[int, int] | None = (HEIGHT, WIDTH)
    either: bool = False


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def file_cases(folder: Path) -> Iterator[Case]:
    """Inputs that are files; `make` gives the path."""

    def written(name: str, content: bytes) -> Callable[[], Path]:
        path = folder / name
        path.write_bytes(content)
        return lambda: path

    for format in FORMATS:
        content = encoded(picture(), format)
        for tenth in range(11):
            part = content[: len(content) * tenth // 10]
            name = f"{format} cut at {tenth}0 %"
            size = None if tenth == 0 else (HEIGHT, WIDTH)
            yield Case(name, written(f"cut_{format}_{tenth}.{format.lower()}", part), size, either=0 < tenth < 10)
        yield Case(f"{format} called .jpg", written(f"wrong_{format}.jpg", content))
        yield Case(f"{format} called .npy", written(f"wrong_{format}.npy", content), size=None)
        yield Case(f"{format} behind junk", written(f"behind_{format}.png", b"\0" * 100 + content), size=None)
        yield Case(f"{format} before junk", written(f"before_{format}.png", content + b"junk" * 99), either=True)
    for size in ((1, 1), (1, 4096), (4096, 1), (2, 3), (3, 3)):
        for format in ("PNG", "JPEG"):
            content = encoded(picture(*size), format)
            yield Case(f"{format} of {size}", written(f"size_{format}_{size}.png", content), size=size)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"):
        for format in ("PNG", "JPEG", "TIFF", "WEBP"):
            try:
                image = picture().convert("L").convert(mode) if mode.startswith(("I", "F")) else converted(mode)
                content = encoded(image, format)
            except (OSError, ValueError, KeyError):
                continue  # the format has no such mode
            is_odd = mode == "YCbCr"  # Pillow does not read what it writes as TIFF
            path = written(f"mode_{format}_{mode.replace(';', '')}.png", content)
            yield Case(f"{format} in {mode}", path, either=is_odd)
    for orientation in (*range(10), 700):
        for format in ("JPEG", "PNG", "WEBP", "TIFF"):
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            size = (WIDTH, HEIGHT) if orientation in (5, 6, 7, 8) else (HEIGHT, WIDTH)
            content = encoded(picture(), format, exif=exif)
            yield Case(
                f"{format} of orientation {orientation}", written(f"exif_{format}_{orientation}.x", content), size
            )
    damaged = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 60)
    yield Case("JPEG with damaged EXIF", written("exif_damaged.jpg", damaged))
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [picture(seed=seed) for seed in range(3)]
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        yield Case(f"animated {format}", written(f"animated.{format.lower()}", content))
    transparent = picture().convert("P")
    transparent.info["transparency"] = 3
    yield Case("palette with a transparent colour", written("palette.png", encoded(transparent, "PNG")))
    yield Case("a PNG that says 20,000 x 20,000", written("bomb.png", bomb(20_000, 20_000)), size=None)
    yield Case("a whole PNG of 20,000 x 20,000", written("large.png", whole_bomb(20_000, 20_000)), size=None)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 31 23\n(x) print\nshowpage\n%%EOF\n"
    yield Case("a program for Ghostscript", written("program.eps", program), size=None)
    yield Case("SVG", written("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), size=None)
    yield Case(
        "a pickle", written("pickle.png", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."), size=None
    )
    yield Case("an array of objects", written("objects.npy", npy(np.array([{}, []], dtype=object))), size=None)
    yield Case("an array", written("array.npy", npy(np.asarray(picture()))))
    yield Case("an array cut short", written("short.npy", npy(np.asarray(picture()))[:200]), size=None)
    yield Case("text", written("text.png", b"not a picture\n"), size=None)
    yield Case("HTML", written("page.jpg", b"<html>404</html>"), size=None)


def converted(mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.fromarray(np.asarray(picture()), "RGB").convert("RGB")._new(Image.new("LAB", (WIDTH, HEIGHT)).im)
    return picture().convert(mode)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(height: int, width: int) -> bytes:
    """A PNG of some bytes that announces many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + _chunk(b"IEND", b"")
    )


def whole_bomb(height: int, width: int) -> bytes:
    """One that has them, in black and white."""
    compressor = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(compressor.compress(row * 1000) for _ in range(height // 1000)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


_DTYPES = (
    *(np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, np.float32, np.float64),
)
_SHAPES = {
    **{(HEIGHT, WIDTH): True, (HEIGHT, WIDTH, 1): True, (HEIGHT, WIDTH, 2): True, (HEIGHT, WIDTH, 3): True},
    **{(HEIGHT, WIDTH, 4): True, (1, HEIGHT, WIDTH): True, (2, HEIGHT, WIDTH): True, (3, HEIGHT, WIDTH): True},
    **{(4, HEIGHT, WIDTH): True, (HEIGHT, WIDTH, 5): False, (7, HEIGHT, WIDTH): False, (HEIGHT,): False},
    **{(): False, (0, WIDTH, 3): False, (HEIGHT, 0): False},
}


def array_cases() -> Iterator[Case]:
    """Inputs that are arrays, tensors or images in memory."""
    for shape, is_image in _SHAPES.items():
        for dtype in _DTYPES:
            levels = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
            size = (HEIGHT, WIDTH) if is_image else None
            yield Case(f"array {np.dtype(dtype)} {shape}", lambda levels=levels: levels, size)
            if dtype not in (np.uint32, np.uint64) and shape != ():
                yield Case(f"tensor {np.dtype(dtype)} {shape}", lambda levels=levels: torch.from_numpy(levels), size)
    unit = np.random.default_rng(2).random((HEIGHT, WIDTH, 3))
    for name, value, size in (
        ("NaN", np.nan, None),
        ("infinity", np.inf, None),
        ("minus infinity", -np.inf, None),
        ("a level too many", 256.0, None),
        ("a huge value", 1e30, None),
        ("a negative value", -1.0, None),
        ("a little overshoot", 1.01, (HEIGHT, WIDTH)),
    ):
        changed = unit.copy()
        changed[3, 4, 1] = value
        for dtype in (np.float32, np.float64):
            levels = (255 * unit).astype(dtype)
            levels[3, 4, 1] = value
            for name_of_range, array in (("0-1", changed.astype(dtype)), ("0-255", levels)):
                yield Case(f"{name_of_range} with {name}", lambda array=array: array, size)
    for name, array in {
        "objects": np.array([[None, {}]], dtype=object),
        "words": np.array([["a", "b"]]),
        "dates": np.array([["2020-01-01"]], dtype="datetime64[D]"),
        "records": np.zeros((4, 4), dtype=[("r", "u1"), ("g", "u1")]),
        "complex numbers": np.zeros((4, 4, 3), dtype=np.complex64),
        "two images": np.zeros((2, 3, 4, 5)),
        "five axes": np.zeros((2, 1, 1, 4, 5)),
    }.items():
        yield Case(f"array of {name}", lambda array=array: array, None)
    yield Case("big-endian array", lambda: np.asarray(picture()).astype(">u2"))
    yield Case("array turned by a view", lambda: np.asarray(picture())[::-1, ::-1])
    yield Case("read-only array", lambda: np.frombuffer(picture().tobytes(), np.uint8).reshape(HEIGHT, WIDTH, 3))
    yield Case("bfloat16 tensor", lambda: torch.rand(3, HEIGHT, WIDTH).bfloat16())
    yield Case("tensor with a gradient", lambda: torch.rand(3, HEIGHT, WIDTH, requires_grad=True))
    yield Case("sparse tensor", lambda: torch.rand(HEIGHT, WIDTH).to_sparse(), None)
    yield Case("meta tensor", lambda: torch.empty(3, HEIGHT, WIDTH, device="meta"), None)
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"):
        make = (lambda mode=mode: Image.new(mode, (WIDTH, HEIGHT), 1)) if mode in ("PA", "I;16") else None
        yield Case(f"PIL image in {mode}", make or (lambda mode=mode: picture().convert(mode)))
    for mode in ("La", "RGBa", "LAB", "I;16B", "I;16L"):
        yield Case(f"PIL image in {mode}", lambda mode=mode: Image.new(mode, (WIDTH, HEIGHT)), either=True)
    for format in ("PNG", "JPEG", "TIFF", "GIF"):
        part = encoded(picture(), format)[:-60]
        yield Case(f"{format} opened and cut short", lambda part=part: Image.open(io.BytesIO(part)), either=True)
    yield Case("PIL image without a pixel", lambda: Image.new("RGB", (0, 0)), None)


def other_cases(folder: Path) -> Iterator[Case]:
    """Inputs that are no image at all, and names that lead to none."""
    content = base64.b64encode(encoded(picture(), "PNG")).decode()
    yield Case("data URI", lambda: f"data:image/png;base64,{content}")
    yield Case("base64", lambda: content)
    for name, value in {
        "data URI of nothing": "data:image/png;base64,",
        "data URI of junk": "data:image/png;base64,AAAA",
        "data URI that is no base64": "data:image/png;base64,%%%",
        "base64 of junk": base64.b64encode(bytes(200)).decode(),
        "a URL where nobody answers": "http://127.0.0.1:9/photo.png",
        "a URL without a host": "http://",
        "a URL of another kind": "ftp://127.0.0.1/photo.png",
        "a file URL": "file:///etc/passwd",
        "no such file": str(folder / "none.png"),
        "a folder": str(folder),
        "a device": "/dev/zero",
        "another file": "/etc/hostname",
        "an empty name": "",
        "a name with a zero byte": "a\0b.png",
        "a long name": "a" * 5000,
        "a name of braces": "{0.__class__}%s%n",
        "a name of control characters": "\x1b[31m\r\n\t",
        "a surrogate": "\udcff.png",
        "no list of anything": [],
        "nothing": None,
        "a number": 5,
        "bytes": b"\x89PNG",
        "a mapping": {"image": 1},
        "a generator": (each for each in ()),
        "an object": object(),
        "a set": {1, 2},
    }.items():
        yield Case(name, lambda value=value: value, None)
    yield Case("a list of no image", lambda: [picture(), 5], None)
    yield Case("a list with a bad path", lambda: [picture(), str(folder / "none.png")], None)


__all__ = ["FORMATS", "HEIGHT", "WIDTH", "Case", "array_cases", "encoded", "file_cases", "other_cases", "picture"]
