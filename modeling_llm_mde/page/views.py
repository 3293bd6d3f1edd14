"""What a page shows of an estimate: pictures, a legend in metres, and HTML that suits light and dark.

Whatever comes from a visitor, a tokenizer or a name goes through [`escaped`].
"""

import html

import numpy as np
from PIL import Image, ImageDraw

from llm_mde.processing.colours import colourise, depth_limits
from llm_mde.processing.photographs import Camera
from llm_mde.processing.point_clouds import distance_between

from .downloads import field_of_view, is_assumed
from .estimator import DepthEstimate, DepthEstimator

CSS = """
.legend { padding: 0 1.75rem; }
.legend .bar { height: .75rem; border-radius: .375rem; }
.legend .ticks { position: relative; height: 1.4rem; font-size: .85rem; color: var(--body-text-color); }
.legend .ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .5rem 1rem; margin: 0; }
.facts dt { font-size: .8rem; color: var(--body-text-color); opacity: .75; }
.facts dd { margin: 0; font-weight: 600; color: var(--body-text-color); overflow-wrap: anywhere; }
.answer { font-size: 1.05rem; color: var(--body-text-color); }
.answer p { margin: 0 0 .35rem; }
.note { margin: 0; font-size: .9rem; color: var(--body-text-color); opacity: .8; text-align: left; }
.table { width: 100%; border-collapse: collapse; font-size: .95rem; color: var(--body-text-color); }
.table :is(th, td) { text-align: left; padding: .3rem .6rem .3rem 0; vertical-align: top; }
.table, .table * { border: 0; }
.table :is(th, td) { border-bottom: 1px solid var(--border-color-primary); }
.table td { overflow-wrap: anywhere; }
.table th { overflow-wrap: normal; word-break: normal; }
.table th:nth-child(-n + 2) { white-space: nowrap; }
.table .number { white-space: nowrap; }
#use-camera { align-self: center; }
"""


