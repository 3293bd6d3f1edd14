"""
What an exported network gains over eager PyTorch on this CPU: `python -m benchmarks.export_speed`.

The paper's sizes with random weights (time does not depend on them), one image, one prompt. Every format, in float32
and in 8 bits, is written as `llm-mde export` writes it and run by the file that lies in an exported folder. The
contenders take turns, eager PyTorch among them, and ratios are taken round by round. How far depth is from eager
PyTorch's is measured, too, on the photographs that came with the package.

With `--model` and `--data` it is a model that means something: 8 bits are found by frames of the split `train`, and
each network's errors are measured on the split `val`.
"""

import argparse
import datetime
import json
import platform
import runpy
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from PIL import Image

import llm_mde.export
from llm_mde import LLMMDEConfig, LLMMDEForDepthEstimation, LLMMDEImageProcessor, LLMMDEProcessor
from llm_mde.evaluation import evaluate_depth
from llm_mde.export.formats import FORMATS, find_format
from llm_mde.export.network import TracedNetwork, trace
from llm_mde.export.photographs import example_photographs, spread
from llm_mde.hub import load_model_and_processor
from llm_mde.processing import load_depth_dataset
from llm_mde.processing.depth_datasets import DepthDataset
from llm_mde.studies.resources import time_in_turns

from .machine import describe_machine
from .photographs import make_photograph

EAGER = "eager PyTorch, float32"
ERRORS = ("abs_rel", "rmse", "delta1")
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "numpy")
_NUM_COMPARED, _NUM_MADE = 8, 24  # photographs: of frames to compare on, and made here to find 8 bits by
_STANDALONE = Path(llm_mde.export.__file__).parent / "standalone"

Inputs = dict[str, np.ndarray]
Network = Callable[[Inputs], np.ndarray]


def write_networks(
    network: TracedNetwork, batches: list[Inputs], formats: list[str], folder: Path
) -> dict[str, tuple[str, Path]]:
    """
    Writes a network in formats, each in float32 and, where there are such, in 8 bits.

    Returns:
        `dict[str, tuple[str, Path]]`: For each contender its format and its file.
    """
    written = {}
    for name in formats:
        found = find_format(name, int8=FORMATS[name].quantise is not None)
        paths = {dtype: folder / f"{name}_{dtype}" / found.model_file for dtype in ("float32", "int8")}
        for path in paths.values():
            path.parent.mkdir()
        found.write(network, paths["float32"])
        written[f"{name}, float32"] = (name, paths["float32"])
        if found.quantise is not None:
            reads = [batches] if found.int8_reads_photographs else []
            found.quantise(paths["float32"], paths["int8"], *reads)
            written[f"{name}, int8"] = (name, paths["int8"])
    return written


def load_networks(written: dict[str, tuple[str, Path]], num_threads: int) -> dict[str, Network]:
    """Each as the file in an exported folder runs it."""
    runtimes = {name: runpy.run_path(str(_STANDALONE / f"runtime_{name}.py")) for name, _ in written.values()}
    return {
        contender: runtimes[name]["load_network"](path, num_threads) for contender, (name, path) in written.items()
    }


def eager(model: LLMMDEForDepthEstimation) -> Network:
    @torch.no_grad()
    def run(inputs: Inputs) -> np.ndarray:
        return model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).predicted_depth.numpy()

    return run


def megabytes(path: Path) -> float:
    """All that lies beside a network's file: some formats put weights into a second one."""
    return sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6


def measure(
    networks: dict[str, Network], sizes: dict[str, float], batches: list[Inputs], rounds: int
) -> list[dict[str, Any]]:
    """Times in turns, with the first photograph, and differences of depth on all; eager PyTorch is the measure."""
    calls = {name: partial(network, batches[0]) for name, network in networks.items()}
    times = time_in_turns(calls, rounds)
    expected = [networks[EAGER](batch) for batch in batches]
    rows = []
    for name, network in networks.items():
        differences = [np.abs(network(batch) - depth) / depth for batch, depth in zip(batches, expected, strict=True)]
        ratios = [reference / own for reference, own in zip(times[EAGER], times[name], strict=True)]
        quarters = quantiles(ratios, n=4)
        rows.append(
            {
                "network": name,
                "seconds": times[name],
                "median_seconds": median(times[name]),
                "times_as_fast": median(ratios),
                "times_as_fast_quartiles": [quarters[0], quarters[2]],
                "megabytes": sizes.get(name),
                "mean_relative_difference": float(np.mean([each.mean() for each in differences])),
                "largest_relative_difference": float(max(each.max() for each in differences)),
            }
        )
    return rows


