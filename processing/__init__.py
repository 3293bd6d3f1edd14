"""Files to tensors and back: photographs, prompts and depth maps."""

from .augmentation import DepthAugmentation
from .collator import DepthCollator
from .datasets import DepthSample, Intrinsics, RGBDFolder, load_depth_dataset, median_depth
from .depth_datasets import DepthDataset, StreamingDepthDataset
from .depth_files import read_depth, read_depth_png, write_depth_png
from .depth_units import DepthReport, check_units, depth_report
from .image_processing_llm_mde import LLMMDEImageProcessor
from .image_processing_pil_llm_mde import LLMMDEImageProcessorPil
from .processing_llm_mde import LLMMDEProcessor
from .prompting_llm_mde import DEPTH_WORDS, ImageStatistics, image_statistics, write_prompt

__all__ = [
    "DEPTH_WORDS",
    "DepthAugmentation",
    "DepthCollator",
    "DepthDataset",
    "DepthReport",
    "DepthSample",
    "ImageStatistics",
    "Intrinsics",
    "LLMMDEImageProcessor",
    "LLMMDEImageProcessorPil",
    "LLMMDEProcessor",
    "RGBDFolder",
    "StreamingDepthDataset",
    "check_units",
    "depth_report",
    "image_statistics",
    "load_depth_dataset",
    "median_depth",
    "read_depth",
    "read_depth_png",
    "write_depth_png",
    "write_prompt",
]
