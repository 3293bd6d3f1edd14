"""The images a model gets most wrong, as a picture: where to look first."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from llm_mde.processing import DepthSample
from llm_mde.processing.colours import colourise, depth_limits, side_by_side, stack_rows

from .matching import MatchedDepth
from .processes import gather_in_order

ERROR_LIMIT = 0.5  # relative error of the brightest colour, the same for all images of a sheet


@dataclass(frozen=True)
class _Case:
    row: dict[str, Any]
    image: Image.Image
    predicted: np.ndarray
    measured: np.ndarray

    @property
    def badness(self) -> tuple[float, int]:
        """Larger is worse; among equals the first image of the dataset comes first."""
        return self.row.get("abs_rel", 1 - self.row["delta1"]), -self.row["index"]


class WorstCases:
    """Keeps the `num_cases` worst images of an evaluation and draws them: pass it as `on_image`.

    Worst is the largest `abs_rel`, or the smallest `delta1` where a protocol has no other metric. Only the kept images
    are in memory.

    Args:
        num_cases (`int`, *optional*, defaults to 8): How many to keep.

    Raises:
        ValueError: If `num_cases` is not positive.
    """

    def __init__(self, num_cases: int = 8):
        if num_cases < 1:
            raise ValueError(f"`num_cases` is {num_cases}; keep at least one.")
        self.num_cases = num_cases
        self._cases: list[_Case] = []

    def __call__(self, sample: DepthSample, matched: MatchedDepth, row: dict[str, Any]) -> None:
        """Look at one image that was measured."""
        if row["num_pixels"] == 0:
            return
        predicted = matched.predicted[0].cpu().numpy()
        measured = np.where(matched.valid[0].cpu().numpy(), matched.measured[0].cpu().numpy(), 0)
        case = _Case(row, sample.image, predicted.astype(np.float32), measured.astype(np.float32))
        self._keep([*self._cases, case])

    def gather(self) -> None:
        """Join the cases of all processes; all of them have to call."""
        self._keep([case for cases in gather_in_order(self._cases) for case in cases])

    @property
    def names(self) -> list[str]:
        """The kept images, worst first."""
        return [case.row["name"] for case in self._cases]

    def sheet(self, height: int = 180) -> Image.Image:
        """One row for each image, worst first: photograph, prediction and measured depth in common colours, error.

        Prediction and measured depth are shown as they were compared, after alignment, at the size of the measured
        map and with grey where no pixel counted. The error is relative and brightest from 50 %.

        Args:
            height (`int`, *optional*, defaults to 180): Of each picture, in pixels.

        Raises:
            ValueError: If no image was kept.
        """
        if not self._cases:
            raise ValueError("no image was kept; pass this object as `on_image` to `evaluate_depth` first.")
        return stack_rows([_draw(place, case, height) for place, case in enumerate(self._cases, start=1)])

    def _keep(self, cases: list[_Case]) -> None:
        self._cases = sorted(cases, key=lambda case: case.badness, reverse=True)[: self.num_cases]


def _draw(place: int, case: _Case, height: int) -> Image.Image:
    near, far = depth_limits(case.measured, np.where(case.measured > 0, case.predicted, 0))
    is_valid = case.measured > 0
    error = np.abs(case.predicted - case.measured) / np.where(is_valid, case.measured, 1)
    error = np.where(is_valid, np.maximum(error, 1e-6), 0)  # 0 would be drawn as missing
    metric = "abs_rel" if "abs_rel" in case.row else "delta1"
    panels = [
        (f"{place}. {case.row['name'][-24:]}", case.image),
        ("prediction", colourise(case.predicted, near, far)),
        ("measured", colourise(case.measured, near, far)),
        (
            f"error 0-{ERROR_LIMIT:.0%}, {metric} {case.row[metric]:.2f}",
            colourise(error, 0.0, ERROR_LIMIT, cmap="inferno"),
        ),
    ]
    is_metric = "abs_rel" in case.row  # maps stretched to 0 ... 1 have no bar in metres
    return side_by_side(panels, near, far, height=height) if is_metric else side_by_side(panels, height=height)


__all__ = ["WorstCases"]
