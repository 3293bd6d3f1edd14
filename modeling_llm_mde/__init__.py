"""LLM-MDE: metric depth from one photograph, guided by a language model.

Importing the package registers its classes with the Auto classes of Transformers, so that
`AutoModelForDepthEstimation.from_pretrained` needs no `trust_remote_code`.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForDepthEstimation,
    AutoProcessor,
)

from llm_mde.processing import LLMMDEImageProcessor, LLMMDEImageProcessorPil, LLMMDEProcessor

from .configuration_llm_mde import LLMMDEConfig
from .loss_llm_mde import relative_loss, silog_loss
from .modeling_llm_mde import LLMMDEDepthEstimatorOutput, LLMMDEForDepthEstimation, LLMMDEPreTrainedModel
from .pipeline_llm_mde import LLMMDEDepthEstimationPipeline

__version__ = "0.1.0"

# By name: how a class is found once the package is installed.
AutoConfig.register(LLMMDEConfig.model_type, LLMMDEConfig)
AutoModel.register(LLMMDEConfig, LLMMDEForDepthEstimation)
AutoModelForDepthEstimation.register(LLMMDEConfig, LLMMDEForDepthEstimation)
AutoImageProcessor.register(
    LLMMDEConfig, image_processor_classes={"torchvision": LLMMDEImageProcessor, "pil": LLMMDEImageProcessorPil}
)
AutoProcessor.register(LLMMDEConfig, LLMMDEProcessor)

# As code that travels: `save_pretrained` copies the files beside the weights.
LLMMDEConfig.register_for_auto_class()
LLMMDEForDepthEstimation.register_for_auto_class("AutoModelForDepthEstimation")
LLMMDEImageProcessor.register_for_auto_class("AutoImageProcessor")
LLMMDEImageProcessorPil.register_for_auto_class("AutoImageProcessor")
LLMMDEProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "LLMMDEConfig",
    "LLMMDEDepthEstimationPipeline",
    "LLMMDEDepthEstimatorOutput",
    "LLMMDEForDepthEstimation",
    "LLMMDEImageProcessor",
    "LLMMDEImageProcessorPil",
    "LLMMDEPreTrainedModel",
    "LLMMDEProcessor",
    "relative_loss",
    "silog_loss",
]
