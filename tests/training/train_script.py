"""Short training runs as a program, for tests with several processes: `train_script.py FOLDER`.

Each of `CASES` is trained with a batch of its size over all processes, and leaves its weights in the folder.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import set_seed

from llm_mde.processing import DepthAugmentation, DepthCollator
from llm_mde.training import AugmentedFrames, DepthTrainer, DepthTrainingArguments, StreamingDepthMetrics
from tests.modeling.test_encoders import VISION
from tests.training.conftest import make_frames
from tests.training.test_trainer import without_dropout

# What is unlike the small pair, and how many frames all processes together read at once.
CASES = {
    "vit": ({}, 4),
    # With a weight that no forward pass uses, and with gradient checkpointing.
    "dinov2": ({"vision_config": VISION["dinov2"]}, 4),
    # One of two processes then gets a batch without any label.
    "unlabelled": ({}, 2),
}


def main() -> None:
    torch.set_num_threads(1)
    for case in CASES:
        train(Path(sys.argv[1]), case)


def train(folder: Path, case: str) -> None:
    overrides, batch_size = CASES[case]
    model, processor = without_dropout(**overrides)
    set_seed(0)
    frames = make_frames(8)
    frames[3].depth[:] = 0  # one process gets a batch with hardly a label
    trainer = DepthTrainer(
        model=model,
        args=DepthTrainingArguments(
            output_dir=str(folder / case),
            per_device_train_batch_size=batch_size // int(os.environ.get("WORLD_SIZE", 1)),
            per_device_eval_batch_size=2,
            num_train_epochs=2,
            learning_rate=1e-2,
            optim="sgd",
            mixed_precision="no",
            gradient_checkpointing=case == "dinov2",
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            disable_tqdm=True,
        ),
        train_dataset=AugmentedFrames(frames, DepthAugmentation(), seed=1),
        eval_dataset=make_frames(5, seed=1),
        data_collator=DepthCollator(processor),
        compute_metrics=StreamingDepthMetrics(),
    )
    trainer.train()
    metrics = trainer.evaluate()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        report = {name: torch.tensor(float(metrics[f"eval_{name}"])) for name in ("abs_rel", "delta1", "num_images")}
        weights = {name: weight.detach().contiguous().clone() for name, weight in weights.items()}
        report = {f"metric.{name}": value for name, value in report.items()}
        report["num_processes"] = torch.tensor(trainer.accelerator.num_processes)
        save_file(weights | report, folder / f"{case}.safetensors")


if __name__ == "__main__":
    main()
