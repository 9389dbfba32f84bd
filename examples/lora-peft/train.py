"""Fine-tunes a tiny Llama with LoRA, and saves the adapter: python train.py /ckpt TEXT."""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import ckptfs

STEPS, EVERY, BATCH, LENGTH = 60, 5, 8, 32


def make_base(path):
    """Write the base model: random here, a download elsewhere. It is in every version, and stored once."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.1, **sizes)).save_pretrained(path)


torch.manual_seed(7)
checkpoint = ckptfs.checkpoint(sys.argv[1])
if checkpoint.is_loaded:
    checkpoint.load()
base_path, adapter_path, state_path = (checkpoint.directory / name for name in ("base", "adapter", "state.pt"))
if not base_path.exists():
    make_base(base_path)
base = LlamaForCausalLM.from_pretrained(base_path)
if checkpoint.is_loaded:
    model = PeftModel.from_pretrained(base, adapter_path, is_trainable=True)
else:
    model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
done = 0
if checkpoint.is_loaded:
    state = torch.load(state_path)
    done = state["step"]
    optimizer.load_state_dict(state["optimizer"])

text = torch.tensor(list(Path(sys.argv[2]).read_bytes()))
for step in range(done + 1, STEPS + 1):
    starts = torch.randint(len(text) - LENGTH, (BATCH,), generator=torch.Generator().manual_seed(step))
    rows = torch.stack([text[start : start + LENGTH] for start in starts])
    loss = model(input_ids=rows, labels=rows).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % EVERY == 0:
        model.save_pretrained(adapter_path)
        torch.save({"step": step, "optimizer": optimizer.state_dict()}, state_path)
        checkpoint.save({"step": step, "loss": loss.item()})
    print(f"step {step} loss {loss.item():.9g}", flush=True)
