"""Folders that can be published on the Hub, how they get there, and models loaded from there."""

from .cards import CardFacts
from .folders import write_adapter_folder, write_model_folder
from .loading import load_model_and_processor
from .publishing import push
from .space import write_space_folder

__all__ = [
    "CardFacts",
    "load_model_and_processor",
    "push",
    "write_adapter_folder",
    "write_model_folder",
    "write_space_folder",
]
