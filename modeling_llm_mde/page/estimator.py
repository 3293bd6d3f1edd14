"""One photograph at a time, as a page that people have open asks for it: depth, other prompts, and what was read."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import cached_file

from llm_mde.adapters_llm_mde import ADAPTER_CONFIG_NAME
from llm_mde.modeling_llm_mde import LLMMDEDepthEstimatorOutput
from llm_mde.processing.photographs import Camera
from llm_mde.prototype_reading import PrototypeReader, PrototypeShare, patch_of_pixel

from .uploads import Refusal, Upload

if TYPE_CHECKING:
    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

MAX_PROMPT_CHARACTERS = 2000
PICTURE_SIDE = 1024  # the longer side of what is shown, in pixels


@dataclass(frozen=True, eq=False)  # by identity, which has a hash: by it Gradio sees that a new one is there
class DepthEstimate:
    """What the model made of one photograph, small enough to be kept for everyone who has the page open.

    Attributes:
        picture (`np.ndarray` of shape `(height, width, 3)`): The photograph, uint8, no side above `PICTURE_SIDE`.
        size (`tuple[int, int]`): Height and width of the upright photograph itself.
        camera (`Camera`, *optional*): The one that its EXIF states, in pixels of that size.
        adapter (`str`, *optional*): The adapter it was looked at with; `None` for the base alone.
        pixel_values (`torch.Tensor` of shape `(1, 3, rows, columns)`): The photograph as the model reads it.
        prompt (`str`): What the language model was told.
        num_tokens (`int`): How long the prompt is; more than the processor's `max_prompt_length` were not read.
        model_depth (`torch.Tensor` of shape `(rows, columns)`): Depth in metres, at the size that the model reads.
        attentions (`torch.Tensor` of shape `(num_heads, num_patches, num_prototypes)`): What each patch read.
        milliseconds (`float`): How long the model took.
    """

    picture: np.ndarray
    size: tuple[int, int]
    camera: Camera | None
    adapter: str | None
    pixel_values: Tensor
    prompt: str
    num_tokens: int
    model_depth: Tensor
    attentions: Tensor
    milliseconds: float


@dataclass(frozen=True)
class PromptComparison:
    """Depth of one photograph with one of several prompts.

    Attributes:
        name (`str`): Which prompt.
        depth (`np.ndarray` of shape `(height, width)`): Depth in metres, at the size of `estimate.picture`.
        metres (`float`): Mean absolute difference from the first prompt's depth.
        percent (`float`): The same as a share of the first prompt's depth, averaged over the pixels.
    """

    name: str
    depth: np.ndarray
    metres: float
    percent: float


class DepthEstimator:
    """
    A model that several people use at once, each with the adapter and the prompt of their choice.

    Args:
        model ([`LLMMDEForDepthEstimation`]): In evaluation mode, on the device where it is to run, with its adapters.
        processors (`Mapping[str | None, LLMMDEProcessor]`): The base's under `None`, and that of every adapter.
        words (`Mapping[str | None, list]`): Under the same names, for each prototype the words it is made of.
        on_accelerator (`Callable`, *optional*): Takes the function that runs the model and returns one that may be
            called instead, such as `spaces.GPU`. It is called under the lock, with and for tensors on the CPU.
    """

    def __init__(
        self,
        model: "LLMMDEForDepthEstimation",
        processors: "Mapping[str | None, LLMMDEProcessor]",
        words: Mapping[str | None, list[list[tuple[str, float]]]],
        on_accelerator: Callable[[Callable], Callable] | None = None,
    ):
        self.model = model
        self.processors = processors
        self.words = words
        self._lock = threading.Lock()
        self._look = self._run_model if on_accelerator is None else on_accelerator(self._run_model)

    @property
    def adapters(self) -> list[str]:
        return [name for name in self.processors if name is not None]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def estimate(self, upload: Upload, prompt: str | None = None, adapter: str | None = None) -> DepthEstimate:
        """
        Estimates the depth of a photograph.

        Args:
            upload ([`Upload`]): The photograph.
            prompt (`str`, *optional*): What to tell the language model; by default the processor writes it.
            adapter (`str`, *optional*): One of `adapters`; by default the base alone.

        Raises:
            Refusal: If there is no such adapter, or the prompt is blank or too long.
        """
        if adapter not in self.processors:
            raise Refusal(f"There is no adapter {adapter!r} here; choose {', '.join(self.adapters) or 'none'}.")
        if prompt is not None:
            _check_prompt(prompt)
        processor = self.processors[adapter]
        inputs = processor(
            images=upload.levels,
            prompt=prompt,
            input_data_format="channels_last",
            return_prompt=True,
            return_tensors="pt",
        )
        (prompt,) = inputs.pop("prompt")
        ((depth, attentions, milliseconds),) = self._locked_look(adapter, [dict(inputs)])
        return DepthEstimate(
            picture=shrunk(upload.levels, PICTURE_SIDE),
            size=upload.levels.shape[:2],
            camera=upload.camera,
            adapter=adapter,
            pixel_values=inputs["pixel_values"],
            prompt=prompt,
            num_tokens=_count_tokens(processor, prompt),
            model_depth=depth,
            attentions=attentions,
            milliseconds=milliseconds,
        )

    def with_prompt(self, estimate: DepthEstimate, prompt: str) -> DepthEstimate:
        """The same photograph with another prompt; raises a `Refusal` if it is blank or too long."""
        _check_prompt(prompt)
        processor = self.processors[estimate.adapter]
        inputs = dict(processor(prompt=prompt, return_tensors="pt"), pixel_values=estimate.pixel_values)
        ((depth, attentions, milliseconds),) = self._locked_look(estimate.adapter, [inputs])
        return replace(
            estimate,
            prompt=prompt,
            num_tokens=_count_tokens(processor, prompt),
            model_depth=depth,
            attentions=attentions,
            milliseconds=milliseconds,
        )

    def compare_prompts(self, estimate: DepthEstimate) -> list[PromptComparison]:
        """
        The depth with the estimate's prompt, with the one that the model has for all photographs, and with none.

        No prompt means the special tokens that the tokenizer puts around every text, and nothing between them; with a
        tokenizer that has none, the language model reads the patches alone.

        Raises:
            Refusal: If the model reads no prompts.
        """
        if not self.model.config.use_prompt:
            raise Refusal("This model reads no prompt, so there is nothing to compare.")
        tokenizer = self.processors[estimate.adapter].tokenizer
        special = torch.tensor([tokenizer("")["input_ids"]], dtype=torch.long)
        default = {"pixel_values": estimate.pixel_values}
        nothing = {**default, "input_ids": special, "attention_mask": torch.ones_like(special)}
        looks = self._locked_look(estimate.adapter, [default, nothing])
        names = ["this prompt", "default prompt", "no prompt (special tokens only)"]
        depths = [estimate.model_depth, *(depth for depth, _, _ in looks)]
        return [
            PromptComparison(
                name,
                self._resized(estimate.adapter, depth, estimate.picture.shape[:2]),
                metres=(depth - depths[0]).abs().mean().item(),
                percent=100 * ((depth - depths[0]).abs() / depths[0]).mean().item(),
            )
            for name, depth in zip(names, depths, strict=True)
        ]

    def metres(self, estimate: DepthEstimate, size: tuple[int, int] | None = None) -> np.ndarray:
        """Depth in metres, float32 `(height, width)`, at the size of the photograph or at another one."""
        return self._resized(estimate.adapter, estimate.model_depth, size or estimate.size)

    def region(self, estimate: DepthEstimate, column: int, row: int, count: int = 5) -> list[PrototypeShare]:
        """What the patch around a pixel of the photograph read: the strongest prototypes, and their words."""
        reader = PrototypeReader(self.model, self.processors[estimate.adapter].tokenizer)
        patch = patch_of_pixel(column, row, estimate.size, reader.patch_grid(estimate.pixel_values))
        shares = estimate.attentions[:, patch].mean(dim=0)
        best = shares.topk(min(count, len(shares)))
        words = self.words[estimate.adapter]
        return [
            PrototypeShare(prototype, share, words[prototype])
            for prototype, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _resized(self, adapter: str | None, depth: Tensor, size: tuple[int, int]) -> np.ndarray:
        outputs = LLMMDEDepthEstimatorOutput(predicted_depth=depth[None])
        (result,) = self.processors[adapter].post_process_depth_estimation(outputs, target_sizes=[size])
        return result["predicted_depth"].numpy()

    def _locked_look(self, adapter: str | None, batch: Sequence[dict[str, Tensor]]) -> list[tuple]:
        # Outside of what `on_accelerator` wraps, which may run in a process of its own.
        with self._lock:
            return self._look(adapter, batch)

    @torch.no_grad()
    def _run_model(
        self, adapter: str | None, batch: Sequence[dict[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor, float]]:
        """Depth, prototype attentions and milliseconds of one image after the other, with one adapter."""
        looks = []
        with using_adapter(self.model, adapter, bool(self.adapters)):
            for inputs in batch:
                inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
                start = time.perf_counter()
                outputs = self.model(**inputs, output_prototype_attentions=True)
                depth = outputs.predicted_depth[0].float().cpu()  # waits for the device
                milliseconds = 1000 * (time.perf_counter() - start)
                looks.append((depth, outputs.prototype_attentions[0].float().cpu(), milliseconds))
        return looks


def load_estimator(
    model: str,
    revision: str | None = None,
    adapters: Mapping[str, tuple[str, str | None]] | None = None,
    on_accelerator: Callable[[Callable], Callable] | None = None,
    device: str | torch.device | None = None,
) -> DepthEstimator:
    """
    Loads a model, and adapters to choose from.

    Args:
        model (`str`), revision (`str`, *optional*): As for `load_model_and_processor`.
        adapters (`Mapping[str, tuple[str, str | None]]`, *optional*): By the name to choose them by, the folder or Hub
            id of each, and its revision.
        on_accelerator (`Callable`, *optional*): See [`DepthEstimator`].
        device (`str` or `torch.device`, *optional*): Where it runs; defaults to the accelerator if there is one.

    Raises:
        ValueError: If something does not load, or the model is not metric.
        ImportError: If PEFT is needed and not installed.
    """
    from llm_mde.hub import load_model_and_processor

    # On the CPU, where the words of the prototypes are looked up; the device comes last, as under ZeroGPU it must.
    base, processor = load_model_and_processor(model, revision, device="cpu")
    if base.config.depth_estimation_type != "metric":
        raise ValueError(
            f"`model` is {model!r}, which predicts depth up to an unknown factor; choose one that predicts metres."
        )
    processors = {None: processor}
    for name, (adapter, adapter_revision) in (adapters or {}).items():
        if Path(adapter).is_dir() and not Path(adapter, ADAPTER_CONFIG_NAME).is_file():
            raise ValueError(f"`adapters` has {name!r}, but the folder {adapter!r} has no {ADAPTER_CONFIG_NAME}.")
        try:
            base.load_adapter(adapter, name, adapter_kwargs={"revision": adapter_revision})
        except OSError as error:
            raise ValueError(
                f"`adapters` has {name!r}, which does not load: {' '.join(str(error).split())}"
            ) from error
        processors[name] = _processor_of(adapter, adapter_revision) or processor
    words, reader = {}, PrototypeReader(base, processor.tokenizer)
    for name in processors:
        with using_adapter(base, name, has_adapters=len(processors) > 1):
            words[name] = _words_of_prototypes(reader)
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return DepthEstimator(base.to(device).eval(), processors, words, on_accelerator)


@contextmanager
def using_adapter(model: "LLMMDEForDepthEstimation", name: str | None, has_adapters: bool = True) -> Iterator[None]:
    """One adapter of a model, or with `None` the base alone."""
    if not has_adapters:
        yield
    elif name is not None:
        model.set_adapter(name)
        yield
    else:
        model.disable_adapters()
        try:
            yield
        finally:
            model.enable_adapters()


def _processor_of(adapter: str, revision: str | None) -> "LLMMDEProcessor | None":
    """The one that was saved beside an adapter."""
    from llm_mde import LLMMDEProcessor

    try:
        cached_file(adapter, "processor_config.json", revision=revision)
    except OSError:
        return None
    return LLMMDEProcessor.from_pretrained(adapter, revision=revision)


def _words_of_prototypes(reader: PrototypeReader, num_words: int = 6) -> list[list[tuple[str, float]]]:
    """The words of every prototype: those that one patch reads which attends to all of them alike."""
    count = reader.model.config.num_prototypes
    shares = reader.read(torch.full((1, 1, count), 1 / count), [0], k_prototypes=count, k_words=num_words)
    return [share.words for share in sorted(shares, key=lambda share: share.prototype)]


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise Refusal("The prompt is blank. Please write a few words, or compare this prompt with none at all.")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise Refusal(
            f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are taken here. Please shorten "
            "it."
        )


def _count_tokens(processor: "LLMMDEProcessor", prompt: str) -> int:
    return len(processor.tokenizer(prompt, verbose=False)["input_ids"])


def shrunk(picture: np.ndarray, longer_side: int) -> np.ndarray:
    """A picture with no side above `longer_side`; a copy in any case."""
    height, width = picture.shape[:2]
    scale = min(1.0, longer_side / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BOX))


__all__ = ["DepthEstimate", "DepthEstimator", "PromptComparison", "load_estimator", "shrunk", "using_adapter"]
