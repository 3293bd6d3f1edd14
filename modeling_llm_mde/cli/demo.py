"""`llm-mde demo`: compose a small LLM-MDE, train it here for minutes, and look at real photographs with it."""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_mde.processing import DEPTH_WORDS, ImageStatistics, write_prompt

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import BertTokenizer

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
    from llm_mde.processing import DepthSample, RGBDFolder

NUM_SCENES = 200
HEIGHT, WIDTH = 96, 128
MAX_DEPTH = 10.0
BATCH_SIZE = 8


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
    parser.add_argument("--steps", type=int, default=600, help="training steps of 8 images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and order (%(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        raise ValueError(f"`--steps` is {options.steps}; give at least 1.")
    import numpy as np
    from transformers import logging, set_seed

    from llm_mde.hub import write_model_folder
    from llm_mde.processing import RGBDFolder, median_depth

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.monotonic()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    data = options.data or _render_rooms(output / "rendered_rooms", options.seed)
    train_frames, val_frames = RGBDFolder(data, split="train"), RGBDFolder(data, split="val")
    print(f"{len(train_frames)} frames to train on and {len(val_frames)} to measure with, from {data}", flush=True)

    set_seed(options.seed)
    model, processor = compose_small_model()
    print(f"A small LLM-MDE of {model.num_parameters() / 1e6:.1f} M weights, random so far. Training:", flush=True)
    training_started = time.monotonic()
    train(model, processor, _shrink(train_frames), options.steps, options.seed)
    training_seconds = time.monotonic() - training_started

    median = median_depth(train_frames)
    metrics = {
        f"the median, {median:.2f} m, everywhere": evaluate_median(val_frames, median),
        f"LLM-MDE after {training_seconds:.0f} s of training": evaluate(model, processor, val_frames),
    }
    print(f"\nOn the {len(val_frames)} frames it has not seen (depth up to {MAX_DEPTH:g} m):")
    print(_as_table(metrics), flush=True)

    shutil.rmtree(output / "model", ignore_errors=True)
    folder = write_model_folder(output / "model", model, processor)
    photographs = _real_photographs(val_frames if options.data else None)
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
    report = {"validation": metrics, "photographs": metrics_of_photographs, "training_seconds": training_seconds}
    (output / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")

    print(f"\nPrompt for {photographs[0].name}: {predictions[0][1]}")
    print("\nWritten:", *(f"  {path}" for path in [*written, output / "metrics.json", folder]), sep="\n")
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. This is a demonstration: a model of this size, trained for "
        "minutes from random weights, shows that every part works and in metres. For depth you can rely on, start "
        "from pretrained encoders and train on frames like yours."
    )


def build_tokenizer() -> "BertTokenizer":
    """A WordPiece tokenizer with every word that prompts are written in; other words are spelled letter by letter."""
    import string

    from transformers import BertTokenizer

    prompts = " ".join(write_prompt(ImageStatistics(0, 0, 0, word)) for word in DEPTH_WORDS).lower()
    words = "".join(letter if letter.isalnum() else " " for letter in prompts).split()
    letters = string.ascii_lowercase + string.digits
    vocabulary = [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *dict.fromkeys([*letters, *string.punctuation, *(f"##{letter}" for letter in letters)]),
        *(str(level) for level in range(10, 256)),
        *sorted({word for word in words if len(word) > 1 and not word.isdigit()}),
    ]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=512)


def compose_small_model() -> tuple["LLMMDEForDepthEstimation", "LLMMDEProcessor"]:
    """LLM-MDE with every part of the paper in small, for 96 x 128 pixels, and its processor."""
    from transformers import BertConfig, ViTConfig

    from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation, LLMMDEImageProcessor, LLMMDEProcessor

    processor = LLMMDEProcessor(LLMMDEImageProcessor(size={"height": HEIGHT, "width": WIDTH}), build_tokenizer())
    config = LLMMDEConfig(
        vision_config=ViTConfig(
            image_size=WIDTH,
            patch_size=16,
            hidden_size=192,
            num_hidden_layers=6,
            num_attention_heads=3,
            intermediate_size=576,
        ),
        text_config=BertConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=192,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=576,
        ),
        num_prototypes=100,
        head_hidden_sizes=[128, 96, 64, 32, 16],
        max_depth=MAX_DEPTH,
        default_prompt_ids=processor.default_prompt_ids(),
    )
    return LLMMDEForDepthEstimation(config), processor


