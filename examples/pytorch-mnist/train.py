"""Trains a small CNN on MNIST's files, and goes on from the newest version: python train.py /ckpt DATA."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ckptfs.integrations.torch import Checkpointer

STEPS, BATCH = 80, 64


def read_idx(path):
    """Return the array of an idx file, the format of MNIST."""
    content = path.read_bytes()
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    return torch.frombuffer(bytearray(content[4 + 4 * len(shape) :]), dtype=torch.uint8).reshape(shape)


directory, data = Path(sys.argv[1]), Path(sys.argv[2])
images = read_idx(data / "train-images-idx3-ubyte").unsqueeze(1) / 255
labels = read_idx(data / "train-labels-idx1-ubyte").long()

torch.manual_seed(7)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.LazyLinear(10)
)
model(images[:1])
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

training = Checkpointer(directory, every=10, model=model, optimizer=optimizer, scheduler=scheduler)
for step in range(training.restore() + 1, STEPS + 1):
    chosen = torch.randint(len(images), (BATCH,))
    loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    training.stepped(step, loss=loss)
    print(f"step {step} loss {loss.item():.9g}", flush=True)
