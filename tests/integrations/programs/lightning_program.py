"""Trains a small network on the digits."""

import sys
import warnings

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from ckptfs.integrations.lightning import Checkpointer, load
from tests.integrations.programs.dying import Progress, report

warnings.simplefilter("ignore")


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def training_step(self, batch, index):
        loss = torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Dying(lightning.Callback):
    began = None

    def on_train_start(self, trainer, module):
        Dying.began = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        progress.reached(trainer.global_step)


progress = Progress()
torch.set_num_threads(1)
lightning.seed_everything(7, verbose=False)
features, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
batches = DataLoader(TensorDataset(features.float() / 16, labels), batch_size=600)  # three to an epoch
trainer = lightning.Trainer(
    max_steps=20,
    max_epochs=-1,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[Checkpointer(sys.argv[1], every=3), Dying()],
)
trainer.fit(Digits(), batches, ckpt_path=load(sys.argv[1]))
report(Dying.began, trainer.global_step, trainer.callback_metrics["loss"])
