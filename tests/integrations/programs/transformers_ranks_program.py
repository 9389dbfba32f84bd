"""Trains in two ranks, of which the second is slow in writing its own part of a checkpoint: torchrun starts it."""

import os
import sys
import time
import warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
warnings.simplefilter("ignore")

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments  # noqa: E402

from ckptfs.integrations.transformers import Checkpointer, load  # noqa: E402


class SlowTrainer(Trainer):
    def _save_rng_state(self, output_dir):
        if self.args.process_index == 1:
            time.sleep(2)
        super()._save_rng_state(output_dir)


torch.set_num_threads(1)
torch.manual_seed(7)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, **sizes))
rows = [{"input_ids": list(range(16)), "labels": list(range(16))} for _ in range(8)]
arguments = TrainingArguments(
    output_dir=sys.argv[1],
    max_steps=2,
    per_device_train_batch_size=2,
    save_steps=1,
    logging_steps=1,
    report_to=[],
    use_cpu=True,
    ddp_backend="gloo",
    disable_tqdm=True,
)
with arguments.main_process_first():
    path = load(sys.argv[1])
trainer = SlowTrainer(model, arguments, train_dataset=rows, callbacks=[Checkpointer(sys.argv[1])])
trainer.train(resume_from_checkpoint=path)
