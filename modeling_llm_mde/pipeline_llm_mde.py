"""`pipeline("depth-estimation")` for LLM-MDE: photograph in, prompt written, metres out."""

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.pipelines.depth_estimation import DepthEstimationPipeline


class LLMMDEDepthEstimationPipeline(DepthEstimationPipeline):
    """
    Depth estimation with a prompt for each image. The stock pipeline loads only an image processor, so the model would
    fall back to its default prompt; this one loads the whole processor, and of an adapter its own. It travels with the
    weights, so that `pipeline("depth-estimation", model=repo, trust_remote_code=True)` finds it.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> estimate = pipeline("depth-estimation", model="user/llm-mde-nyu", trust_remote_code=True)
    >>> output = estimate("room.jpg")
    >>> output["predicted_depth"]  # torch.Tensor (height, width), metres, at the size of the photograph
    >>> output["depth"]  # PIL.Image, the same as a picture: black is the nearest point, white the farthest
    >>> output["prompt"]  # str, what the language model was told about the photograph
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        if "processor" in kwargs:
            kwargs["processor"] = _processor_of(model, kwargs["processor"])
        super().__init__(model, *args, **kwargs)

    def __call__(self, inputs, **kwargs) -> dict | list[dict]:
        """
        Args:
            inputs (`str`, `PIL.Image` or a list of them): Paths, URLs or images, of any size and mixed sizes.
            text (`str`, *optional*): What kind of scene to expect, instead of the processor's dataset sentence.
            prompt (`str`, *optional*): A complete prompt, instead of the one written for each image.
            timeout (`float`, *optional*): Seconds to wait for an image from the web.

        Returns:
            `dict` or `list[dict]`: For each image `predicted_depth` (`torch.Tensor` of shape `(height, width)`,
            float32 metres), `depth` (`PIL.Image`, 8 bits, stretched between the nearest and the farthest point) and
            `prompt` (`str`).
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, timeout=None, text=None, prompt=None, parameters=None, **kwargs):
        given = {"timeout": timeout, "text": text, "prompt": prompt, **(parameters or {})}
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def preprocess(self, image, timeout=None, text=None, prompt=None):
        image = load_image(image, timeout)
        model_inputs = self.processor(images=image, text=text, prompt=prompt, return_prompt=True, return_tensors="pt")
        model_inputs = model_inputs.to(self.dtype)
        model_inputs["target_size"] = image.size[::-1]
        return model_inputs

    def _forward(self, model_inputs):
        target_size, prompt = model_inputs.pop("target_size"), model_inputs.pop("prompt")
        predicted_depth = self.model(**model_inputs).predicted_depth
        return {"predicted_depth": predicted_depth, "target_size": target_size, "prompt": prompt}

    def postprocess(self, model_outputs):
        (result,) = self.processor.post_process_depth_estimation(
            DepthEstimatorOutput(predicted_depth=model_outputs["predicted_depth"]),
            target_sizes=[model_outputs["target_size"]],
        )
        predicted_depth = result["predicted_depth"].cpu()
        return {
            "predicted_depth": predicted_depth,
            "depth": _as_picture(predicted_depth),
            "prompt": model_outputs["prompt"][0],
        }


def _processor_of(model, processor):
    """The processor beside the adapter that the model was loaded by, where `pipeline` loaded that of its base.

    It is read with the classes of the base's processor, so that no code of the adapter's repository is run.
    """
    adapter, options = getattr(model, "adapter_source", (None, {}))
    if adapter is None:
        return processor

    def load(name, **options):
        fields, _ = processor.get_processor_dict(name, **options)
        parts = (processor.image_processor, processor.tokenizer)
        return type(processor).from_args_and_dict(
            [type(part).from_pretrained(name, **options) for part in parts], fields
        )

    of_base = {name: value for name, value in options.items() if name not in ("revision", "subfolder")}
    try:
        own, given_by_base = load(adapter, **options), load(model.name_or_path, **of_base)
    except OSError:  # the adapter brings none, or its base has none that `pipeline` could have loaded
        return processor
    # Another one than the base's has been chosen by the caller, and stays.
    return own if processor.to_dict() == given_by_base.to_dict() else processor


def _as_picture(depth: torch.Tensor) -> Image.Image:
    nearest, farthest = depth.aminmax()
    spread = (farthest - nearest).clamp_min(torch.finfo(depth.dtype).tiny)  # a constant map becomes black
    return Image.fromarray(((depth - nearest) / spread * 255).round().numpy().astype(np.uint8))


__all__ = ["LLMMDEDepthEstimationPipeline"]