def errors_of(network: Network, processor: LLMMDEProcessor, frames: DepthDataset) -> dict[str, float]:
    """What the package's own evaluation says of a network."""

    def predict(images: list[Image.Image]) -> list[torch.Tensor]:
        inputs = [dict(processor(images=image, return_tensors="np")) for image in images]
        return [torch.from_numpy(network(each)[0].copy()) for each in inputs]

    metrics = evaluate_depth(None, None, frames, predict=predict, with_boundaries=False, progress=False).metrics
    return {name: metrics[name] for name in ERRORS}


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    columns = {
        "network": lambda row: row["network"],
        "s per image": lambda row: f"{row['median_seconds']:.3g}",
        "times as fast as eager": lambda row: "{:.2f} [{:.2f}, {:.2f}]".format(
            row["times_as_fast"], *row["times_as_fast_quartiles"]
        ),
        "MB": lambda row: "" if row["megabytes"] is None else f"{row['megabytes']:.0f}",
        "depth differs on average": lambda row: f"{row['mean_relative_difference']:.1e}",
        "at most": lambda row: f"{row['largest_relative_difference']:.1e}",
    }
    for name in ERRORS:
        if name in rows[0]:
            columns[name] = lambda row, name=name: f"{row[name]:.4f} ({row[name] / rows[0][name] - 1:+.2%})"
    lines = [list(columns), ["---", *["--:"] * (len(columns) - 1)]]
    lines += [[cell(row) for cell in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paper_model(prompt_length: int) -> tuple[LLMMDEForDepthEstimation, list[Inputs], list[Inputs]]:
    """Random weights at the paper's sizes, what they read of the example photographs, and of others made here."""
    torch.manual_seed(0)
    model = LLMMDEForDepthEstimation(LLMMDEConfig()).eval()
    generator, image_processor = np.random.default_rng(0), LLMMDEImageProcessor()
    batches, examples = [], example_photographs()
    for image in [*examples, *(make_photograph((480, 640), seed) for seed in range(_NUM_MADE))]:
        words = generator.integers(model.config.text_config.vocab_size, size=(1, prompt_length))
        pixel_values = image_processor(image, return_tensors="np")["pixel_values"]
        batches.append({"pixel_values": pixel_values, "input_ids": words, "attention_mask": np.ones_like(words)})
    return model, batches[: len(examples)], batches[len(examples) :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_speed", description=__doc__.strip())
    parser.add_argument("--model", help="Model or adapter, instead of random weights at the paper's sizes.")
    parser.add_argument("--data", help="With a model: RGB-D frames, of which `train` and `val` are read.")
    parser.add_argument("--dataset", help="Only frames of this data set (index.csv).")
    parser.add_argument(
        "--num_photographs",
        type=int,
        default=64,
        help="Frames of `train`: 8 to compare on, the others to find 8 bits by.",
    )
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=10, help="How often each network is timed; at least 2.")
    parser.add_argument("--threads", type=int, default=2, help="Of each network.")
    parser.add_argument("--prompt_length", type=int, default=114, help="Tokens, for random weights: 310 with patches.")
    parser.add_argument("--output", type=Path, help="File to write the results to, JSON with all times.")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.data is None):
        parser.error("--model and --data belong together: errors are those of a model on frames.")

    torch.set_num_threads(arguments.threads)
    if arguments.model is None:
        model, compared, others = paper_model(arguments.prompt_length)
    else:
        model, processor = load_model_and_processor(arguments.model, device="cpu", dtype="float32")
        frames, measured = (
            load_depth_dataset(arguments.data, split=split, dataset=arguments.dataset) for split in ("train", "val")
        )
        images = [frames[place].image for place in spread(len(frames), arguments.num_photographs)]
        batches = [dict(processor(images=image, return_tensors="np")) for image in images]
        compared, others = batches[:_NUM_COMPARED], batches[_NUM_COMPARED:]
        if not others:
            parser.error(f"there are {len(batches)} photographs; give more than the {_NUM_COMPARED} compared on.")
    size = compared[0]["pixel_values"].shape[-2:]
    with tempfile.TemporaryDirectory(prefix="llm-mde-") as folder:
        written = write_networks(trace(model, size), others, arguments.formats, Path(folder))
        sizes = {name: megabytes(path) for name, (_, path) in written.items()}
        networks = {EAGER: eager(model), **load_networks(written, arguments.threads)}
        rows = measure(networks, sizes, compared, arguments.rounds)
        if arguments.model is not None:
            for row in rows:
                row |= errors_of(networks[row["network"]], processor, measured)
    machine = describe_machine()
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": vars(machine),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "rounds": arguments.rounds,
        "size": list(size),
        "tokens": int(compared[0]["input_ids"].shape[1]),
        "rows": rows,
    }
    print(f"{record['date']}; {machine}\n{record['versions']}\n\n{table(rows)}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
