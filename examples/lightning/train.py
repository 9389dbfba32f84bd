"""Trains with Lightning on scikit-learn's digits, and goes on from the newest version: python train.py /ckpt."""

import sys

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckptfs.integrations.lightning import Checkpointer, load


class Digits(lightning.LightningModule):
    """Two layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, index):
        """Return the loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layers(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


class PrintLoss(lightning.Callback):
    """Prints the loss of each step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        """Called after each step."""
        print(f"step {trainer.global_step} loss {outputs['loss'].item():.9g}", flush=True)


directory = sys.argv[1]
lightning.seed_everything(7, verbose=False)
images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
batches = DataLoader(TensorDataset(images.float() / 16, labels), batch_size=300)  # six to an epoch
trainer = lightning.Trainer(
    max_steps=60,
    max_epochs=-1,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[Checkpointer(directory, every=6), PrintLoss()],  # at the ends of epochs
)
trainer.fit(Digits(), batches, ckpt_path=load(directory))
