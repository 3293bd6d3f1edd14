"""Training: adapters, learning rates, callbacks and recipes around the stock `Trainer`."""

from .adapters import (
    LORA_PRESETS,
    adapted_modules,
    add_lora,
    count_parameters,
    format_parameter_table,
    lora_config,
    prepare_for_training,
)
from .arguments import DepthTrainingArguments, parameter_groups
from .callbacks import MetresCallback, PanelCallback, RelativeErrorCallback, learning_curve
from .diagnostics import DiagnosticsCallback, measure_health
from .encoders import compose_from_encoders
from .frames import AugmentedFrames, AugmentedStream, EpochCallback, FramesInMemory
from .small_model import compose_small_model
from .trainer import DepthTrainer, StreamingDepthMetrics, last_complete_checkpoint

__all__ = [
    "LORA_PRESETS",
    "AugmentedFrames",
    "AugmentedStream",
    "DepthTrainer",
    "DepthTrainingArguments",
    "DiagnosticsCallback",
    "EpochCallback",
    "FramesInMemory",
    "MetresCallback",
    "PanelCallback",
    "RelativeErrorCallback",
    "StreamingDepthMetrics",
    "adapted_modules",
    "add_lora",
    "compose_from_encoders",
    "compose_small_model",
    "count_parameters",
    "format_parameter_table",
    "last_complete_checkpoint",
    "learning_curve",
    "lora_config",
    "measure_health",
    "parameter_groups",
    "prepare_for_training",
]
