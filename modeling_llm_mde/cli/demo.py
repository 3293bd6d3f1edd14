"""`llm-mde demo`: compose a small LLM-MDE, train it here for minutes, and look at real photographs with it."""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm_mde.demonstration import MARK, MAX_DEPTH, NUM_ROOMS, STEPS, render_rooms, train_demonstration_model

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from llm_mde.processing import RGBDFolder


@dataclass(frozen=True)
class Photograph:
    """A photograph to predict, with its depth in metres where somebody measured it (0 marks a missing pixel)."""

    name: str
    image: "Image.Image"
    depth: "np.ndarray | None"


def run(arguments: Sequence[str]) -> None:
    """`llm-mde demo`: everything the command does, in order."""
    parser = argparse.ArgumentParser(
        prog="llm-mde demo",
        description="Composes a small LLM-MDE, trains it from random weights on rendered rooms (or on your RGB-D "
        "frames), reports metrics in metres beside the median depth, and predicts two real photographs. A "
        "demonstration of the whole path: a model trained for minutes is not a good depth model.",
    )
    parser.add_argument("--data", type=Path, help="folder of RGB-D frames (index.csv, or rgb/ and depth/)")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="where results go (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of 8 images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and order (%(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        raise ValueError(f"`--steps` is {options.steps}; give at least 1.")
    import numpy as np
    from transformers import logging

    from llm_mde.processing import RGBDFolder

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.monotonic()
    output: Path = options.output
    foreign = [name for name in ("adapter", "base", "model") if (output / name).exists()]
    if foreign and not (output / "model" / MARK).is_file():
        raise ValueError(
            f"`--output` is {str(output)!r}, which holds {foreign[0]!r} of a training, and the demonstration would "
            "replace what belongs to it; give another folder."
        )
    output.mkdir(parents=True, exist_ok=True)
    data = options.data or _render_rooms(output / f"rendered_rooms_{NUM_ROOMS}_{options.seed}", options.seed)
    with tempfile.TemporaryDirectory(prefix=".model-", dir=output) as scratch:
        trained = train_demonstration_model(
            Path(scratch, "model"), data, steps=options.steps, seed=options.seed, on_message=partial(print, flush=True)
        )
        shutil.rmtree(output / "model", ignore_errors=True)
        folder = trained.folder.rename(output / "model")
    evaluation = replace(trained.report, setting=replace(trained.report.setting, model=str(folder)))  # its place now
    about = [trained.record.write(output), *evaluation.write(output / "evaluation")]
    result, median = trained.report.result, trained.median_depth
    metrics = {f"the {name}, everywhere": each.metrics for name, each in trained.report.baselines.items()}
    metrics[f"LLM-MDE after {trained.record.seconds:.0f} s of training"] = result.metrics
    print(f"\nOn the {len(result.per_image)} frames it has not seen (depth up to {MAX_DEPTH:g} m):")
    print(_as_table(metrics), flush=True)

    photographs = _real_photographs(RGBDFolder(data, split="val") if options.data else None)
    predictions = _predict_from_folder(folder, photographs)
    written = _write_results(output, photographs, predictions)
    metrics_of_photographs = {}
    for photograph, (depth, _) in zip(photographs, predictions, strict=True):
        if photograph.depth is not None:
            everywhere = np.full_like(depth, median)
            metrics_of_photographs[f"{photograph.name}: the median everywhere"] = _metrics_of_one(
                everywhere, photograph.depth
            )
            metrics_of_photographs[f"{photograph.name}: LLM-MDE"] = _metrics_of_one(depth, photograph.depth)
    print("\nReal photographs with measured depth:")
    print(_as_table(metrics_of_photographs))
    report = {
        "validation": metrics,
        "photographs": metrics_of_photographs,
        "training_seconds": trained.record.seconds,
    }
    (output / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")

    print(f"\nPrompt for {photographs[0].name}: {predictions[0][1]}")
    print("\nWritten:", *(f"  {path}" for path in [*written, output / "metrics.json", *about, folder]), sep="\n")
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. This is a demonstration: a model of this size, trained for "
        "minutes from random weights, shows that every part works and in metres. For depth you can rely on, start "
        "from pretrained encoders and train on frames like yours."
    )


