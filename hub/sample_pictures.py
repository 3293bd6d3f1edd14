"""The picture of a card: a photograph and its depth, as the model that the card belongs to sees it."""

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from transformers.utils import logging

from .space_template import space_template

if TYPE_CHECKING:
    from peft import PeftModel

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

logger = logging.get_logger(__name__)

SAMPLE_PICTURE = "sample.jpg"
SAMPLE_PHOTOGRAPH = "sample_photograph.jpg"
LONGEST_SIDE = 640  # pixels of the photograph that is published
MAX_BYTES = 200_000
NEEDS_MATPLOTLIB = "its colours need matplotlib: pip install matplotlib"


def sample_picture(
    model: "LLMMDEForDepthEstimation | PeftModel", processor: "LLMMDEProcessor", photograph: str | Path | Image.Image
) -> Image.Image:
    """
    A photograph, its depth in colours, and a bar that says which colour is how many metres.

    Args:
        model ([`LLMMDEForDepthEstimation`] or `peft.PeftModel`): The model; set to evaluation and back.
        processor ([`LLMMDEProcessor`]): Its processor.
        photograph (`str`, `Path` or `PIL.Image.Image`): Any size; turned upright by its EXIF orientation.

    Returns:
        `PIL.Image.Image`: The row; without a bar where the model knows depth up to a factor only.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the photograph cannot be read.
    """
    from transformers.modeling_outputs import DepthEstimatorOutput

    from llm_mde.evaluation import predict_depth
    from llm_mde.processing.colours import colourise, depth_limits, side_by_side

    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"A sample picture cannot be drawn: {NEEDS_MATPLOTLIB}.")
    photograph = read_photograph(photograph)
    in_training = [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        outputs = DepthEstimatorOutput(predicted_depth=predict_depth(model, processor, [photograph]))
    finally:
        for module in in_training:  # and none that was frozen in evaluation before
            module.training = True
    (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[photograph.size[::-1]])
    depth = result["predicted_depth"].cpu().numpy()
    near, far = depth_limits(depth)
    is_metric = model.config.depth_estimation_type == "metric"
    title = "depth, made by this model" if is_metric else "relative depth, made by this model"
    panels = [("photograph", photograph), (title, colourise(depth, near, far))]
    return side_by_side(panels, *((near, far) if is_metric else ()), height=300)


def write_sample(
    folder: Path,
    model: "LLMMDEForDepthEstimation | PeftModel",
    processor: "LLMMDEProcessor",
    photograph: str | Path | Image.Image | None,
) -> bool:
    """
    Writes the sample picture and its photograph, both below 200 kB, into the folder of a model.

    Args:
        photograph (`str`, `Path` or `PIL.Image.Image`, *optional*): By default one that came with the package.

    Returns:
        `bool`: Whether there is a picture: none where no photograph is given and the package has none, or matplotlib
        is not installed.
    """
    if photograph is None:
        photograph = example_photograph()
        if photograph is not None and importlib.util.find_spec("matplotlib") is None:
            logger.warning(f"The card has no sample picture: {NEEDS_MATPLOTLIB}.")
            photograph = None
        if photograph is None:
            return False
    photograph = read_photograph(photograph)
    photograph.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    (folder / SAMPLE_PHOTOGRAPH).write_bytes(_small_jpeg(photograph))
    (folder / SAMPLE_PICTURE).write_bytes(_small_jpeg(sample_picture(model, processor, photograph)))
    return True


def example_photograph() -> Path | None:
    """A photograph that anybody may publish: rendered by this project, and installed with its Space."""
    try:
        return next(iter(sorted((space_template() / "examples").glob("*.jpg"))), None)
    except ValueError:  # the package came without it
        return None


def read_photograph(photograph: str | Path | Image.Image) -> Image.Image:
    """
    The photograph upright and in RGB, with nothing else that its file says.

    Raises:
        ValueError: If it is not there, or no picture.
    """
    from transformers.image_utils import load_image

    try:
        image = load_image(photograph if isinstance(photograph, Image.Image) else str(photograph))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`photograph` is {str(photograph)!r}, which cannot be read as a picture; give a JPEG or PNG file."
        ) from error
    upright = Image.new("RGB", image.size)
    upright.paste(image)
    return upright


def _small_jpeg(picture: Image.Image) -> bytes:
    for quality in (90, 75, 60, 45, 30, 15):
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() < MAX_BYTES:
            break
    return buffer.getvalue()


__all__ = ["SAMPLE_PHOTOGRAPH", "SAMPLE_PICTURE", "example_photograph", "sample_picture", "write_sample"]
