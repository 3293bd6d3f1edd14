"""Models as files for machines without PyTorch, or without this package: ONNX, OpenVINO, `torch.export`."""

from .exported import ExportedModel
from .folder import export_model
from .formats import FORMATS

__all__ = ["FORMATS", "ExportedModel", "export_model"]
