"""Metrics of metric depth."""

from .metrics import METRIC_NAMES, DepthMetrics, depth_metrics

__all__ = ["METRIC_NAMES", "DepthMetrics", "depth_metrics"]
