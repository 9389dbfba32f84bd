"""Trains a small network with Adam, dropout and a schedule on the digits."""

import sys

import torch
from sklearn.datasets import load_digits

from ckptfs.integrations.torch import Checkpointer
from tests.integrations.programs.dying import Progress, report

STEPS = 20
torch.manual_seed(7)
torch.set_num_threads(1)
progress = Progress()
features, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
features = features.float() / 16
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
training = Checkpointer(sys.argv[1], every=3, model=model, optimizer=optimizer, scheduler=scheduler)
began = step = training.restore()
loss = torch.tensor(0.0)
for step in range(began + 1, STEPS + 1):
    chosen = torch.randint(len(features), (128,))
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(features[chosen]), labels[chosen])
    loss.backward()
    optimizer.step()
    scheduler.step()
    progress.reached(step)
    training.stepped(step, loss=loss)
training.save(step, loss=loss)
report(began, step, loss.item())
