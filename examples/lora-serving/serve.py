"""Serves the newest adapter of a mount that follows: python serve.py /ckpt STEPS. Ends with the adapter of that step.

    ckptfs mount s3://bucket/lora /ckpt --read-only --follow

What a server in a container does: it looks for a new version, loads the adapter, and answers with it.
"""

import sys
import time

import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

import ckptfs

PROMPT = b"Licensed under the "

checkpoint, last_step = ckptfs.checkpoint(sys.argv[1]), int(sys.argv[2])
serving, step = 0, 0
while step < last_step:
    version = checkpoint.latest
    if version is None or version.number == serving:
        time.sleep(0.05)
        continue
    # of one version, whatever is saved meanwhile
    base = LlamaForCausalLM.from_pretrained(version.path / "base")
    model = PeftModel.from_pretrained(base, version.path / "adapter").eval()
    prompt = torch.tensor([list(PROMPT)])
    with torch.no_grad():
        answer = model.generate(input_ids=prompt, max_new_tokens=16, do_sample=False, pad_token_id=0)
    serving, step = version.number, version.note["step"]
    print(f"serves version {serving} step {step}: {bytes(answer[0].tolist()).decode(errors='replace')!r}", flush=True)
