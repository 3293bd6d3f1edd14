"""Folders that can be published on the Hub, and models loaded from there."""

from .folders import write_adapter_folder, write_model_folder
from .loading import load_model_and_processor

__all__ = ["load_model_and_processor", "write_adapter_folder", "write_model_folder"]