def escaped(value: object) -> str:
    """Text for HTML, and for the templates that Gradio fills afterwards."""
    return html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def coloured(
    estimator: DepthEstimator, estimate: DepthEstimate, cmap: str
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """Photograph and depth, of one size, and the legend of the colours."""
    depth = estimator.metres(estimate, estimate.picture.shape[:2])
    near, far = depth_limits(depth)
    return (estimate.picture, colourise(depth, near, far, cmap)), legend(near, far, cmap)


def compared(estimator: DepthEstimator, estimate: DepthEstimate, cmap: str) -> tuple[list[np.ndarray], str]:
    """Depth with three prompts on one scale of colours, and what the other two change."""
    comparisons = estimator.compare_prompts(estimate)
    near, far = depth_limits(*(each.depth for each in comparisons))
    rows = "".join(
        f'<tr><td>{escaped(each.name.capitalize())}</td><td class="number">{each.metres:.4f} m</td>'
        f'<td class="number">{each.percent:.2f} %</td></tr>'
        for each in comparisons[1:]
    )
    table = (
        '<table class="table"><caption class="note">Mean absolute difference from the depth with this prompt</caption>'
        "<thead><tr><th>Depth with</th><th>in metres</th><th>in percent</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return [colourise(each.depth, near, far, cmap) for each in comparisons], legend(near, far, cmap) + table


def legend(near: float, far: float, cmap: str) -> str:
    """The colours from near to far, with round metres below them."""
    from matplotlib.ticker import MaxNLocator

    ramp = colourise(np.linspace(near, far, 17)[None].clip(1e-6), near, far, cmap)[0]
    colours = ", ".join(f"rgb({red}, {green}, {blue})" for red, green, blue in ramp.tolist())
    ticks = [metres for metres in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(near, far) if near <= metres <= far]
    marks = "".join(
        f'<span style="left: {100 * (metres - near) / (far - near):.2f}%">{metres:.4g} m</span>' for metres in ticks
    )
    return (
        f'<div class="legend" role="img" aria-label="Colours from {near:.2f} metres, near, to {far:.2f} metres, far">'
        f'<div class="bar" style="background: linear-gradient(to right, {colours})"></div>'
        f'<div class="ticks" aria-hidden="true">{marks}</div></div>'
    )


def facts(estimator: DepthEstimator, estimate: DepthEstimate) -> str:
    """The numbers of an estimate."""
    rows, columns = estimate.pixel_values.shape[-2:]
    entries = {
        **{name.capitalize(): f"{metres:.2f} m" for name, metres in depth_range(estimator.metres(estimate)).items()},
        "Photograph": f"{estimate.size[1]} x {estimate.size[0]} pixels",
        "The model reads": f"{columns} x {rows} pixels",
        "Time of the model": f"{estimate.milliseconds:.0f} ms",
        "Device": estimator.device,
    }
    if estimator.adapters:
        entries["Adapter"] = estimate.adapter or "none"
    cells = "".join(f"<div><dt>{name}</dt><dd>{escaped(value)}</dd></div>" for name, value in entries.items())
    return f'<dl class="facts">{cells}</dl>'


def depth_range(depth: np.ndarray) -> dict[str, float]:
    return {"nearest": float(depth.min()), "median": float(np.median(depth)), "farthest": float(depth.max())}


def prompt_note(estimator: DepthEstimator, estimate: DepthEstimate) -> str:
    """How long the prompt is, and whether all of it was read."""
    if not estimator.model.config.use_prompt:
        return '<p class="note">This model was made to read no prompt.</p>'
    limit = estimator.processors[estimate.adapter].max_prompt_length
    length = f"The prompt has {estimate.num_tokens} tokens"
    if estimate.num_tokens <= limit:
        return f'<p class="note">{length} of at most {limit}; the depth above was estimated with it.</p>'
    cut = f"{length}, of which the model has read the first {limit} only. Please shorten it."
    return f'<p class="answer" role="status">{cut}</p>'


def camera_note(camera: Camera, width: int) -> str:
    """Which camera distances and 3D shape rest on."""
    angle, doubt = field_of_view(camera.intrinsics, width), ""
    if is_assumed(camera):
        doubt = " Distances across the picture and the 3D shape are only as right as that."
    return f'<p class="note">Camera: {angle:.1f}° wide, from {escaped(camera.source)}.{doubt}</p>'


def marked(estimate: DepthEstimate, points: list[tuple[int, int]]) -> np.ndarray:
    """The photograph with rings at the chosen pixels, columns and rows, and a line between two of them."""
    picture = Image.fromarray(estimate.picture)
    draw = ImageDraw.Draw(picture)
    radius = max(4, max(picture.size) // 90)
    centres = [
        ((column + 0.5) * picture.width / estimate.size[1], (row + 0.5) * picture.height / estimate.size[0])
        for column, row in points
    ]
    for colour, width in (("black", 5), ("white", 2)):  # seen on dark and bright ground
        if len(centres) == 2:
            draw.line(centres, fill=colour, width=width)
        for x, y in centres:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return np.array(picture)


def reading(estimator: DepthEstimator, estimate: DepthEstimate, points: list[tuple[int, int]], camera: Camera) -> str:
    """Depth at the chosen pixels, and how far two of them are apart."""
    depth = estimator.metres(estimate)
    lines = [
        f"<p>Point {number}, column {column}, row {row}: <strong>{depth[row, column]:.3f} m</strong></p>"
        for number, (column, row) in enumerate(points, start=1)
    ]
    if len(points) == 1:
        lines.append('<p class="note">A second pixel gives the distance between the two.</p>')
    if len(points) == 2:
        distance = distance_between(depth, camera.intrinsics, *points)
        lines.append(f"<p>Between them, in a straight line: <strong>{distance:.3f} m</strong></p>")
        lines.append(camera_note(camera, estimate.size[1]))
    return f'<div class="answer" role="status">{"".join(lines)}</div>'


def region(estimator: DepthEstimator, estimate: DepthEstimate, column: int, row: int) -> str:
    """What the patch around a pixel read."""
    rows = "".join(
        f'<tr><td class="number">{each.prototype}</td><td class="number">{each.share:.1%}</td>'
        f"<td>{', '.join(escaped(word) for word, _ in each.words)}</td></tr>"
        for each in estimator.region(estimate, column, row)
    )
    return (
        f'<table class="table"><caption class="note">What the patch around column {column}, row {row} reads</caption>'
        "<thead><tr><th>Prototype</th><th>Share</th><th>Made of the words</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


__all__ = [
    "CSS",
    "camera_note",
    "coloured",
    "compared",
    "depth_range",
    "escaped",
    "facts",
    "legend",
    "marked",
    "prompt_note",
    "reading",
    "region",
]
