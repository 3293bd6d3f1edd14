"""Joint augmentation: the photograph and the depth that another camera, or another light, would have recorded."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .datasets import DepthSample, Intrinsics
from .depth_image_processing_llm_mde import nearest_depth

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow makes grey of RGB
_CUT_DEPTH_SHARE = 0.75
_NUM_DRAWS = 15


@dataclass(frozen=True)
class DepthAugmentation:
    r"""Changes a [`DepthSample`] at random: first its geometry, photograph and depth as one, then its colours.

    **No depth value is changed by any geometry**; each moves along with its pixel.

    - *Mirror*: the scene seen in a mirror; every point keeps its z.
    - *Window*: a part of the photograph with its aspect ratio. The processor enlarges it to its size, so a window of a
      share s of the side looks like a focal length of f / s. Dividing z by s would keep the focal length and pretend
      that the camera stood nearer, which no camera would see so (nearer things would hide others). How far
      `min_crop` goes is therefore how much the apparent focal length varies: by a quarter at 0.8.
    - *Rotation*: a roll of the camera about its optical axis, which leaves z and the focal length as they are. The
      turned window stays inside the photograph wherever `min_crop` leaves room for that. Where it does not, corners
      come into view that nobody recorded: there depth is 0, missing, and the photograph has its own mean colour,
      which sets no new minimum or maximum for the prompt. A roll shears the pixels of a camera whose known fx and fy
      differ by more than 1 %; its photographs are not turned.

    The principal point moves with the pixels; fx and fy stay, in pixels of the window.

    Colours are changed in one pass of a 3 x 4 matrix over the window: brightness, contrast about the photograph's mean
    grey, saturation, and hue as a turn about the grey axis.

    CutDepth (Ishii & Yamashita, 2021, with p = 0.75) comes last: inside a rectangle the photograph shows its depth in
    grey levels, `255 * depth / max_depth`. Where depth is missing or beyond `max_depth` the photograph stays.

    Args:
        flip (`float`, *optional*, defaults to 0.5): Probability of mirroring left to right.
        min_crop (`float`, *optional*, defaults to 0.8): Smallest share of the side that a window keeps, in (0, 1].
        rotation (`float`, *optional*, defaults to 0): Largest roll in degrees to either side, 0 to 45.
        colour (`float`, *optional*, defaults to 1): Strength, from 0 (off) to below 5. At 1, brightness, contrast and
            saturation are multiplied by 0.8 to 1.2 and hue is turned by up to 0.02 of the circle to either side.
        grayscale (`float`, *optional*, defaults to 0): Probability that all colour is taken away.
        cut_depth (`float`, *optional*, defaults to 0): Probability of CutDepth.
        max_depth (`float`, *optional*): Depth in metres that CutDepth shows as white; needed with `cut_depth`. Take
            the model's `config.max_depth`.

    Raises:
        ValueError: If a number is outside its range, or `cut_depth` has no `max_depth`.
    """

    flip: float = 0.5
    min_crop: float = 0.8
    rotation: float = 0.0
    colour: float = 1.0
    grayscale: float = 0.0
    cut_depth: float = 0.0
    max_depth: float | None = None

    def __post_init__(self):
        for name in ("flip", "grayscale", "cut_depth"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; pass a probability from 0 to 1.")
        if not 0 < self.min_crop <= 1:
            raise ValueError(f"`min_crop` is {self.min_crop}; pass a share of the side in (0, 1], 1 for no crop.")
        if not 0 <= self.rotation <= 45:
            raise ValueError(f"`rotation` is {self.rotation}; pass the largest angle in degrees, from 0 to 45.")
        if not 0 <= self.colour < 5:
            raise ValueError(f"`colour` is {self.colour}; pass a strength from 0 (off) to below 5.")
        if self.cut_depth > 0 and self.max_depth is None:
            raise ValueError(
                f"`cut_depth` is {self.cut_depth} but `max_depth` is None; pass the depth in metres to show as white, "
                "the model's `config.max_depth`."
            )
        if self.max_depth is not None and not 0 < self.max_depth < math.inf:
            raise ValueError(f"`max_depth` is {self.max_depth}; pass a positive number of metres.")

    @classmethod
    def strong(cls) -> "DepthAugmentation":
        """For training from scratch on hundreds of frames: smaller windows, a roll, twice the colour, some grey."""
        return cls(min_crop=0.75, rotation=5.0, colour=2.0, grayscale=0.1)

    def __call__(self, sample: DepthSample, generator: torch.Generator) -> DepthSample:
        """The augmented sample; the given one stays as it is.

        Args:
            sample (`DepthSample`): A photograph in mode RGB with its depth, also of lower resolution.
            generator (`torch.Generator`): Of the draws, on the CPU. Every call takes as many of them, so that
                switching one option on does not change what another one draws.

        Returns:
            `DepthSample`: With the depth at the resolution of the new photograph.

        Raises:
            ValueError: If the photograph is not RGB, or photograph and depth differ in aspect ratio by more than 2 %.
        """
        _check_pair(sample)
        draws = torch.rand(_NUM_DRAWS, generator=generator).tolist()
        # Fills corners, and contrast turns about it.
        mean_colour = sample.image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))

        view = self._draw_view(sample, *draws[:5])
        # The photograph stays with Pillow, which on a CPU is faster than tensors, several times so with colours.
        image = self._with_other_colours(view.of(sample.image, mean_colour), mean_colour, *draws[5:10])
        depth = view.of(_as_mask(sample))[0].numpy()
        if draws[10] < self.cut_depth:
            image = _with_depth_shown(image, depth, self.max_depth, *draws[11:])
        intrinsics = None if sample.intrinsics is None else view.of_camera(sample.intrinsics)
        return replace(sample, image=image, depth=depth, intrinsics=intrinsics)

    def _draw_view(
        self, sample: DepthSample, mirror: float, roll: float, share: float, top: float, left: float
    ) -> "_View":
        """The view that five numbers in [0, 1) choose."""
        width, height = sample.image.size
        camera = sample.intrinsics
        has_square_pixels = camera is None or abs(camera.fx / camera.fy - 1) <= 0.01
        angle = self.rotation * (2 * roll - 1) if has_square_pixels else 0.0
        cos, sin = math.cos(math.radians(angle)), abs(math.sin(math.radians(angle)))

        # The largest window that, turned, has its corners inside the photograph. Of the two spare pixels one is for
        # the mean of neighbours, the other for what rounding adds to the window.
        spare = 2 if angle else 0
        largest = min(
            (height - spare) / (height * cos + width * sin),
            (width - spare) / (width * cos + height * sin),
        )
        share = self.min_crop + max(0.0, largest - self.min_crop) * share
        rows, columns = (max(1, round(share * side)) for side in (height, width))
        box_rows = min(height, max(rows, math.ceil(rows * cos + columns * sin) + spare // 2))
        box_columns = min(width, max(columns, math.ceil(columns * cos + rows * sin) + spare // 2))
        return _View(
            top=int(top * (height - box_rows + 1)),
            left=int(left * (width - box_columns + 1)),
            box=(box_rows, box_columns),
            angle=angle,
            window=(rows, columns),
            is_mirrored=mirror < self.flip,
        )

    def _with_other_colours(self, image: Image.Image, mean_colour: tuple[int, int, int], *draws: float) -> Image.Image:
        brightness, contrast, saturation = (1 + 0.2 * self.colour * (2 * draw - 1) for draw in draws[:3])
        hue = 0.02 * self.colour * (2 * draws[3] - 1)
        if draws[4] < self.grayscale:
            saturation = 0.0
        elif self.colour == 0:
            return image
        matrix = colour_matrix(brightness, contrast, saturation, hue, float(_LUMA @ mean_colour))
        return image.convert("RGB", tuple(matrix.flatten().tolist()))


@dataclass(frozen=True)
class _View:
    """A box of the photograph, turned about its centre, cut to a window in its middle, and perhaps mirrored.

    Sizes are (height, width) in pixels; a positive angle, in degrees, turns the picture counterclockwise. The box is
    what the turned window needs: the rest of the photograph is not turned for nothing.
    """

    top: int
    left: int
    box: tuple[int, int]
    angle: float
    window: tuple[int, int]
    is_mirrored: bool

    def of(
        self, picture: Image.Image | tv_tensors.Mask, fill: tuple[int, int, int] | None = None
    ) -> Image.Image | tv_tensors.Mask:
        """The view of an image, interpolated, or of a mask, whose values are picked; `fill` is 0 unless given."""
        picture = F.crop(picture, self.top, self.left, *self.box)
        if self.angle:
            picture = F.rotate(picture, self.angle, interpolation=InterpolationMode.BILINEAR, fill=fill)
        if self.window != self.box:
            picture = F.crop(picture, *self._margins, *self.window)
        return F.horizontal_flip(picture) if self.is_mirrored else picture

    def of_camera(self, camera: Intrinsics) -> Intrinsics:
        """The camera whose photograph this view is; pixel centres are at integers."""
        middle_x, middle_y = (self.box[1] - 1) / 2, (self.box[0] - 1) / 2
        x, y = camera.cx - self.left - middle_x, camera.cy - self.top - middle_y
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        x, y = cos * x + sin * y, cos * y - sin * x  # counterclockwise where y points down
        cx, cy = x + middle_x - self._margins[1], y + middle_y - self._margins[0]
        return replace(camera, cx=self.window[1] - 1 - cx if self.is_mirrored else cx, cy=cy)

    @property
    def _margins(self) -> tuple[int, int]:
        """Of the window in its box: top and left."""
        return (self.box[0] - self.window[0]) // 2, (self.box[1] - self.window[1]) // 2


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float, pivot: float) -> np.ndarray:
    r"""Four changes of colour as one affine map of RGB levels; grey stays grey under all of them.

    $A = b\,c\,S\,H$ with $S = s\,I + (1 - s)\,\mathbf{1} l^T$ for luma weights $l$ and $H$ a turn about the grey axis;
    the offset $b\,(1 - c)\,m$ keeps the pivot $m$ in place under contrast.

    Args:
        brightness, contrast, saturation (`float`): Factors; 1 changes nothing, saturation 0 leaves grey.
        hue (`float`): Share of the circle; 1/3 makes red green, green blue and blue red.
        pivot (`float`): Level that contrast does not change, before brightness.

    Returns:
        `np.ndarray` of shape `(3, 4)`: For levels from 0 to 255; rows are red, green and blue, the last column is the
        offset.
    """
    angle = 2 * math.pi * hue
    around_grey = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) / 3 + math.sin(angle) * around_grey
    mix = saturation * np.eye(3) + (1 - saturation) * _LUMA
    offset = np.full((3, 1), brightness * (1 - contrast) * pivot)
    return np.hstack([brightness * contrast * mix @ turn, offset])


def _check_pair(sample: DepthSample) -> None:
    if sample.image.mode != "RGB":
        raise ValueError(f"`sample` {sample.name!r} has a photograph of mode {sample.image.mode}; convert it to RGB.")
    (width, height), (depth_height, depth_width) = sample.image.size, sample.depth.shape
    if abs(depth_width * height / (depth_height * width) - 1) > 0.02:
        raise ValueError(
            f"`sample` {sample.name!r} has a photograph of {height} x {width} but depth of {depth_height} x "
            f"{depth_width} pixels (height x width); a pair shows the same field of view, so crop one of them first."
        )


def _as_mask(sample: DepthSample) -> tv_tensors.Mask:
    """A copy of the depth, at the photograph's resolution and of shape `(1, height, width)`.

    As a mask, since masks are never interpolated: a mean across an edge is a depth that nobody measured.
    """
    depth = torch.from_numpy(np.array(sample.depth, dtype=np.float32))
    size = sample.image.size[::-1]
    return tv_tensors.Mask((depth if depth.shape == size else nearest_depth(depth, size))[None])


def _with_depth_shown(
    image: Image.Image, depth: np.ndarray, max_depth: float, x: float, y: float, columns: float, rows: float
) -> Image.Image:
    """CutDepth; the four numbers in [0, 1) place the rectangle and then size it within what is left of the picture."""
    left, top = int(x * image.width), int(y * image.height)
    right = left + max(1, int(_CUT_DEPTH_SHARE * columns * (image.width - left)))
    bottom = top + max(1, int(_CUT_DEPTH_SHARE * rows * (image.height - top)))
    rectangle = depth[top:bottom, left:right]
    is_shown = (rectangle > 0) & (rectangle <= max_depth)
    pixels = np.array(image)
    pixels[top:bottom, left:right][is_shown] = np.rint(255 / max_depth * rectangle[is_shown, None])
    return Image.fromarray(pixels)