def train(model, processor, frames: list["DepthSample"], steps: int, seed: int) -> None:
    """The stock Trainer on augmented frames: AdamW with the paper's cosine schedule."""
    import tempfile

    import torch
    from transformers import Trainer, TrainingArguments

    from llm_mde.processing import DepthCollator

    # A processor that multiplies bfloat16 natively trains faster with it; another one would have to emulate it.
    on_cpu, features = not torch.accelerator.is_available(), torch.cpu.get_capabilities()
    has_bfloat16 = any(features.get(name) for name in ("amx_bf16", "avx512_bf16"))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=1e-3,
            weight_decay=0.05,
            warmup_steps=max(1, steps // 20),
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            logging_steps=max(1, steps // 10),
            use_cpu=on_cpu,
            bf16=on_cpu and has_bfloat16,
            dataloader_pin_memory=not on_cpu,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            seed=seed,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=frames,
            data_collator=DepthCollator(processor, augment=True, seed=seed),
        ).train()
    model.eval()


def evaluate(model, processor, frames: "RGBDFolder") -> dict[str, float]:
    """Standard metrics at the resolution of the measured depth."""
    import torch

    from llm_mde.evaluation import DepthMetrics

    metrics = DepthMetrics(max_depth=MAX_DEPTH)
    for frame in frames:
        with torch.no_grad():
            outputs = model(**processor(images=frame.image, return_tensors="pt").to(model.device))
        (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[frame.depth.shape])
        metrics.update(result["predicted_depth"].cpu(), torch.from_numpy(frame.depth))
    return metrics.compute()


def evaluate_median(frames: "RGBDFolder", median: float) -> dict[str, float]:
    """The same metrics for a predictor that has not looked at the photograph."""
    import torch

    from llm_mde.evaluation import DepthMetrics

    metrics = DepthMetrics(max_depth=MAX_DEPTH)
    for index in range(len(frames)):
        labels = torch.from_numpy(frames.depth(index))
        metrics.update(torch.full_like(labels, median), labels)
    return metrics.compute()


def _render_rooms(root: Path, seed: int) -> Path:
    from tqdm.auto import tqdm

    from llm_mde.processing.rendered_scenes import render_scenes

    root = root.with_name(f"{root.name}_{NUM_SCENES}_{seed}")
    if (root / "index.csv").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    with tqdm(total=NUM_SCENES, desc="Rendering rooms with exact depth") as bar:
        return render_scenes(root, NUM_SCENES, seed=seed, on_progress=lambda done, count: bar.update(done - bar.n))


def _shrink(frames: "RGBDFolder") -> list["DepthSample"]:
    """Frames at twice the training size, kept in memory: each is read from disk once instead of once an epoch."""
    from dataclasses import replace

    import torch
    from tqdm.auto import tqdm

    small = []
    for frame in tqdm(frames, total=len(frames), desc="Reading frames"):
        size = (min(2 * WIDTH, frame.image.width), min(2 * HEIGHT, frame.image.height))
        depth = torch.from_numpy(frame.depth)[None, None]
        depth = torch.nn.functional.interpolate(depth, size=size[::-1], mode="nearest-exact")[0, 0].numpy()
        small.append(replace(frame, image=frame.image.resize(size), depth=depth))
    return small


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

    from llm_mde.processing.colours import colourise, depth_limits, side_by_side
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
    _stack(rows).save(output / "picture.png")
    return [output / "picture.png", *written]


def _stack(rows: list["Image.Image"]) -> "Image.Image":
    from PIL import Image

    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    return picture


def _metrics_of_one(predicted_depth: "np.ndarray", depth: "np.ndarray") -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from llm_mde.evaluation import DepthMetrics

    metrics = DepthMetrics(max_depth=MAX_DEPTH)
    predicted = torch.from_numpy(predicted_depth)[None, None]
    predicted = F.interpolate(predicted, size=depth.shape, mode="bilinear", align_corners=False)[0, 0]
    metrics.update(predicted, torch.from_numpy(depth))
    return metrics.compute()


def _as_table(rows: dict[str, dict[str, float]]) -> str:
    columns = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3")
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{name:<{width}}" + "".join(f"{row[column]:>9.3f}" for column in columns) for name, row in rows.items()]
    return "\n".join(lines)
