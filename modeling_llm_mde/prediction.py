"""Depth of many photographs: the next ones are read and the last ones written while the model looks at some."""

import errno
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader

from llm_mde.processing.depth_files import LARGEST_PNG_DEPTH
from llm_mde.processing.photographs import (
    Camera,
    PhotographCollator,
    PhotographDataset,
    PhotographFile,
    PhotographOfSample,
    ReadPhotograph,
)

from .prediction_files import PredictionLog, write_prediction

if TYPE_CHECKING:
    from transformers import BatchFeature

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor


def predict_photographs(
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    photographs: Sequence[PhotographFile | PhotographOfSample],
    log: PredictionLog,
    formats: Sequence[str],
    versions: Mapping[str, dict] | None = None,
    camera_of: Callable[[ReadPhotograph], Camera] | None = None,
    max_angle: float | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    show_progress: bool = True,
    **kwargs,
) -> None:
    """
    Predicts photographs batch by batch into the folder of a log, and adds a row for each to the log.

    A photograph that cannot be read, or whose name leaves no room for a suffix, is a row with its `error`; what fails
    otherwise, the model or the disk, is raised.
    Files of an earlier run in other formats stay if they are of the same version of the photograph, else they go.

    Args:
        model ([`LLMMDEForDepthEstimation`]): In evaluation mode.
        processor ([`LLMMDEProcessor`]): Its processor.
        photographs (`Sequence`): From `find_photographs` or `photographs_of_samples`.
        log ([`PredictionLog`]): Where files and rows go.
        formats (`Sequence[str]`): See [`write_prediction`].
        versions (`Mapping[str, dict]`, *optional*): By `stem`, what tells each photograph from the one that it may
            be later; it becomes the `version` of the row.
        camera_of (`Callable`, *optional*): The camera of a photograph that was read; needed for `"ply"`. A
            `ValueError` leaves the points out and is the row's `error`.
        max_angle (`float`, *optional*): See `without_depth_edges`.
        batch_size (`int`, *optional*, defaults to 8): Photographs at once; their sizes may differ.
        num_workers (`int`, *optional*, defaults to 2): Processes that read, and threads that write.
        show_progress (`bool`, *optional*, defaults to `True`): Whether to show a bar.
        kwargs: More arguments of the processor's call, such as `text`.
    """
    from tqdm.auto import tqdm

    def write(read: ReadPhotograph, depth: np.ndarray | None, prompt: str | None) -> dict:
        photograph = photographs[read.index]
        version = (versions or {}).get(photograph.stem)
        before = {"version": version, "outputs": {}, **earlier.get(photograph.stem, {})}
        there = {name: path for name, path in before["outputs"].items() if (log.folder / path).is_file()}
        stale = before.get("stale", [])
        row = {"stem": photograph.stem, "input": photograph.name, "status": "failed", "error": read.error}
        # Where no new depth comes, the files that are there stay, with the version of the photograph they belong to.
        row |= {"version": before["version"] if there else version, "outputs": there, "stale": stale}
        if depth is None:
            return row
        row |= {"width": depth.shape[1], "height": depth.shape[0], "prompt": prompt}
        num_undefined = np.count_nonzero(~np.isfinite(depth))
        if num_undefined:
            return row | {"error": f"the model's depth is not finite at {num_undefined} pixels; try float32"}
        statistics = {"nearest": depth.min(), "median": np.median(depth), "farthest": depth.max()}
        row |= {name: round(float(metres), 4) for name, metres in statistics.items()}
        possible, camera, error = list(formats), None, None
        if "ply" in formats:
            try:
                camera = camera_of(read)
                row["camera"] = {**asdict(camera.intrinsics), "source": camera.source}
            except ValueError as refusal:
                possible.remove("ply")
                error = f"no points: {refusal}"
        is_same = before["version"] == version and before.get("input", photograph.name) == photograph.name
        outputs = {name: path for name, path in there.items() if is_same and name not in (*formats, *stale)}
        try:
            outputs |= write_prediction(
                log.folder, photograph.stem, depth, possible, read.levels, camera, max_angle, is_metric
            )
        except OSError as refusal:
            if refusal.errno != errno.ENAMETOOLONG:
                raise
            return row | {"error": f"the name of its files would be too long here: {refusal}; rename it"}
        for name in there.keys() - outputs.keys():
            log.remove(there[name])  # it would contradict the others
        if "png" in outputs:
            row["pixels_beyond_png"] = int(np.count_nonzero(depth > LARGEST_PNG_DEPTH))
        return row | {
            "status": "incomplete" if error else "done",
            "error": error,
            "version": version,
            "outputs": outputs,
            "stale": [],
        }

    earlier, is_metric = log.read(), model.config.depth_estimation_type == "metric"
    loader = DataLoader(
        PhotographDataset(photographs),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=PhotographCollator(processor, keep_levels="ply" in formats, **kwargs),
    )
    writing: deque[Future] = deque()
    with (
        ThreadPoolExecutor(max(1, num_workers)) as pool,
        tqdm(total=len(photographs), unit="photograph", disable=not show_progress) as bar,
    ):

        def finish(num_left: int) -> None:
            while len(writing) > num_left:
                log.add(writing.popleft().result())
                bar.update()

        for group, inputs in (pair for batch in loader for pair in batch):
            unread = [(None, None)] * len(group)
            predictions = unread if inputs is None else _predict(model, processor, group, inputs)
            for read, (depth, prompt) in zip(group, predictions, strict=True):
                writing.append(pool.submit(write, read, depth, prompt))
            finish(num_left=batch_size)  # depth maps of two batches are in memory at most
        finish(num_left=0)


def _predict(
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    group: Sequence[ReadPhotograph],
    inputs: "BatchFeature",
) -> list[tuple[np.ndarray, str | None]]:
    """Depth in metres at the size of each photograph, float32 `(height, width)`, and the prompt it was read with."""
    prompts = inputs.pop("prompt")
    if not model.config.use_prompt:
        prompts = [None] * len(group)
    with torch.no_grad():
        outputs = model(**inputs.to(model.device).to(model.dtype))
    results = processor.post_process_depth_estimation(outputs, target_sizes=[read.size for read in group])
    return [(result["predicted_depth"].cpu().numpy(), prompt) for result, prompt in zip(results, prompts, strict=True)]


__all__ = ["predict_photographs"]
