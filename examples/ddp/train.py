"""Trains on images with DDP; rank 0 saves: torchrun --standalone --nproc-per-node=2 train.py /ckpt."""

import sys

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ckptfs.integrations.torch import Checkpointer

STEPS, BATCH = 60, 32

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


model = DistributedDataParallel(
    nn.Sequential(nn.Conv2d(3, 16, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 49, 10))
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
training = Checkpointer(sys.argv[1], every=5, model=model, optimizer=optimizer)
distributed.barrier()  # rank 0 has gone back to the newest version
for step in range(training.restore() + 1, STEPS + 1):
    batch, labels = images(step)
    loss = functional.cross_entropy(model(batch), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    training.stepped(step, loss=loss)  # does nothing in the other ranks
    if rank == 0:
        print(f"step {step} loss {loss.item():.9g}", flush=True)
distributed.destroy_process_group()
