"""Furnished rooms drawn at random: shapes for Mitsuba at the sizes of real things, and where a camera may stand.

Everything is a box, a cylinder, a sphere or a rectangle. Units are metres, x and y span the floor, z points up.
Mitsuba itself is handed in by `rendered_scenes`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

# ---------------------------------------------------------------------------------------------------------------------
# Surfaces
# ---------------------------------------------------------------------------------------------------------------------

_TEXTURE = 96  # texels per side
_WOODS = ((0.62, 0.44, 0.28), (0.42, 0.27, 0.16), (0.75, 0.60, 0.42), (0.28, 0.18, 0.12), (0.85, 0.77, 0.64))
_PAINTS = ((0.93, 0.93, 0.91), (0.20, 0.20, 0.22), (0.55, 0.55, 0.55), (0.82, 0.80, 0.75))


def _grain(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of a texture's size, mean 0, standard deviation 1, from rows x columns random values."""
    values = Image.fromarray(rng.normal(0, 1, (rows, columns)).astype(np.float32))
    noise = np.asarray(values.resize((_TEXTURE, _TEXTURE), Image.Resampling.BICUBIC), dtype=np.float64)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def _draw_texture(rng: np.random.Generator, kind: str, colour: tuple[float, float, float]) -> np.ndarray:
    """One tile of a surface, sRGB in 0 to 1, (96, 96, 3)."""
    n = _TEXTURE
    y, x = np.mgrid[0:n, 0:n] / n
    shade = np.ones((n, n))
    tint = np.asarray(colour, dtype=np.float64)
    pixels = np.broadcast_to(tint, (n, n, 3)).copy()
    if kind == "planks":  # eight boards, joints at random places, grain along the board
        board = (y * 8).astype(int)
        along = (x + rng.random(8)[board]) % 1
        shade = 1 + 0.08 * rng.normal(size=(8, 2))[board, (along < 0.5).astype(int)] + 0.05 * _grain(rng, n, 5)
        shade = np.where((y * 8 % 1 < 0.1) | (np.abs(along - 0.5) < 0.008), shade * 0.65, shade)
    elif kind == "tiles":  # four by four, a second colour for a chequer now and then
        row, column = (y * 4).astype(int), (x * 4).astype(int)
        if rng.random() < 0.4:
            pixels[(row + column) % 2 == 1] = tint * rng.uniform(0.25, 0.8)
        shade = 1 + 0.03 * rng.normal(size=(4, 4))[row, column] + 0.02 * _grain(rng, 24, 24)
        shade = np.where((y * 4 % 1 < 0.06) | (x * 4 % 1 < 0.06), rng.uniform(0.5, 0.85), shade)
    elif kind == "bricks":
        row = (y * 10).astype(int)
        across = (x * 4 + 0.5 * (row % 2)) % 4
        shade = 1 + 0.12 * rng.normal(size=(10, 4))[row, across.astype(int)] + 0.06 * _grain(rng, 48, 48)
        shade = np.where((y * 10 % 1 < 0.14) | (across % 1 < 0.05), 1.3, shade)
    elif kind == "wood":
        shade = 1 + 0.05 * _grain(rng, 40, 3) + 0.03 * _grain(rng, n, 6)
    elif kind == "carpet":
        shade = 1 + 0.07 * rng.normal(size=(n, n)) + 0.05 * _grain(rng, 6, 6)
    elif kind == "plaster":
        shade = 1 + 0.012 * _grain(rng, 5, 5) + 0.008 * _grain(rng, 48, 48)
    elif kind == "stripes":
        other = np.clip(tint * rng.uniform(0.6, 1.2) + rng.normal(0, 0.04, 3), 0.05, 0.95)
        pixels[(x * int(rng.integers(4, 13)) % 1) < rng.uniform(0.2, 0.6)] = other
    elif kind == "plaid":
        bands = rng.normal(0, 0.12, (2, 12))
        shade = 1 + bands[0][(x * 12).astype(int)] + bands[1][(y * 12).astype(int)]
    elif kind == "rug":  # a field and a few borders in related colours
        rings = np.cumsum(rng.uniform(0.02, 0.16, 4))
        ring = np.searchsorted(rings, np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)))
        pixels = np.clip(tint * rng.uniform(0.5, 1.4, (5, 1)) + rng.normal(0, 0.05, (5, 3)), 0.05, 0.95)[ring]
        shade = 1 + 0.07 * rng.normal(size=(n, n)) + 0.05 * _grain(rng, 16, 16)
    elif kind == "picture":  # a landscape or a face, seen from afar: soft shapes of a few muted colours
        shape = _grain(rng, *rng.integers(3, 9, 2)) + rng.uniform(-2, 2) * (y - 0.5)
        inks = np.clip(rng.uniform(0.1, 0.9, (4, 1)) + rng.normal(0, 0.12, (4, 3)), 0.03, 0.97)
        pixels = inks[np.clip(np.rint(1.5 + shape).astype(int), 0, 3)]
        shade = 1 + 0.1 * _grain(rng, 24, 24)
    elif kind == "sky":
        pixels = np.stack([0.75 + 0.15 * y, 0.85 + 0.08 * y, np.full_like(y, 0.97)], axis=-1)
        pixels[y + 0.06 * _grain(rng, 2, 12) > rng.uniform(0.45, 0.95)] = rng.uniform(0.25, 0.6) + rng.normal(
            0, 0.05, 3
        )
    return (pixels * shade[..., None]).clip(0.02, 0.97)


