"""Depth as a picture for people: colours with stated limits, never a file to measure in."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MISSING_COLOUR = (128, 128, 128)


def depth_limits(*depth_maps: np.ndarray) -> tuple[float, float]:
    """Common colour limits in metres: the 2nd and the 98th percentile of all measured pixels of all maps together.

    Args:
        depth_maps (`np.ndarray` of shape `(height, width)`): Depth in metres; 0 and non-finite values are missing.

    Returns:
        `tuple[float, float]`: Nearest and farthest metre of the scale, never equal; (0, 1) if nothing is measured.
    """
    pixels = [np.asarray(depth)[_measured(np.asarray(depth))].astype(np.float64) for depth in depth_maps]
    pixels = np.concatenate(pixels) if pixels else np.zeros(0)
    if pixels.size == 0:
        return 0.0, 1.0
    near, far = (float(limit) for limit in np.percentile(pixels, (2, 98)))
    # A constant map (a wall) gets a scale around its one value.
    return (near, far) if far - near > 1e-3 * far else (0.9 * near, 1.1 * far)


def colourise(
    depth: np.ndarray, min_depth: float | None = None, max_depth: float | None = None, cmap: str = "turbo"
) -> np.ndarray:
    """Colour a depth map; the picture is for the eye and says nothing about metres without its limits.

    Args:
        depth (`np.ndarray` of shape `(height, width)`): Depth in metres; 0 and non-finite values mark a missing
            measurement and become a neutral grey.
        min_depth (`float`, *optional*): Metres of the first colour; by default the 2nd percentile of the map.
        max_depth (`float`, *optional*): Metres of the last colour; by default the 98th percentile. Depth outside the
            limits takes the colour at the limit.
        cmap (`str`, *optional*, defaults to `"turbo"`): Name of a matplotlib colour map, near to far.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8: RGB.

    Raises:
        ValueError: If `depth` is not two-dimensional, the limits are not in order, or the colour map is unknown.
    """
    depth = np.asarray(depth)
    if depth.ndim != 2:
        raise ValueError(f"`depth` has shape {depth.shape}; pass one map (height, width), for example `depth[0]`.")
    near, far = depth_limits(depth)
    near = near if min_depth is None else min_depth
    far = far if max_depth is None else max_depth
    if not near < far:
        raise ValueError(f"the colours would run from {near:g} m to {far:g} m; pass `min_depth` < `max_depth`.")
    measured = _measured(depth)
    share = (np.where(measured, depth, near).astype(np.float64) - near) / (far - near)
    colours = _colour_table(cmap)[np.rint(np.clip(share, 0, 1) * 255).astype(np.int64)]
    return np.where(measured[..., None], colours, np.array(MISSING_COLOUR, dtype=np.uint8))


def side_by_side(
    panels: Sequence[tuple[str, np.ndarray | Image.Image]],
    min_depth: float | None = None,
    max_depth: float | None = None,
    cmap: str = "turbo",
    height: int = 240,
) -> Image.Image:
    """Titled pictures in a row, with one colour bar in metres: photograph, prediction, measured depth.

    Take the limits from [`depth_limits`] of all maps shown and give the same ones to [`colourise`] and to this
    function, so that one colour is one distance in every panel.

    Args:
        panels (`Sequence[tuple[str, np.ndarray | PIL.Image.Image]]`): Title and RGB picture, uint8
            `(height, width, 3)` if an array; scaled to a common height.
        min_depth (`float`, *optional*): Metres at the foot of the colour bar; no bar if left out.
        max_depth (`float`, *optional*): Metres at its top.
        cmap (`str`, *optional*, defaults to `"turbo"`): The colour map the panels were made with.
        height (`int`, *optional*, defaults to 240): Height of each picture in pixels.

    Returns:
        `PIL.Image.Image`: The row on white, mode RGB.

    Raises:
        ValueError: If there is no panel, a panel is not an RGB picture, or only one limit is given or they are not
            in order.
    """
    if not panels:
        raise ValueError("`panels` is empty; pass at least one (title, picture).")
    has_bar = min_depth is not None or max_depth is not None
    if has_bar and (min_depth is None or max_depth is None or not min_depth < max_depth):
        raise ValueError(f"the colour bar would run from {min_depth} to {max_depth}; pass `min_depth` < `max_depth`.")

    pictures = [_as_picture(title, picture) for title, picture in panels]
    pictures = [
        # Enlarged colours must stay colours of the scale, so pictures grow by nearest neighbour.
        picture.resize(
            (max(1, round(picture.width * height / picture.height)), height),
            Image.Resampling.NEAREST if height >= picture.height else Image.Resampling.BOX,
        )
        for picture in pictures
    ]
    font = ImageFont.load_default(size=max(10, height // 15))
    line = font.getbbox("Mg")[3]
    gap = line // 2
    widths = [
        max(picture.width, round(font.getlength(title))) for (title, _), picture in zip(panels, pictures, strict=True)
    ]
    ticks = _ticks(min_depth, max_depth) if has_bar else []
    bar_width = line
    bar_space = gap + bar_width + gap + max((round(font.getlength(label)) for _, label in ticks), default=0)
    row = Image.new(
        "RGB",
        (sum(widths) + gap * (len(panels) + 1) + (bar_space if has_bar else 0), height + line + 3 * gap),
        "white",
    )
    draw = ImageDraw.Draw(row)
    top, left = line + 2 * gap, gap
    for (title, _), picture, width in zip(panels, pictures, widths, strict=True):
        draw.text((left, gap), title, fill="black", font=font)
        row.paste(picture, (left, top))
        left += width + gap
    if has_bar:
        ramp = _colour_table(cmap)[np.rint(np.linspace(255, 0, height)).astype(np.int64)]  # far at the top
        row.paste(Image.fromarray(np.repeat(ramp[:, None], bar_width, axis=1)), (left, top))
        for metres, label in ticks:
            y = top + round((1 - (metres - min_depth) / (max_depth - min_depth)) * (height - 1))
            draw.line((left + bar_width, y, left + bar_width + gap // 2, y), fill="black")
            draw.text((left + bar_width + gap, y), label, fill="black", font=font, anchor="lm")
    return row


def stack_rows(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other, on white."""
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    return picture


def _measured(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _colour_table(cmap: str) -> np.ndarray:
    """The 256 colours of a map, uint8 (256, 3)."""
    import matplotlib

    if cmap not in matplotlib.colormaps:
        raise ValueError(f"`cmap` is {cmap!r}, which matplotlib does not know; 'turbo' or 'inferno' are good choices.")
    return np.rint(matplotlib.colormaps[cmap](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


def _as_picture(title: str, picture: np.ndarray | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    picture = np.asarray(picture)
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"`panels` has {title!r} as {picture.dtype} of shape {picture.shape}; pass uint8 (height, width, 3), "
            "and a depth map through `colourise`."
        )
    return Image.fromarray(picture)


def _ticks(min_depth: float, max_depth: float) -> list[tuple[float, str]]:
    """Four to eight round metres inside the limits."""
    for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if (max_depth - min_depth) / step <= 8:
            break
    decimals = max(0, int(np.ceil(-np.log10(step))))
    first, last = int(np.ceil(min_depth / step - 1e-9)), int(np.floor(max_depth / step + 1e-9))
    return [(number * step, f"{number * step:.{decimals}f} m") for number in range(first, last + 1)]
