"""Metrics of metric depth for the library `evaluate`: the numbers of `llm_mde.evaluation.DepthMetrics`."""

import datasets
import evaluate
import numpy
import torch

from llm_mde.evaluation import DepthMetrics

_DESCRIPTION = """
Depth in metres against measured depth, per image and then averaged over images: abs_rel, sq_rel, rmse, rmse_log,
log10, silog, delta1, delta2, delta3 and, on request, boundary_f1. Images are measured when they are added and not
stored, so that memory does not grow with them.
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: Maps (height, width) in metres: an array (num_images, height, width), or a list of maps of any size.
    references: Measured maps in metres, as many; 0 and non-finite values mark a missing measurement.
Returns:
    dict: The mean of each metric, and num_images and num_skipped_images (those without a valid pixel).
"""

_CITATION = """
@inproceedings{eigen2014depth,
  title     = {Depth Map Prediction from a Single Image using a Multi-Scale Deep Network},
  author    = {Eigen, David and Puhrsch, Christian and Fergus, Rob},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2014}
}
"""


class MetricDepth(evaluate.Metric):
    """`evaluate.load(EVALUATE_MODULE, "nyu-eigen")`; the configuration is the name of a protocol, by default `plain`.

    The base class would write every map to an Arrow table of nested lists (gigabytes for a hundred maps); this one
    keeps the running sums of [`llm_mde.evaluation.DepthMetrics`].

    Args:
        config_name (`str`, *optional*): Name of a protocol.
        min_depth (`float`, *optional*): Replaces the protocol's.
        max_depth (`float`, *optional*): Replaces the protocol's.
        with_boundaries (`bool`, *optional*, defaults to `False`): Whether to measure `boundary_f1`.
        kwargs: As for every module of `evaluate`.

    Raises:
        ValueError: If the protocol is unknown, or `num_process` is not 1.
    """

    def __init__(self, config_name=None, min_depth=None, max_depth=None, with_boundaries=False, **kwargs):
        if kwargs.get("num_process", 1) != 1:
            raise ValueError(
                f"`num_process` is {kwargs['num_process']}; leave it at 1: where torch.distributed runs, `compute` "
                "adds the sums of all processes."
            )
        protocol = "plain" if config_name in (None, "default") else config_name
        self.num_added = 0
        self.metrics = DepthMetrics(min_depth, max_depth, protocol=protocol, with_boundaries=with_boundaries)
        super().__init__(config_name=config_name, **kwargs)

    def _info(self):
        depth_map = datasets.Array2D(shape=(None, None), dtype="float32")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": depth_map, "references": depth_map}),
        )

    def __len__(self):
        """How many images have been added since the last `compute`."""
        return self.num_added  # the base class counts rows of a table

    def add(self, *, prediction=None, reference=None):
        """Measure one image."""
        self.metrics.update(_as_map(prediction, "prediction"), _as_map(reference, "reference"))
        self.num_added += 1

    def add_batch(self, *, predictions=None, references=None):
        """Measure images."""
        if predictions is None or references is None or len(predictions) != len(references):
            raise ValueError("`predictions` and `references` must be as many maps; pass both, one pair an image.")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions=None, references=None):
        """Measure images, where given, and return the means over all since the last call."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        result = self.metrics.compute()
        self.metrics.reset()
        self.num_added = 0
        return result


def _as_map(depth, name):
    depth = depth.detach() if isinstance(depth, torch.Tensor) else torch.from_numpy(numpy.array(depth))
    if depth.ndim != 2:
        raise ValueError(f"`{name}` has shape {tuple(depth.shape)}; pass a map (height, width) for each image.")
    return depth
