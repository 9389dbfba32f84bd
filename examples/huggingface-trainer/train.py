"""Trains a tiny Llama on the bytes of a text with Hugging Face's Trainer: python train.py /ckpt TEXT."""

import sys
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from ckptfs.integrations.transformers import Checkpointer, load

LENGTH = 32


class PrintLoss(TrainerCallback):
    """Prints what the trainer logs."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called after each step."""
        if "loss" in logs:
            print(f"step {state.global_step} loss {logs['loss']}", flush=True)


directory, text = sys.argv[1], Path(sys.argv[2]).read_bytes()
rows = [list(text[i : i + LENGTH]) for i in range(0, len(text) - LENGTH, LENGTH)]
set_seed(7)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
)
trainer = Trainer(
    model,
    TrainingArguments(
        output_dir=directory,
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        save_steps=10,
        save_total_limit=1,  # versions keep the older ones
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=7,
    ),
    train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    callbacks=[Checkpointer(directory), PrintLoss()],
)
trainer.train(resume_from_checkpoint=load(directory))
