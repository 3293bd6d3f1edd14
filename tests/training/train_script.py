"""A short training run as its own program, for tests with several processes: `train_script.py OUTPUT BATCH_SIZE`.

With a third word, `dinov2`, on a vision encoder that has a weight no forward pass uses, with gradient checkpointing.
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import set_seed

from llm_mde.processing import DepthAugmentation, DepthCollator
from llm_mde.training import AugmentedFrames, DepthTrainer, DepthTrainingArguments, StreamingDepthMetrics
from tests.modeling.test_encoders import VISION
from tests.training.conftest import make_frames
from tests.training.test_trainer import without_dropout


def main() -> None:
    output, batch_size = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    is_dinov2 = sys.argv[3:] == ["dinov2"]
    model, processor = without_dropout(**({"vision_config": VISION["dinov2"]} if is_dinov2 else {}))
    set_seed(0)
    frames = make_frames(8)
    frames[3].depth[:] = 0  # one process gets a batch with hardly a label
    trainer = DepthTrainer(
        model=model,
        args=DepthTrainingArguments(
            output_dir=output,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=2,
            num_train_epochs=2,
            learning_rate=1e-2,
            optim="sgd",
            mixed_precision="no",
            gradient_checkpointing=is_dinov2,
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
        save_file(weights | report, f"{output}.safetensors")


if __name__ == "__main__":
    main()
