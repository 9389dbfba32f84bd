"""Trains a sharded model; every rank writes its own files: torchrun --standalone --nproc-per-node=2 train.py /ckpt."""

import sys

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

import ckptfs

STEPS, EVERY, BATCH = 60, 5, 32

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(7)
means = torch.randn(10, 3, 4, 4)  # of ten classes


def images(step):
    """Return images in the shape of CIFAR-10's, and their labels: other ones in each step and rank."""
    draw = torch.Generator().manual_seed(step * distributed.get_world_size() + rank)
    labels = torch.randint(10, (BATCH,), generator=draw)
    noise = torch.randn(BATCH, 3, 32, 32, generator=draw)
    return functional.interpolate(means[labels], size=32) + noise, labels


model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 10))
fully_shard(model, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def state(step):
    """Return what is saved: each rank has a part of it."""
    parameters, moments = get_state_dict(model, optimizer)
    return {"model": parameters, "optimizer": moments, "step": step}


checkpoint = ckptfs.checkpoint(sys.argv[1])
parts = checkpoint.directory / "parts"
done = 0
if checkpoint.is_loaded:
    if rank == 0:
        checkpoint.load()  # for all: it is one mount
    distributed.barrier()
    loaded = state(0)
    dcp.load(loaded, checkpoint_id=parts)
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
    done = loaded["step"]
for step in range(done + 1, STEPS + 1):
    batch, labels = images(step)
    loss = functional.cross_entropy(model(batch), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % EVERY == 0:
        dcp.save(state(step), checkpoint_id=parts)
        # one version of what all ranks have written
        checkpoint.save({"step": step, "loss": loss.item()} if rank == 0 else None, barrier=True)
    if rank == 0:
        print(f"step {step} loss {loss.item():.9g}", flush=True)
distributed.destroy_process_group()
