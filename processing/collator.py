"""From samples to a batch."""

from collections.abc import Sequence

from transformers import BatchFeature

from .depth_samples import DepthSample
from .worker_processes import end_with_parent


class DepthCollator:
    """Turn a list of [`DepthSample`] into `pixel_values`, `input_ids`, `attention_mask` and `labels`.

    Everything about sizes, prompts and missing pixels is the processor's:
    `processor(images=[...], depth_maps=[...], return_tensors="pt")`. Augmented samples come augmented to it, so that a
    prompt states the statistics of what the model sees, measured as in inference. A Trainer has one collator for
    training and evaluation; that is why augmentation is not its task but that of `AugmentedFrames`.

    Args:
        processor (`Callable`): An `LLMMDEProcessor`, or anything with its signature.
    """

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples: Sequence[DepthSample]) -> BatchFeature:
        """Collate.

        Raises:
            ValueError: If the list is empty or holds something else than samples.
        """
        end_with_parent()
        if not samples:
            raise ValueError("`samples` is empty; pass at least one `DepthSample`.")
        strangers = [type(sample).__name__ for sample in samples if not isinstance(sample, DepthSample)]
        if strangers:
            raise ValueError(f"`samples` holds {strangers[0]}; pass `DepthSample`s, as `RGBDFolder` returns them.")
        # Depth is in metres, whatever maps the processor was set up for.
        has_scale = getattr(getattr(self.processor, "image_processor", None), "depth_scale", None) is not None
        return self.processor(
            images=[sample.image for sample in samples],
            depth_maps=[sample.depth for sample in samples],
            return_tensors="pt",
            **({"depth_scale": 1.0} if has_scale else {}),
        )