# ---------------------------------------------------------------------------------------------------------------------
# Furniture, in its own frame: the middle of its footprint at the origin, its back towards +y, the floor at z = 0
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A box (low corner, high corner), cylinder (foot, head, radius) or sphere (centre, radius), and its surface."""

    shape: str
    geometry: tuple
    surface: str


@dataclass(frozen=True)
class _Piece:
    """A piece of furniture: the width (x) and length (y) of its footprint, and its parts."""

    width: float
    length: float
    parts: list[_Part]


def _box(x0, x1, y0, y1, z0, z1, surface) -> _Part:
    return _Part("box", ((x0, y0, z0), (x1, y1, z1)), surface)


def _rod(x, y, z0, z1, radius, surface) -> _Part:
    return _Part("cylinder", ((x, y, z0), (x, y, z1), radius), surface)


def _ball(x, y, z, radius, surface) -> _Part:
    return _Part("sphere", ((x, y, z), radius), surface)


def _shifted(parts: list[_Part], x: float, y: float, half_turn: bool = False) -> list[_Part]:
    """Move parts over the floor, after turning them by 180 degrees if asked."""
    sign = -1 if half_turn else 1
    moved = []
    for part in parts:
        if part.shape == "sphere":
            (px, py, pz), radius = part.geometry
            moved.append(_ball(sign * px + x, sign * py + y, pz, radius, part.surface))
            continue
        low, high, *rest = part.geometry
        ends = [(sign * px + x, sign * py + y, pz) for px, py, pz in (low, high)]
        if part.shape == "box":
            ends = [tuple(map(min, *ends)), tuple(map(max, *ends))]
        moved.append(_Part(part.shape, (*ends, *rest), part.surface))
    return moved


def _things_on(rng: np.random.Generator, width: float, length: float, z: float, number: int) -> Iterator[_Part]:
    """Cups, books, boxes, balls and a screen on a table of this size."""
    for _ in range(number):
        x, y = rng.uniform(-0.42, 0.42) * width, rng.uniform(-0.38, 0.38) * length
        surface = f"thing{rng.integers(8)}"
        kind = rng.integers(5)
        if kind == 0:
            yield _rod(x, y, z, z + rng.uniform(0.08, 0.28), rng.uniform(0.03, 0.06), surface)
        elif kind == 1:
            radius = rng.uniform(0.04, 0.11)
            yield _ball(x, y, z + radius, radius, surface)
        elif kind == 2 and width > 0.9:
            w, h = rng.uniform(0.22, 0.32), rng.uniform(0.3, 0.42)
            yield _box(x - w, x + w, y - 0.02, y + 0.02, z + 0.1, z + 0.1 + h, "black")
            yield _box(x - 0.03, x + 0.03, y - 0.01, y + 0.03, z, z + 0.12, "black")
        else:
            w, d, h = rng.uniform(0.05, 0.16), rng.uniform(0.04, 0.14), rng.uniform(0.02, 0.25)
            yield _box(x - w, x + w, y - d, y + d, z, z + h, surface)


def _chair(rng: np.random.Generator) -> _Piece:
    s, seat, top = rng.uniform(0.2, 0.24), rng.uniform(0.43, 0.48), rng.uniform(0.8, 1.0)
    parts = [_box(-s, s, -s, s, seat - 0.05, seat, "chair"), _box(-s, s, s - 0.04, s, seat + 0.12, top, "chair")]
    for x in (-s + 0.02, s - 0.02):
        parts.append(_box(x - 0.02, x + 0.02, -s, -s + 0.04, 0, seat - 0.05, "legs"))
        parts.append(_box(x - 0.02, x + 0.02, s - 0.04, s, 0, seat + 0.12, "legs"))
    return _Piece(2 * s, 2 * s, parts)


def _table(rng: np.random.Generator, low: bool = False) -> _Piece:
    w, d = rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.5)
    h = rng.uniform(0.35, 0.5) if low else rng.uniform(0.70, 0.78)
    parts = [_box(-w, w, -d, d, h - 0.04, h, "wood")]
    for x in (-w + 0.06, w - 0.06):
        for y in (-d + 0.06, d - 0.06):
            parts.append(_box(x - 0.03, x + 0.03, y - 0.03, y + 0.03, 0, h - 0.04, "wood"))
    parts += _things_on(rng, 2 * w, 2 * d, h, int(rng.integers(0, 7)))
    length = d
    if not low and rng.random() < 0.8:
        for x in rng.permutation([-w / 2, w / 2])[: int(rng.integers(1, 3))]:
            chair, reach = _chair(rng), d + rng.uniform(-0.1, 0.25)
            parts += _shifted(chair.parts, float(x), -reach, half_turn=True)
            length = max(length, reach + 0.25)
            if rng.random() < 0.5:
                parts += _shifted(_chair(rng).parts, float(x), reach)
    return _Piece(2 * w, 2 * length, parts)


def _low_table(rng: np.random.Generator) -> _Piece:
    return _table(rng, low=True)


def _sofa(rng: np.random.Generator) -> _Piece:
    w, d = rng.uniform(0.42, 1.15), rng.uniform(0.4, 0.48)
    seat, back, arm = rng.uniform(0.38, 0.46), rng.uniform(0.75, 0.95), rng.uniform(0.55, 0.66)
    parts = [
        _box(-w, w, -d, d, 0.06, seat - 0.14, "fabric"),
        _box(-w, w, d - 0.22, d, 0.06, back, "fabric"),
        _box(-w, -w + 0.16, -d, d, 0.06, arm, "fabric"),
        _box(w - 0.16, w, -d, d, 0.06, arm, "fabric"),
    ]
    seats = max(1, round((2 * w - 0.32) / 0.65))
    pitch = (2 * w - 0.32) / seats
    for number in range(seats):
        x = -w + 0.16 + number * pitch
        parts.append(_box(x + 0.01, x + pitch - 0.01, -d - 0.02, d - 0.22, seat - 0.13, seat, "fabric"))
        if rng.random() < 0.5:
            side = rng.uniform(0.3, 0.42)
            parts.append(_box(x + 0.1, x + 0.1 + side, d - 0.36, d - 0.22, seat, seat + side, "cushion"))
    return _Piece(2 * w, 2 * d, parts)


def _bed(rng: np.random.Generator) -> _Piece:
    w, d, h = rng.uniform(0.48, 0.92), rng.uniform(0.98, 1.06), rng.uniform(0.42, 0.6)
    parts = [
        _box(-w, w, -d, d, 0.1, h - 0.2, "wood"),
        _box(-w + 0.02, w - 0.02, -d + 0.02, d - 0.04, h - 0.2, h - 0.03, "linen"),
        _box(-w - 0.01, w + 0.01, -d, d * rng.uniform(0.2, 0.45), h - 0.3, h, "fabric"),
        _box(-w, w, d - 0.05, d, 0, rng.uniform(0.8, 1.2), "wood"),
    ]
    for x in (-w / 2, w / 2) if w > 0.65 else (0,):
        parts.append(_box(x - 0.28, x + 0.28, d - 0.48, d - 0.08, h - 0.03, h + 0.1, "linen"))
    return _Piece(2 * w, 2 * d, parts)


def _bookcase(rng: np.random.Generator) -> _Piece:
    w, d, h = rng.uniform(0.3, 0.65), rng.uniform(0.14, 0.18), rng.uniform(1.0, 2.1)
    parts = [_box(-w, w, d - 0.02, d, 0, h, "cabinet")]
    parts += [_box(x - 0.012, x + 0.012, -d, d, 0, h, "cabinet") for x in (-w + 0.012, w - 0.012)]
    boards = np.linspace(0.06, h, max(3, round(h / 0.36)))
    for number, z in enumerate(boards):
        parts.append(_box(-w, w, -d, d, z - 0.02, z, "cabinet"))
        if number == len(boards) - 1:
            parts += _things_on(rng, 2 * w, 2 * d, z, int(rng.integers(0, 3)))
            break
        x, end = -w + 0.04, rng.uniform(-0.3, 1) * w - 0.06
        while x < end:  # a block of books of one height
            thick, tall = rng.uniform(0.03, 0.14), rng.uniform(0.6, 0.92) * (boards[1] - boards[0] - 0.03)
            parts.append(_box(x, x + thick, -d + rng.uniform(0.02, 0.08), d, z, z + tall, f"thing{rng.integers(8)}"))
            x += thick + (rng.uniform(0.02, 0.15) if rng.random() < 0.15 else 0.002)
    return _Piece(2 * w, 2 * d, parts)


def _cabinet(rng: np.random.Generator, tall: bool = False) -> _Piece:
    w, d = rng.uniform(0.4, 0.95), rng.uniform(0.2, 0.3)
    h = rng.uniform(1.8, 2.2) if tall else rng.uniform(0.65, 1.05)
    parts = [_box(-w, w, -d, d, 0.04, h, "cabinet")]
    columns = max(1, round(2 * w / 0.5))
    rows = 1 if tall or rng.random() < 0.4 else int(rng.integers(2, 5))
    for column in range(columns):
        for row in range(rows):
            x, z = -w + 2 * w * column / columns, 0.06 + (h - 0.08) * row / rows
            right, top = x + 2 * w / columns - 0.012, z + (h - 0.08) / rows - 0.012
            parts.append(_box(x + 0.012, right, -d - 0.018, -d, z, top, "front"))
            middle = (x + right) / 2
            grip = (right - 0.08, right - 0.06, (z + top) / 2 - 0.07, (z + top) / 2 + 0.07)
            if rows > 1:
                grip = (middle - 0.07, middle + 0.07, top - 0.07, top - 0.05)
            parts.append(_box(grip[0], grip[1], -d - 0.045, -d - 0.018, grip[2], grip[3], "legs"))
    if not tall:
        parts += _things_on(rng, 2 * w, 2 * d, h, int(rng.integers(0, 5)))
    return _Piece(2 * w, 2 * d + 0.04, parts)


def _wardrobe(rng: np.random.Generator) -> _Piece:
    return _cabinet(rng, tall=True)


def _kitchen(rng: np.random.Generator) -> _Piece:
    w, h = rng.uniform(0.7, 1.6), rng.uniform(0.86, 0.94)
    parts = [_box(-w, w, -0.26, 0.3, 0.1, h - 0.04, "cabinet"), _box(-w, w, -0.31, 0.3, h - 0.04, h, "wood")]
    units = round(2 * w / 0.5)
    for number in range(units):
        x, right = -w + 2 * w * number / units + 0.006, -w + 2 * w * (number + 1) / units - 0.006
        parts.append(_box(x, right, -0.28, -0.26, 0.12, h - 0.06, "front"))
        parts.append(_box(x + 0.1, right - 0.1, -0.305, -0.28, h - 0.12, h - 0.1, "legs"))
        if rng.random() < 0.85:
            parts.append(_box(x, right, -0.05, 0.3, 1.42, 2.12, "front"))
    parts += _things_on(rng, 2 * w, 0.5, h, int(rng.integers(2, 8)))
    if rng.random() < 0.6:
        tall = rng.uniform(1.4, 1.9)
        parts.append(_box(w + 0.02, w + 0.62, -0.34, 0.3, 0.02, tall, "linen"))
        parts.append(_box(w + 0.04, w + 0.07, -0.38, -0.34, tall * 0.55, tall * 0.75, "legs"))
        parts = _shifted(parts, -0.31, 0)
        w += 0.31
    return _Piece(2 * w, 0.68, parts)


def _plant(rng: np.random.Generator) -> _Piece:
    pot, radius, top = rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.18), rng.uniform(0.6, 1.6)
    parts = [_rod(0, 0, 0, pot, radius, "cushion"), _rod(0, 0, pot, top, 0.015, "wood")]
    for _ in range(int(rng.integers(8, 22))):
        z = rng.uniform(pot + 0.05, top)
        parts.append(_ball(*rng.normal(0, 0.12, 2), z, rng.uniform(0.03, 0.09), "leaf"))
    return _Piece(0.5, 0.5, parts)


def _floor_lamp(rng: np.random.Generator) -> _Piece:
    h = rng.uniform(1.3, 1.7)
    shade = _rod(0, 0, h, h + 0.25, rng.uniform(0.12, 0.2), "lamp" if rng.random() < 0.5 else "linen")
    return _Piece(0.4, 0.4, [_rod(0, 0, 0, 0.03, 0.14, "legs"), _rod(0, 0, 0, h, 0.014, "legs"), shade])


def _stool(rng: np.random.Generator) -> _Piece:
    h, radius = rng.uniform(0.4, 0.65), rng.uniform(0.15, 0.28)
    parts = [_rod(0, 0, h - 0.06, h, radius, "chair"), _rod(0, 0, 0, h - 0.06, 0.04, "legs")]
    return _Piece(2 * radius, 2 * radius, [*parts, _rod(0, 0, 0, 0.03, 0.8 * radius, "legs")])


def _boxes(rng: np.random.Generator) -> _Piece:
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        w, d, h = rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.25), rng.uniform(0.15, 0.4)
        parts.append(_box(-w, w, -d, d, z, z + h, ("cardboard", f"thing{rng.integers(8)}")[rng.integers(2)]))
        z += h
    return _Piece(0.6, 0.5, parts)


def _bin_or_ball(rng: np.random.Generator) -> _Piece:
    radius = rng.uniform(0.1, 0.2)
    if rng.random() < 0.4:
        return _Piece(2 * radius, 2 * radius, [_ball(0, 0, radius, radius, f"thing{rng.integers(8)}")])
    return _Piece(2 * radius, 2 * radius, [_rod(0, 0, 0, rng.uniform(0.25, 0.5), radius, "cushion")])


_AT_WALLS = (_sofa, _bed, _bookcase, _bookcase, _cabinet, _cabinet, _wardrobe, _kitchen, _table, _plant, _floor_lamp)
_IN_THE_ROOM = (_table, _table, _low_table, _chair, _chair, _stool, _boxes, _bin_or_ball, _sofa, _plant)


# ---------------------------------------------------------------------------------------------------------------------
# Rooms
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Where a camera stands: position, and its axes as unit vectors."""

    origin: np.ndarray
    forward: np.ndarray
    up: np.ndarray


