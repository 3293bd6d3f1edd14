"""Three steps of plain PyTorch, sharded by FSDP2 where there are several processes: `shard_script.py FOLDER`.

Then what a run does at an evaluation and at its end: panels, health, and the folder to keep.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerControl, TrainerState

from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.processing import DepthCollator
from llm_mde.training import DepthTrainingArguments, DiagnosticsCallback, PanelCallback, prepare_for_training
from tests.training.conftest import make_frames
from tests.training.test_trainer import without_dropout


def main() -> None:
    torch.set_num_threads(1)
    rank, num_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if num_processes > 1:
        dist.init_process_group("gloo")
    for method in ("full", "lora"):
        train(Path(sys.argv[1]) / method, method, rank, num_processes)
    if num_processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(output: Path, method: str, rank: int, num_processes: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model, processor = without_dropout()
    if method == "lora":
        if rank == 0:
            write_model_folder(output / "base", model, processor)
        if num_processes > 1:
            dist.barrier()
        model.load_state_dict(load_model_and_processor(output / "base", device="cpu")[0].state_dict())
        model.name_or_path = str(output / "base")
        torch.manual_seed(0)  # the low-rank updates are drawn
        model = prepare_for_training(model, method)
    model.train()
    if num_processes > 1:
        mesh = init_device_mesh("cpu", (num_processes,))
        for module in list(model.modules()):  # as Accelerate's TRANSFORMER_BASED_WRAP does
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module, mesh=mesh)
        fully_shard(model.get_input_embeddings(), mesh=mesh)  # as Accelerate 1.15 adds
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    frames = make_frames(12)
    health = DiagnosticsCallback(processor, frames[:2], frames[2:4])
    arguments = DepthTrainingArguments(output_dir=str(output), report_to="none")
    state, control = TrainerState(is_world_process_zero=rank == 0), TrainerControl()
    for step in range(3):
        batch = frames[4 * step : 4 * step + 4]
        loss = model(**DepthCollator(processor)(batch[rank::num_processes])).loss
        loss.backward()
        health.on_pre_optimizer_step(arguments, state, control, model=model)
        optimizer.step()
        optimizer.zero_grad()

    for callback in (health, PanelCallback(frames[:1], processor)):
        callback.on_evaluate(arguments, state, control, model=model)
    num_sharded = sum(isinstance(weight, DTensor) for weight in model.state_dict().values())
    whole = None
    if num_processes > 1:  # as `accelerator.get_state_dict` does
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
        whole = get_model_state_dict(model, options=options)
    if rank == 0:
        if method == "lora":
            write_adapter_folder(output / "folder", model, processor, state_dict=whole)
        else:
            write_model_folder(output / "folder", model, processor, state_dict=whole)
        weights = {name: w.detach().contiguous().clone() for name, w in (whole or model.state_dict()).items()}
        weights |= {f"health.{name}": torch.tensor(value) for name, value in health.values.items()}
        save_file(weights | {"num_sharded": torch.tensor(num_sharded)}, output / "weights.safetensors")


if __name__ == "__main__":
    main()
