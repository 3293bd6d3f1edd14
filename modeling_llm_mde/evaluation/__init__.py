"""Metrics of metric depth, the protocols under which they are measured, and what to compare them with."""

from pathlib import Path

from .alignment import align_depth
from .baselines import MeanDepthMapBaseline, MedianDepthBaseline, fit_baselines
from .boundaries import boundary_f1
from .evaluator import EvaluationResult, evaluate_depth, predict_depth
from .matching import MatchedDepth, match_depth
from .metrics import METRIC_NAMES, DepthMetrics, depth_metrics, measure_depth, metric_names
from .protocols import PROTOCOLS, EvaluationProtocol, get_protocol, protocol_for_model
from .report import EvaluationReport, EvaluationSetting
from .worst_cases import WorstCases

# A folder for `evaluate.load`, which needs no network.
EVALUATE_MODULE = str(Path(__file__).parent / "metric_depth")

__all__ = [
    "EVALUATE_MODULE",
    "METRIC_NAMES",
    "PROTOCOLS",
    "DepthMetrics",
    "EvaluationProtocol",
    "EvaluationReport",
    "EvaluationResult",
    "EvaluationSetting",
    "MatchedDepth",
    "MeanDepthMapBaseline",
    "MedianDepthBaseline",
    "WorstCases",
    "align_depth",
    "boundary_f1",
    "depth_metrics",
    "evaluate_depth",
    "fit_baselines",
    "get_protocol",
    "match_depth",
    "measure_depth",
    "metric_names",
    "predict_depth",
    "protocol_for_model",
]
