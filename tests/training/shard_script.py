"""Three steps of plain PyTorch, sharded by FSDP2 where there are several processes: `shard_script.py OUTPUT`."""

import os
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from llm_mde.processing import DepthCollator
from tests.training.conftest import make_frames
from tests.training.test_trainer import without_dropout


def main() -> None:
    torch.set_num_threads(1)
    rank, num_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    model, processor = without_dropout()
    model.train()
    if num_processes > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (num_processes,))
        for module in list(model.modules()):  # as Accelerate's TRANSFORMER_BASED_WRAP does
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    frames = make_frames(12)
    for step in range(3):
        batch = frames[4 * step : 4 * step + 4]
        loss = model(**DepthCollator(processor)(batch[rank::num_processes])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights, num_sharded = {}, 0
    for name, weight in model.state_dict().items():
        num_sharded += isinstance(weight, DTensor)
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        weights[name] = whole.detach().contiguous().clone()
    if rank == 0:
        save_file(weights | {"num_sharded": torch.tensor(num_sharded)}, f"{sys.argv[1]}.safetensors")
    if num_processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
