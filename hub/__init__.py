"""Folders that can be published on the Hub."""

from .folders import write_model_folder

__all__ = ["write_model_folder"]
