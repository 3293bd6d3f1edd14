"""Files to tensors and back: photographs, prompts and depth maps."""

from .collator import DepthCollator
from .datasets import DepthSample, Intrinsics, RGBDFolder, median_depth
from .depth_files import read_depth, read_depth_png, write_depth_png
from .image_processing_llm_mde import LLMMDEImageProcessor
from .image_processing_pil_llm_mde import LLMMDEImageProcessorPil
from .processing_llm_mde import LLMMDEProcessor
from .prompting_llm_mde import DEPTH_WORDS, ImageStatistics, image_statistics, write_prompt

__all__ = [
    "DEPTH_WORDS",
    "DepthCollator",
    "DepthSample",
    "ImageStatistics",
    "Intrinsics",
    "LLMMDEImageProcessor",
    "LLMMDEImageProcessorPil",
    "LLMMDEProcessor",
    "RGBDFolder",
    "image_statistics",
    "median_depth",
    "read_depth",
    "read_depth_png",
    "write_depth_png",
    "write_prompt",
]