class Room:
    """A furnished room as a dictionary of Mitsuba shapes, and the places where a camera may stand."""

    def __init__(self, mi, rng: np.random.Generator):
        self.mi, self.rng = mi, rng
        self.shapes: dict[str, dict] = {}
        self.footprints: list[tuple[float, float, float, float]] = []  # x0, x1, y0, y1
        self.width, self.length = rng.uniform(2.5, 5.4), rng.uniform(2.8, 7.0)
        self.height = rng.uniform(2.3, 3.1)
        self.surfaces = self._draw_surfaces()
        self._build_shell()
        self._furnish()

    def draw_view(self) -> View:
        """A camera at the height of a hand or an eye, away from furniture, looking across the room."""
        rng = self.rng
        for _ in range(100):
            x, y = rng.uniform(0.35, self.width - 0.35), rng.uniform(0.35, self.length - 0.35)
            if rng.random() < 0.7:  # most photographs of a room are taken with the back to a wall
                from_wall = 0.3 + abs(rng.normal(0, 0.4))
                y = from_wall if rng.random() < 0.5 else self.length - from_wall
            if not any(x0 - 0.25 < x < x1 + 0.25 and y0 - 0.25 < y < y1 + 0.25 for x0, x1, y0, y1 in self.footprints):
                break
        y = float(np.clip(y, 0.25, self.length - 0.25))
        target = (rng.uniform(0.15, 0.85) * self.width, rng.uniform(0.15, 0.85) * self.length)
        yaw = math.atan2(target[1] - y, target[0] - x)
        pitch, roll = math.radians(rng.normal(-12, 8)), math.radians(rng.normal(0, 1.5))
        forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])
        right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        up = np.cross(right, forward) * math.cos(roll) + right * math.sin(roll)
        return View(np.array([x, y, rng.uniform(1.0, 1.7)]), forward, up)

    def _draw_surfaces(self) -> dict[str, object]:
        rng = self.rng

        def wood():
            painted = rng.random() < 0.35
            base = _PAINTS[rng.integers(len(_PAINTS))] if painted else _WOODS[rng.integers(len(_WOODS))]
            kind = "plain" if painted else "wood"
            return kind, tuple(np.clip(np.array(base) * rng.uniform(0.85, 1.1), 0, 1))

        def lively():
            # Most things are nearly grey, some are not.
            return tuple(np.clip(rng.uniform(0.12, 0.85) + rng.normal(0, 1, 3) * rng.gamma(1.5, 0.05), 0.05, 0.92))

        front = wood()
        surfaces = {
            "wood": self._surface(*wood()),
            "cabinet": self._surface(*front),
            "front": self._surface(*(front if rng.random() < 0.7 else wood()), glossy=rng.random() < 0.3),
            "chair": self._surface(*wood()) if rng.random() < 0.6 else self._surface("carpet", lively()),
            "legs": self._surface("plain", _PAINTS[rng.integers(len(_PAINTS))]),
            "fabric": self._surface(("carpet", "plaid", "stripes")[rng.integers(3)], lively()),
            "cushion": self._surface(("plaid", "stripes", "plain")[rng.integers(3)], lively()),
            "linen": self._surface("plain", tuple(rng.uniform(0.78, 0.95) + rng.normal(0, 0.02, 3))),
            "leaf": self._surface("carpet", tuple(rng.normal((0.2, 0.34, 0.15), 0.04))),
            "cardboard": self._surface("plain", (0.62, 0.47, 0.31)),
            "black": self._surface("plain", (0.08, 0.08, 0.09), glossy=True),
        }
        surfaces |= {f"thing{number}": self._surface("plain", lively()) for number in range(8)}
        return surfaces

    def _texture(self, kind: str, colour, repeat: tuple[float, float] = (1, 1)) -> dict:
        # The square is near enough to the sRGB curve for a colour drawn at random, and much faster.
        linear = np.square(_draw_texture(self.rng, kind, colour)).astype(np.float32)
        return {
            "type": "bitmap",
            "bitmap": self.mi.Bitmap(linear),
            "raw": True,
            "to_uv": self.mi.ScalarTransform4f().scale([repeat[0], repeat[1], 1]),
        }

    def _surface(self, kind: str, colour, repeat: tuple[float, float] = (1, 1), glossy: bool = False):
        if kind == "plain":
            reflectance = {"type": "rgb", "value": np.square(np.clip(colour, 0.03, 0.95)).tolist()}
        else:
            reflectance = self._texture(kind, colour, repeat)
        if glossy:
            # Not `roughplastic`: it integrates over its surface when loaded, 50 ms for each.
            bsdf = {"type": "principled", "base_color": reflectance, "roughness": 0.3, "specular": 0.5}
        else:
            bsdf = {"type": "diffuse", "reflectance": reflectance}
        return self.mi.load_dict({"type": "twosided", "bsdf": bsdf})

    def _add(self, **shape) -> None:
        self.shapes[f"shape{len(self.shapes)}"] = shape

    def _panel(self, centre, along, up, bsdf=None, emitter=None) -> None:
        """A rectangle given by its centre and two half sides; it faces along x up."""
        along, up = np.asarray(along, dtype=np.float64), np.asarray(up, dtype=np.float64)
        normal = np.cross(along, up)
        matrix = np.eye(4)
        matrix[:3] = np.stack([along, up, normal / np.linalg.norm(normal), np.asarray(centre)], axis=1)
        parts = {"bsdf": bsdf} if emitter is None else {"emitter": emitter}
        self._add(type="rectangle", to_world=self.mi.ScalarTransform4f(matrix), **parts)

    def _light(self, power: float, texture: dict | None = None, warm: bool = False) -> dict:
        radiance = {"type": "rgb", "value": [power, power * (0.8 if warm else 0.97), power * (0.55 if warm else 0.92)]}
        return {"type": "area", "radiance": texture or radiance}

    def _place(self, piece: _Piece, x: float, y: float, turn: float) -> None:
        """Put a piece at (x, y), turned by `turn` radians."""
        to_room = self.mi.ScalarTransform4f().translate([x, y, 0]).rotate([0, 0, 1], math.degrees(turn))
        for part in piece.parts:
            bsdf = (
                {"bsdf": self.surfaces[part.surface]}
                if part.surface != "lamp"
                else {"emitter": self._light(6, warm=True)}
            )
            if part.shape == "box":
                low, high = np.array(part.geometry[0]), np.array(part.geometry[1])
                centre, half = ((low + high) / 2).tolist(), np.maximum((high - low) / 2, 1e-3).tolist()
                local = self.mi.ScalarTransform4f().translate(centre).scale(half)
                self._add(type="cube", to_world=to_room @ local, **bsdf)
            elif part.shape == "sphere":
                centre, radius = part.geometry
                self._add(type="sphere", center=list(map(float, centre)), radius=radius, to_world=to_room, **bsdf)
            else:
                foot, head, radius = part.geometry
                self._add(type="cylinder", p0=list(foot), p1=list(head), radius=radius, to_world=to_room, **bsdf)
                lid = self.mi.ScalarTransform4f().translate(list(head)).scale([radius, radius, 1])
                self._add(type="disk", to_world=to_room @ lid, **bsdf)

    def _build_shell(self) -> None:
        rng, w, d, h = self.rng, self.width, self.length, self.height
        pale = np.clip(rng.uniform(0.72, 0.94) + rng.normal(0, 0.03, 3), 0.3, 0.95)
        if rng.random() < 0.25:
            pale = np.clip(rng.uniform(0.45, 0.85) + rng.normal(0, 0.12, 3), 0.2, 0.95)
        floor_kind = ("planks", "planks", "tiles", "carpet")[rng.integers(4)]
        floor_colour = {
            "planks": np.array(_WOODS[rng.integers(len(_WOODS))]),
            "tiles": rng.uniform(0.4, 0.9) + rng.normal(0, 0.04, 3),
            "carpet": rng.uniform(0.2, 0.75) + rng.normal(0, 0.06, 3),
        }[floor_kind]
        # Real sizes: eight boards of 9 to 19 cm, four tiles of 20 to 60 cm.
        tile = {"planks": 8 * rng.uniform(0.09, 0.19), "tiles": 4 * rng.uniform(0.2, 0.6), "carpet": 0.8}[floor_kind]
        floor = self._surface(
            floor_kind, tuple(floor_colour.clip(0.05, 0.95)), (w / tile, d / tile), glossy=rng.random() < 0.25
        )
        self._panel((w / 2, d / 2, 0), (w / 2, 0, 0), (0, d / 2, 0), floor)
        ceiling = self._surface("plaster", tuple(rng.uniform(0.85, 0.95, 3)), (w, d))
        self._panel((w / 2, d / 2, h), (w / 2, 0, 0), (0, -d / 2, 0), ceiling)

        # Walls as (middle of the foot, direction along the wall, half length); x up is the inward normal.
        self.walls = [
            (np.array([w / 2, d, 0]), np.array([1.0, 0, 0]), w / 2),
            (np.array([w / 2, 0, 0]), np.array([-1.0, 0, 0]), w / 2),
            (np.array([0, d / 2, 0]), np.array([0, 1.0, 0]), d / 2),
            (np.array([w, d / 2, 0]), np.array([0, -1.0, 0]), d / 2),
        ]
        feature = rng.integers(4) if rng.random() < 0.35 else -1
        skirting = self.surfaces["linen"] if rng.random() < 0.7 else self.surfaces["wood"]
        self.windows = 0
        plain = self._surface("plaster", tuple(pale), (4, 3))
        for number, (foot, along, half) in enumerate(self.walls):
            if number == feature:
                kind = ("bricks", "stripes", "plaster", "tiles")[rng.integers(4)]
                side = {"bricks": 0.9, "stripes": 1.2, "plaster": 1.0, "tiles": 0.6}[kind]
                colour = np.clip(rng.uniform(0.35, 0.85) + rng.normal(0, 0.09, 3), 0.1, 0.9)
                if kind == "bricks":
                    colour = (0.55, 0.33, 0.25)
            bsdf = plain
            if number == feature:
                bsdf = self._surface(kind, tuple(colour), (2 * half / side, h / side))
            self._panel(foot + np.array((0, 0, h / 2)), along * half, (0, 0, h / 2), bsdf)
            inward = np.cross(along, (0, 0, 1.0))
            self._wall_box(foot, along, inward, -half, half, 0, 0.08, 0.015, skirting)
            self._decorate(foot, along, inward, half)
        self._build_lights()

    def _wall_box(self, foot, along, inward, left, right, low, high, thick, bsdf, gap=0.0) -> None:
        """A box on a wall, from `left` to `right` along it and `low` to `high`, standing out by `thick` metres."""
        corner = foot + along * left + inward * gap + (0, 0, low)
        other = foot + along * right + inward * (gap + thick) + (0, 0, high)
        centre, half = (corner + other) / 2, np.abs(other - corner) / 2
        local = self.mi.ScalarTransform4f().translate(centre.tolist()).scale(np.maximum(half, 1e-3).tolist())
        self._add(type="cube", to_world=local, bsdf=bsdf)

    def _decorate(self, foot, along, inward, half) -> None:
        """A window, a door or pictures on one wall."""
        rng, frame = self.rng, self.surfaces["linen"]
        at = rng.uniform(-half + 0.8, half - 0.8)
        kind = rng.random()
        if kind < 0.4 and self.windows < 2:
            self.windows += 1
            w, low, high = rng.uniform(0.4, 0.75), rng.uniform(0.75, 1.0), rng.uniform(1.9, 2.15)
            power = rng.uniform(2, 9) if rng.random() < 0.8 else 0.3
            sky = self._texture("sky", (1, 1, 1))
            sky["bitmap"] = self.mi.Bitmap(np.array(sky["bitmap"]) * np.float32(power))
            centre = foot + along * at + inward * 0.01 + (0, 0, (low + high) / 2)
            # The texture's first row is at v = 0: `up` points down so that the sky is above; `along` turns with it.
            self._panel(centre, -along * w, (0, 0, (low - high) / 2), emitter=self._light(power, sky))
            bars = [(at - w - 0.06, at - w), (at + w, at + w + 0.06), (at - 0.025, at + 0.025)]
            for left, right in bars:
                self._wall_box(foot, along, inward, left, right, low - 0.06, high + 0.06, 0.05, frame)
            for bottom, top in ((low - 0.08, low), (high, high + 0.06)):
                self._wall_box(foot, along, inward, at - w, at + w, bottom, top, 0.06, frame)
            if rng.random() < 0.5:  # curtains fall in folds
                for start in (at - w - 0.3, at + w - 0.1):
                    for fold in range(6):
                        left, bulge = start + 0.065 * fold, 0.05 + 0.04 * (fold % 2)
                        self._wall_box(
                            foot,
                            along,
                            inward,
                            left,
                            left + 0.065,
                            0.1,
                            high + 0.15,
                            bulge,
                            self.surfaces["cushion"],
                            0.05,
                        )
            elif rng.random() < 0.6:  # a radiator below
                for fin in range(12):
                    left = at - 0.48 + 0.08 * fin
                    self._wall_box(foot, along, inward, left, left + 0.06, 0.12, 0.65, 0.09, frame, 0.03)
        elif kind < 0.6:
            w, top = rng.uniform(0.38, 0.46), rng.uniform(1.96, 2.08)
            leaf = self.surfaces["wood"] if rng.random() < 0.5 else frame
            self._wall_box(foot, along, inward, at - w, at + w, 0, top, 0.03, leaf)
            for left, right in ((at - w - 0.08, at - w), (at + w, at + w + 0.08)):
                self._wall_box(foot, along, inward, left, right, 0, top + 0.08, 0.05, frame)
            self._wall_box(foot, along, inward, at - w, at + w, top, top + 0.08, 0.05, frame)
            for low, high in ((0.2, 0.9), (1.1, top - 0.15)):
                self._wall_box(foot, along, inward, at - w + 0.1, at + w - 0.1, low, high, 0.04, leaf)
            self._wall_box(foot, along, inward, at + w - 0.14, at + w - 0.03, 1.0, 1.03, 0.09, self.surfaces["legs"])
        else:
            for _ in range(int(rng.integers(0, 4))):
                at, z = rng.uniform(-half + 0.5, half - 0.5), rng.uniform(1.3, 1.75)
                w, tall = rng.uniform(0.12, 0.5), rng.uniform(0.15, 0.4)
                self._wall_box(
                    foot, along, inward, at - w - 0.03, at + w + 0.03, z - tall - 0.03, z + tall + 0.03, 0.02,
                    self.surfaces[("black", "wood", "linen")[rng.integers(3)]],
                )  # fmt: skip
                centre = foot + along * at + inward * 0.025 + (0, 0, z)
                self._panel(centre, -along * w, (0, 0, -tall), self._surface("picture", (0, 0, 0)))

    def _build_lights(self) -> None:
        """Lamps at the ceiling; by day a bright window may have to do."""
        rng, w, d, h = self.rng, self.width, self.length, self.height
        if self.windows and rng.random() < 0.3:
            return
        warm, power = rng.random() < 0.4, rng.uniform(5, 14)
        if rng.random() < 0.5:
            x, y = w * rng.uniform(0.35, 0.65), d * rng.uniform(0.35, 0.65)
            drop, radius = rng.uniform(0.15, 0.5), rng.uniform(0.1, 0.18)
            self._add(
                type="sphere", center=[x, y, h - drop], radius=radius, emitter=self._light(1.5 * power, warm=warm)
            )
            self._add(type="cylinder", p0=[x, y, h - drop], p1=[x, y, h], radius=0.008, bsdf=self.surfaces["legs"])
            return
        for y in (0.28 * d, 0.72 * d) if d > 4.5 else (0.5 * d,):
            half = (rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.3))
            self._panel((w / 2, y, h - 0.02), (half[0], 0, 0), (0, -half[1], 0), emitter=self._light(power, warm=warm))

    def _furnish(self) -> None:
        rng = self.rng
        area = self.width * self.length
        if rng.random() < 0.4:
            x, y = self.width * rng.uniform(0.35, 0.65), self.length * rng.uniform(0.35, 0.65)
            half = (min(rng.uniform(0.5, 1.2), x - 0.1, self.width - x - 0.1), rng.uniform(0.6, 1.4))
            rug = self._surface("rug", tuple(np.clip(rng.uniform(0.25, 0.7) + rng.normal(0, 0.08, 3), 0.1, 0.9)))
            self._panel((x, y, 0.012), (half[0], 0, 0), (0, half[1], 0), rug)
        for _ in range(round(rng.uniform(0.35, 0.65) * (self.width + self.length))):
            piece = _AT_WALLS[rng.integers(len(_AT_WALLS))](rng)
            for _ in range(8):
                foot, along, half = self.walls[rng.integers(4)]
                inward = np.cross(along, (0, 0, 1.0))
                room_left = half - piece.width / 2 - 0.05
                if room_left <= 0:
                    continue
                at = foot + along * rng.uniform(-room_left, room_left) + inward * (piece.length / 2 + 0.04)
                # The back (+y) turns to the wall.
                turn = math.atan2(-inward[1], -inward[0]) - math.pi / 2
                size = (piece.width, piece.length) if abs(inward[1]) > 0.5 else (piece.length, piece.width)
                if self._claim(at[0], at[1], *size):
                    self._place(piece, at[0], at[1], turn)
                    break
        for _ in range(round(rng.uniform(0.1, 0.4) * area)):
            piece = _IN_THE_ROOM[rng.integers(len(_IN_THE_ROOM))](rng)
            turn = rng.uniform(0, 2 * math.pi) if rng.random() < 0.4 else math.pi / 2 * rng.integers(4)
            cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
            size = (piece.width * cos + piece.length * sin, piece.width * sin + piece.length * cos)
            x, y = rng.uniform(0.3, self.width - 0.3), rng.uniform(0.3, self.length - 0.3)
            if self._claim(x, y, *size):
                self._place(piece, x, y, turn)

    def _claim(self, x: float, y: float, width: float, length: float) -> bool:
        """Take a piece of floor if it is free and at least a third of the floor stays so."""
        x0, x1, y0, y1 = x - width / 2, x + width / 2, y - length / 2, y + length / 2
        if x0 < 0.02 or y0 < 0.02 or x1 > self.width - 0.02 or y1 > self.length - 0.02:
            return False
        if any(x0 < b and a < x1 and y0 < d and c < y1 for a, b, c, d in self.footprints):
            return False
        taken = sum((b - a) * (d - c) for a, b, c, d in [*self.footprints, (x0, x1, y0, y1)])
        if taken > 0.6 * self.width * self.length:
            return False
        self.footprints.append((x0, x1, y0, y1))
        return True
