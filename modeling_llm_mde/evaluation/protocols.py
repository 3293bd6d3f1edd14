"""Named protocols: what is compared with what, so that a number carries its conditions with it."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

CROPS = ("nyu-eigen", "garg", "eigen")
ALIGNMENTS = ("none", "median", "scale-shift-depth", "scale-shift-disparity", "min-max")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")

# First and last share of the height, then of the width.
_SHARES = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
}


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a predicted map is compared with a measured one. In this order: the prediction is resized to the measured
    map (never the other way round), pixels are chosen, the prediction is aligned to them, and clamped.

    Attributes:
        name (`str`): What a table calls it.
        min_depth (`float`): Metres; only pixels measured strictly farther count.
        max_depth (`float`): Metres; only pixels measured strictly nearer count (`math.inf` for no cap).
        crop (`str`, *optional*): Window outside of which no pixel counts: `"nyu-eigen"` (480 x 640 only), `"garg"` or
            `"eigen"` (KITTI, shares of height and width).
        alignment (`str`): What the prediction is forgiven, image by image: see [`align_depth`]. `"min-max"` stretches
            both maps to 0 ... 1 and leaves delta1-3 as the only metrics.
        interpolation (`str`): `"bilinear"`, `"bicubic"` or `"nearest"`.
        align_corners (`bool`): Whether interpolation maps corner pixels to corner pixels instead of sides to sides.
        clamp (`bool`): Whether the prediction is clamped to `min_depth` ... `max_depth` before it is measured, as
            ZoeDepth does; NaN then becomes `min_depth`. Without it a prediction that is not positive and finite is
            refused.
        flip_averaging (`bool`): Whether the prediction is the mean of those for the photograph and its mirror image.
        comparable (`bool`): Whether the numbers may stand beside those of papers.
        description (`str`): Where it comes from.

    Raises:
        ValueError: If a field has an unknown value or two of them contradict each other.
    """

    name: str
    min_depth: float = 1e-3
    max_depth: float = 10.0
    crop: str | None = None
    alignment: str = "none"
    interpolation: str = "bilinear"
    align_corners: bool = False
    clamp: bool = False
    flip_averaging: bool = False
    comparable: bool = True
    description: str = ""

    def __post_init__(self):
        if not 0 <= self.min_depth < self.max_depth:
            raise ValueError(
                f"`min_depth` is {self.min_depth} and `max_depth` {self.max_depth}; pass 0 <= min_depth < max_depth."
            )
        for field, known in (
            ("crop", (None, *CROPS)),
            ("alignment", ALIGNMENTS),
            ("interpolation", INTERPOLATIONS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"`{field}` is {getattr(self, field)!r}; choose one of {', '.join(map(str, known))}.")
        if self.align_corners and self.interpolation == "nearest":
            raise ValueError("`align_corners` is True with `interpolation='nearest'`, which has no corners to align.")
        if self.clamp and (self.min_depth == 0 or self.alignment == "min-max"):
            raise ValueError(
                f"`clamp` is True with `min_depth={self.min_depth:g}` and `alignment={self.alignment!r}`; clamping "
                "needs a positive `min_depth` and maps in metres."
            )
        if self.alignment == "min-max" and self.comparable:
            raise ValueError(
                "`alignment` is 'min-max', which compares with nothing published in metres; use the protocol "
                "'authors-minmax', or set `comparable=False`."
            )
        if self.alignment.startswith("scale-shift") and not self.clamp:
            raise ValueError(
                f"`alignment` is {self.alignment!r}, which can shift depth below zero; set `clamp=True`, as its "
                "references do."
            )

    def summary(self) -> dict[str, str]:
        """The conditions in words, for a table's foot and a model card."""
        cap = f"{self.min_depth:g} to {self.max_depth:g} m, limits excluded"
        if self.max_depth == math.inf:
            cap = f"beyond {self.min_depth:g} m, no cap"
        corners = "" if self.interpolation == "nearest" else f", align_corners={self.align_corners}"
        return {
            "protocol": self.name if self.comparable else f"{self.name}: NOT COMPARABLE with published numbers",
            "measured depth": cap,
            "crop": self.crop or "none",
            "alignment": self.alignment,
            "prediction": ("clamped to the range" if self.clamp else "not clamped")
            + f"; {self.interpolation}{corners} to the size of the measured map",
            "flip averaging": "on" if self.flip_averaging else "off",
            "average": "per image, then over images",
        }

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it: no cap is `None`."""
        return asdict(self) | {"max_depth": None if self.max_depth == math.inf else self.max_depth}


def crop_window(crop: str | None, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that a crop keeps of a map; shares are cut down to whole pixels, as in the references.

    Raises:
        ValueError: If the crop is made for another size.
    """
    if crop is None:
        return slice(0, height), slice(0, width)
    if crop == "nyu-eigen":
        if (height, width) != (480, 640):
            raise ValueError(
                f"`crop` is 'nyu-eigen', which is defined on maps of 480 x 640, but `labels` is {height} x {width}; "
                "evaluate at the size of the data set, or pass `crop=None` and say so beside the numbers."
            )
        return slice(45, 471), slice(41, 601)
    top, bottom, left, right = _SHARES[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))


