"""Trains a random, tiny Llama on counting."""

import os
import sys
import warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
warnings.simplefilter("ignore")

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from ckptfs.integrations.transformers import Checkpointer, load, output_dir  # noqa: E402
from tests.integrations.programs.dying import Progress, report  # noqa: E402

STEPS = 20


class Dying(TrainerCallback):
    began = 0

    def on_train_begin(self, args, state, control, **kwargs):
        Dying.began = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        progress.reached(state.global_step)


progress = Progress()
torch.set_num_threads(1)
torch.manual_seed(7)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, **sizes))
rows = [{"input_ids": [(start + i) % 64 for i in range(16)]} for start in range(128)]
data = [row | {"labels": row["input_ids"]} for row in rows]
arguments = TrainingArguments(
    output_dir=output_dir(sys.argv[1]),
    max_steps=STEPS,
    per_device_train_batch_size=8,
    save_steps=3,
    save_total_limit=1,
    # other steps than those that are saved
    logging_steps=2,
    learning_rate=1e-2,
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    seed=7,
)
trainer = Trainer(model, arguments, train_dataset=data, callbacks=[Checkpointer(sys.argv[1]), Dying()])
trainer.train(resume_from_checkpoint=load(sys.argv[1]))
losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
report(Dying.began, trainer.state.global_step, losses[-1])