def _render_rooms(root: Path, seed: int) -> Path:
    from tqdm.auto import tqdm

    if (root / "index.csv").exists():
        return root
    with tqdm(total=NUM_ROOMS, desc="Rendering rooms with exact depth") as bar:
        return render_rooms(root, seed, on_progress=lambda done, count: bar.update(done - bar.n))


def _real_photographs(frames: "RGBDFolder | None") -> list[Photograph]:
    """The Middlebury 2014 motorcycle with measured depth, a second photograph, and one of the user's own frames."""
    import numpy as np
    import skimage.data
    from PIL import Image

    left, _, disparity = skimage.data.stereo_motorcycle()
    # Scharstein et al., 2014: focal length in pixels, baseline in metres, difference of the principal points.
    focal_length, baseline, offset = 994.978, 0.193001, 31.086
    measured = np.isfinite(disparity)
    depth = np.where(measured, focal_length * baseline / (np.where(measured, disparity, 0) + offset), 0)
    photographs = [
        Photograph("motorcycle", Image.fromarray(left), depth.astype(np.float32)),
        Photograph("coffee", Image.fromarray(skimage.data.coffee()), None),
    ]
    if frames is not None:
        frame = frames[0]
        photographs.insert(0, Photograph("held-out frame", frame.image, frame.depth))
    return photographs


def _predict_from_folder(folder: Path, photographs: list[Photograph]) -> list[tuple["np.ndarray", str]]:
    """Depth in metres and the prompt of each photograph, through the saved folder, as a user would load it."""
    from transformers import pipeline

    estimate = pipeline("depth-estimation", model=str(folder), trust_remote_code=True)
    results = [estimate(photograph.image) for photograph in photographs]
    return [(result["predicted_depth"].numpy(), result["prompt"]) for result in results]


def _write_results(
    output: Path, photographs: list[Photograph], predictions: list[tuple["np.ndarray", str]]
) -> list[Path]:
    """One picture of all photographs; for each a 16-bit PNG in millimetres and the prompt."""
    import numpy as np

    from llm_mde.processing.colours import colourise, depth_limits, side_by_side, stack_rows
    from llm_mde.processing.depth_files import write_depth_png

    written, rows = [], []
    for photograph, (depth, prompt) in zip(photographs, predictions, strict=True):
        name = photograph.name.replace(" ", "_")
        maps = {"prediction": depth}
        if photograph.depth is not None:
            maps["measured"] = photograph.depth
        near, far = depth_limits(*maps.values())
        panels = [(photograph.name, np.asarray(photograph.image))]
        panels += [(title, colourise(each, near, far)) for title, each in maps.items()]
        rows.append(side_by_side(panels, near, far))
        write_depth_png(output / f"{name}_depth_mm.png", depth)
        (output / f"{name}_prompt.txt").write_text(prompt + "\n")
        written += [output / f"{name}_depth_mm.png", output / f"{name}_prompt.txt"]
    stack_rows(rows).save(output / "picture.png")
    return [output / "picture.png", *written]


def _metrics_of_one(predicted_depth: "np.ndarray", depth: "np.ndarray") -> dict[str, float]:
    import torch

    from llm_mde.evaluation import DepthMetrics

    metrics = DepthMetrics(max_depth=MAX_DEPTH)
    metrics.update(torch.from_numpy(predicted_depth), torch.from_numpy(depth))
    return metrics.compute()


def _as_table(rows: dict[str, dict[str, float]]) -> str:
    columns = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3")
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{name:<{width}}" + "".join(f"{row[column]:>9.3f}" for column in columns) for name, row in rows.items()]
    return "\n".join(lines)