_INDOOR = dict(max_depth=10.0, crop="nyu-eigen", align_corners=True, clamp=True)
_DRIVING = dict(max_depth=80.0, align_corners=True, clamp=True)

PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol(
            "plain",
            description="Every measured pixel up to 10 m, prediction as it is; set `max_depth` for other data.",
        ),
        EvaluationProtocol(
            "nyu-eigen",
            **_INDOOR,
            description="NYU Depth v2 as BTS, AdaBins and ZoeDepth measure it: the official 654 test images, Eigen "
            "crop, 10 m. They measure against `rawDepths`, in which holes are missing, on photographs with a black "
            "border: what the split 'test' of the labelled file gives. Its dense `depths` (any other split) have "
            "their holes filled, and numbers on them are others. ZoeDepth also averages with the mirrored photograph: "
            "`flip_averaging=True`.",
        ),
        EvaluationProtocol(
            "kitti-garg",
            **_DRIVING,
            crop="garg",
            description="KITTI with the crop of Garg et al. (2016), 80 m, annotated depth maps. The benchmark crop to "
            "352 x 1216, where a paper uses it, is done before (`kb_crop=True` of `load_depth_dataset`).",
        ),
        EvaluationProtocol(
            "kitti-eigen",
            **_DRIVING,
            crop="eigen",
            description="KITTI with the crop of Eigen et al. (2014), 80 m; otherwise as kitti-garg.",
        ),
        EvaluationProtocol(
            "affine",
            alignment="scale-shift-depth",
            clamp=True,
            description="Affine-invariant depth: scale and shift fitted to each image's truth by least squares in "
            "depth, as Marigold. Never in one column with metric numbers.",
        ),
        EvaluationProtocol(
            "authors-minmax",
            min_depth=0.0,
            max_depth=math.inf,
            alignment="min-max",
            comparable=False,
            description="What the release of the LLM-MDE paper computes: both maps are stretched to 0 ... 1 image by "
            "image, with a floor of 0.001. Errors of scale and shift vanish and noise grows.",
        ),
    )
}


def get_protocol(protocol: str | EvaluationProtocol, **overrides: Any) -> EvaluationProtocol:
    """A protocol by name, with fields replaced; what differs becomes part of its name, as of its numbers.

    ```python
    >>> from llm_mde.evaluation import get_protocol

    >>> get_protocol("plain", max_depth=80.0).name
    'plain (max_depth=80.0)'
    ```

    Args:
        protocol (`str` or [`EvaluationProtocol`]): A name in `PROTOCOLS`, or a protocol.
        overrides: Fields of [`EvaluationProtocol`].

    Raises:
        ValueError: If the name or a field is unknown, or a value does not fit.
    """
    if not isinstance(protocol, EvaluationProtocol):
        if protocol not in PROTOCOLS:
            raise ValueError(f"`protocol` is {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
        protocol = PROTOCOLS[protocol]
    known = [field.name for field in fields(EvaluationProtocol)]
    for name in overrides:
        if name not in known:
            raise ValueError(f"a protocol has no field `{name}`; it has {', '.join(known)}.")
    changed = {name: value for name, value in overrides.items() if value != getattr(protocol, name)}
    if changed and "name" not in changed:
        listing = ", ".join(f"{name}={value}" for name, value in changed.items())
        changed["name"] = f"{protocol.name} ({listing})"
    return replace(protocol, **changed)


def protocol_for_model(
    config: Any, protocol: str | EvaluationProtocol = "plain", max_depth: float | None = None
) -> EvaluationProtocol:
    """A protocol as it fits a model: `plain` as far as the model can say, and relative depth with its median aligned.

    Args:
        config ([`LLMMDEConfig`]): The model's.
        protocol (`str` or [`EvaluationProtocol`], *optional*, defaults to `"plain"`): As [`get_protocol`] takes it.
        max_depth (`float`, *optional*): Metres; replaces the protocol's, and for `plain` the model's.

    Raises:
        ValueError: For the reasons of [`get_protocol`].
    """
    overrides: dict[str, Any] = {} if max_depth is None else {"max_depth": max_depth}
    if protocol == "plain":
        overrides = {"max_depth": config.max_depth} | overrides
    if config.depth_estimation_type == "relative" and get_protocol(protocol).alignment == "none":
        overrides |= {"alignment": "median", "clamp": True}
    return get_protocol(protocol, **overrides)


__all__ = [
    "ALIGNMENTS",
    "CROPS",
    "INTERPOLATIONS",
    "PROTOCOLS",
    "EvaluationProtocol",
    "crop_window",
    "get_protocol",
    "protocol_for_model",
]
