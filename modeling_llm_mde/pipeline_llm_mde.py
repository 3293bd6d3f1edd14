"""`pipeline("depth-estimation")` for LLM-MDE: photograph in, prompt written, metres out."""

import numpy as np
import torch
from PIL import Image
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.pipelines.depth_estimation import DepthEstimationPipeline

_OF_PROMPTS = ("text", "prompt", "camera")
_OPTIONS = (*_OF_PROMPTS, "timeout")


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
            inputs (`str`, `PIL.Image`, array or a list of them): Paths, URLs, base64 or images, of any size and mixed
                sizes, read as the image processor reads them: 16 bits stay, transparent pixels are laid over white.
            text (`str`, *optional*): What kind of scene to expect, instead of the processor's dataset sentence.
            prompt (`str`, *optional*): A complete prompt, instead of the one written for each image.
            camera (`str`, *optional*): A sentence about the camera, for models that were trained with such.
            timeout (`float`, *optional*): Seconds to wait for an image from the web.

        Returns:
            `dict` or `list[dict]`: For each image `predicted_depth` (`torch.Tensor` of shape `(height, width)`,
            float32 metres), `depth` (`PIL.Image`, 8 bits, stretched between the nearest and the farthest point) and
            `prompt` (`str`, or `None` for models that read none).

        Raises:
            ValueError: If an image cannot be read, naming `images` and the image, or an option is unknown, or about
                prompts for a model that reads none.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, parameters=None, **kwargs):
        given = {name: value for name, value in {**kwargs, **(parameters or {})}.items() if value is not None}
        unknown = sorted(given.keys() - set(_OPTIONS))
        if unknown:
            raise ValueError(f"`{unknown[0]}` is no option of this pipeline; it has {', '.join(_OPTIONS)}.")
        about_prompts = [name for name in _OF_PROMPTS if name in given]
        if about_prompts and not self.model.config.use_prompt:
            raise ValueError(
                f"`{about_prompts[0]}` is {given[about_prompts[0]]!r}, but this model reads no prompt; leave it out."
            )
        return given, {}, {}

    def preprocess(self, image, timeout=None, text=None, prompt=None, camera=None):
        image = self.processor.image_processor.fetch_images(image, timeout)
        options = {"return_prompt": True, "return_original_sizes": True, "return_tensors": "pt"}
        inputs = self.processor(images=image, text=text, prompt=prompt, camera=camera, **options).to(self.dtype)
        if len(inputs["original_sizes"]) != 1:
            raise ValueError(
                f"`images` contains an array of {len(inputs['original_sizes'])} images; pass them as a list."
            )
        return inputs

    def _forward(self, model_inputs):
        sizes, prompt = model_inputs.pop("original_sizes"), model_inputs.pop("prompt")
        predicted_depth = self.model(**model_inputs).predicted_depth
        return {"predicted_depth": predicted_depth, "original_sizes": sizes, "prompt": prompt}

    def postprocess(self, model_outputs):
        (result,) = self.processor.post_process_depth_estimation(
            DepthEstimatorOutput(predicted_depth=model_outputs["predicted_depth"]),
            target_sizes=model_outputs["original_sizes"],
        )
        predicted_depth = result["predicted_depth"].cpu()
        return {
            "predicted_depth": predicted_depth,
            "depth": _as_picture(predicted_depth),
            "prompt": model_outputs["prompt"][0] if self.model.config.use_prompt else None,
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
    is_defined = depth.isfinite()  # half precision may overflow, which the metres say and the picture leaves black
    if not is_defined.any():
        return Image.new("L", depth.shape[::-1])
    nearest, farthest = depth[is_defined].aminmax()
    spread = (farthest - nearest).clamp_min(torch.finfo(depth.dtype).tiny)  # a constant map becomes black
    levels = torch.where(is_defined, (depth - nearest) / spread * 255, 0)
    return Image.fromarray(levels.round().numpy().astype(np.uint8))


__all__ = ["LLMMDEDepthEstimationPipeline"]
