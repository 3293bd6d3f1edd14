"""A model, a set of photographs with measured depth and a protocol become numbers for each image."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.data
from PIL import Image, ImageOps
from torch import Tensor

from llm_mde.processing import DepthSample

from .matching import MatchedDepth, match_depth
from .metrics import BOUNDARY_METRIC, measure_depth, metric_names, no_valid_pixel
from .processes import gather_in_order, join_processes
from .protocols import EvaluationProtocol, get_protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Predictor = Callable[[list[Image.Image]], Sequence[Tensor]]
OnImage = Callable[[DepthSample, MatchedDepth, dict[str, Any]], None]


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of every image, and what follows from them.

    Attributes:
        protocol ([`EvaluationProtocol`]): How they were measured.
        with_boundaries (`bool`): Whether the boundary F1 is among them.
        per_image (`list[dict]`): For each image, in the order of the dataset, `index`, `name`, `num_pixels` (how many
            counted) and each metric; NaN for an image without a valid pixel, which enters no mean.
    """

    protocol: EvaluationProtocol
    with_boundaries: bool
    per_image: list[dict[str, Any]]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What was measured."""
        return metric_names(self.protocol, self.with_boundaries)

    @property
    def metrics(self) -> dict[str, float]:
        """Means over images and counts, with the names of [`DepthMetrics.compute`].

        Raises:
            ValueError: If no image had a valid pixel.
        """
        num_images = sum(row["num_pixels"] > 0 for row in self.per_image)
        num_skipped = len(self.per_image) - num_images
        if num_images == 0:
            raise ValueError(no_valid_pixel(num_skipped, self.protocol))
        columns = {name: self._column(name) for name in self.metric_names}
        means = {name: math.fsum(column) / len(column) if column else math.nan for name, column in columns.items()}
        counts = {"num_images": num_images, "num_skipped_images": num_skipped}
        if BOUNDARY_METRIC in columns:
            counts["num_images_with_boundaries"] = len(columns[BOUNDARY_METRIC])
        return means | counts

    def intervals(self, seed: int = 0, num_resamples: int = 1000) -> dict[str, tuple[float, float]]:
        """95 % percentile bootstrap intervals of the means (Efron, 1979): images are drawn again with replacement.

        They say how much the mean would change with other images of the same kind, drawn independently: frames of one
        video are not, and their interval is too narrow. They say nothing about other training seeds.

        Args:
            seed (`int`, *optional*, defaults to 0): Of the draws; the same seed gives the same intervals.
            num_resamples (`int`, *optional*, defaults to 1000): How often the images are drawn.

        Returns:
            `dict[str, tuple[float, float]]`: Lower and upper limit for each metric; NaN where its mean is.

        Raises:
            ValueError: If `num_resamples` is not positive.
        """
        if num_resamples < 1:
            raise ValueError(f"`num_resamples` is {num_resamples}; draw at least once.")
        columns = {name: np.array(self._column(name)) for name in self.metric_names}
        intervals = dict.fromkeys(columns, (math.nan, math.nan))
        for size in {len(column) for column in columns.values()} - {0}:
            names = [name for name, column in columns.items() if len(column) == size]
            values = np.stack([columns[name] for name in names])
            generator = np.random.default_rng(seed)  # the same draws for each metric
            means = [values[:, generator.integers(size, size=size)].mean(axis=1) for _ in range(num_resamples)]
            limits = np.percentile(means, (2.5, 97.5), axis=0)
            intervals.update(zip(names, map(tuple, limits.T.tolist()), strict=True))
        return intervals

    def _column(self, name: str) -> list[float]:
        return [row[name] for row in self.per_image if not math.isnan(row[name])]


def evaluate_depth(
    model: "PreTrainedModel | None",
    processor: "ProcessorMixin | None",
    dataset: Iterable[DepthSample],
    protocol: str | EvaluationProtocol = "plain",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    with_boundaries: bool = True,
    on_image: OnImage | None = None,
    progress: bool = True,
    predict: Predictor | None = None,
) -> EvaluationResult:
    """Measure a model, or any predictor, on photographs with measured depth.

    Nothing but the numbers of each image is kept. Under `accelerate launch` (or any `torch.distributed`) each process
    takes every n-th image, none is seen twice, and all processes return the rows of all.

    ```python
    >>> from llm_mde.evaluation import evaluate_depth
    >>> from llm_mde.hub import load_model_and_processor
    >>> from llm_mde.processing import RGBDFolder

    >>> model, processor = load_model_and_processor("outputs/demo/model")
    >>> result = evaluate_depth(model, processor, RGBDFolder("my_frames", split="val"), protocol="plain")
    >>> result.metrics["abs_rel"], result.intervals()["abs_rel"]
    ```

    Args:
        model (`PreTrainedModel`, *optional*): An LLM-MDE in any precision; not read with `predict`. It is set to
            evaluation and back.
        processor (`ProcessorMixin`, *optional*): Its processor, or its image processor.
        dataset (iterable of [`DepthSample`]): A [`DepthDataset`], a stream or a list. Of a stream every process reads
            all samples and measures its own.
        protocol (`str` or [`EvaluationProtocol`], *optional*, defaults to `"plain"`): How to measure.
        batch_size (`int`, *optional*, defaults to 8): Photographs the model sees at once; only photographs of one size
            share a batch.
        device (`str` or `torch.device`, *optional*): Where the model is moved; by default it stays.
        with_boundaries (`bool`, *optional*, defaults to `True`): Whether to measure `boundary_f1` too.
        on_image (`Callable`, *optional*): Called as `on_image(sample, matched, row)` for each image that this process
            measured, with its [`MatchedDepth`] of batch 1 and its row of `per_image`.
        progress (`bool`, *optional*, defaults to `True`): Whether the first process shows a bar.
        predict (`Callable`, *optional*): Instead of a model: from a list of photographs to one map `(height, width)`
            in metres for each, of any resolution and of the whole photograph. Other models of Transformers are
            measured by it, each with a post-processing of its own: ZoeDepth pads its images, and DPT and the relative
            Depth Anything give inverse depth.

    Raises:
        ValueError: If the dataset is empty or `batch_size` not positive, if the model is no LLM-MDE, if one of
            relative depth meets a protocol without alignment, if no image has a valid pixel, or for the reasons of
            [`match_depth`] and [`measure_depth`].
    """
    protocol = get_protocol(protocol)
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}; pass 1 or more.")
    if predict is None:
        if model is None or processor is None:
            raise ValueError("`model` or `processor` is None; pass both, or a `predict` of your own.")
        if model.config.model_type != "llm_mde":
            raise ValueError(
                f"`model` is of the type {model.config.model_type!r}, whose depth may be padded, inverse or without "
                "scale; pass a `predict` that gives metres for whole photographs, with its own post-processing."
            )
        if model.config.depth_estimation_type == "relative" and protocol.alignment == "none":
            raise ValueError(
                f"`protocol` {protocol.name!r} aligns nothing, but the model's depth is known up to a factor only "
                '(`depth_estimation_type="relative"`); use `get_protocol(..., alignment="median")`.'
            )
        if device is not None:
            model.to(device)
        predict = partial(predict_depth, model, processor)
    if protocol.flip_averaging:
        predict = partial(_predict_with_mirror, predict)

    rank, num_processes = join_processes()
    rows = []
    with _evaluating(model), _bar(dataset, rank, num_processes, progress) as bar:
        for batch in _batches(_share(dataset, rank, num_processes), batch_size):
            predictions = predict([sample.image for _, sample in batch])
            for (index, sample), predicted in zip(batch, predictions, strict=True):
                row = {"index": index, "name": sample.name}
                try:
                    labels = torch.tensor(sample.depth, device=predicted.device)
                    matched = match_depth(predicted, labels, protocol)
                    values = measure_depth(matched, protocol, with_boundaries)
                except ValueError as error:
                    raise ValueError(f"{sample.name!r}: {error}") from error
                row["num_pixels"] = int(matched.valid.sum())
                row |= dict(zip(values, torch.cat(list(values.values())).tolist(), strict=True))
                rows.append(row)
                if on_image is not None:
                    on_image(sample, matched, row)
                bar.update()
    rows = sorted((row for share in gather_in_order(rows) for row in share), key=lambda row: row["index"])
    if not rows:
        raise ValueError("`dataset` is empty; pass at least one `DepthSample`.")
    result = EvaluationResult(protocol, with_boundaries, rows)
    _ = result.metrics  # refuses a set without a single valid pixel
    return result


def predict_depth(model: "PreTrainedModel", processor: "ProcessorMixin", images: list[Image.Image]) -> Tensor:
    """Depth as the model gives it, float32 `(batch_size, height, width)` at its own resolution and on its device."""
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt").to(model.device, model.dtype))
    return outputs.predicted_depth.float()


def _predict_with_mirror(predict: Predictor, images: list[Image.Image]) -> list[Tensor]:
    """Mean of the prediction and of the mirrored prediction for the mirrored photograph."""
    mirrored = predict([ImageOps.mirror(image) for image in images])
    return [(seen + other.flip(-1)) / 2 for seen, other in zip(predict(images), mirrored, strict=True)]


def _share(dataset: Iterable[DepthSample], rank: int, num_processes: int) -> Iterator[tuple[int, DepthSample]]:
    if _is_map_style(dataset):
        yield from ((index, dataset[index]) for index in range(rank, len(dataset), num_processes))
    else:
        yield from (pair for pair in enumerate(dataset) if pair[0] % num_processes == rank)


def _batches(samples: Iterator[tuple[int, DepthSample]], batch_size: int) -> Iterator[list[tuple[int, DepthSample]]]:
    """Neighbours whose photographs have one size, which always stack."""
    batch = []
    for index, sample in samples:
        if batch and (len(batch) == batch_size or batch[0][1].image.size != sample.image.size):
            yield batch
            batch = []
        batch.append((index, sample))
    if batch:
        yield batch


@contextmanager
def _evaluating(model: "PreTrainedModel | None") -> Iterator[None]:
    in_training = [] if model is None else [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:  # and none that was frozen in evaluation before
            module.training = True


def _is_map_style(dataset: Iterable[DepthSample]) -> bool:
    # A stream of PyTorch inherits a `__getitem__` that does not work.
    is_stream = isinstance(dataset, torch.utils.data.IterableDataset)
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not is_stream


def _bar(dataset: Iterable[DepthSample], rank: int, num_processes: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    total = len(range(rank, len(dataset), num_processes)) if hasattr(dataset, "__len__") else None
    return tqdm(total=total, desc="Measuring images", disable=not progress or rank > 0)


__all__ = ["EvaluationResult", "evaluate_depth", "predict_depth"]
