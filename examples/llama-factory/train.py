"""Trains as `llamafactory-cli train` does, with a callback: python train.py /ckpt train.yaml dataset_dir=... ..."""

import sys

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from ckptfs.integrations.transformers import Checkpointer, load


class PrintLoss(TrainerCallback):
    """Prints what the trainer logs."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called after each step."""
        if "loss" in logs:
            print(f"step {state.global_step} loss {logs['loss']}", flush=True)


directory = sys.argv.pop(1)
load(directory)  # takes the directory back to the newest version; the trainer finds its checkpoint there
sys.argv.append(f"output_dir={directory}")
run_exp(callbacks=[Checkpointer(directory), PrintLoss()])
