"""Writes what train.yaml is used with: a random tiny Llama, a tokenizer of bytes, sums: python prepare.py DIRECTORY."""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

directory = Path(sys.argv[1])
vocabulary = {"<s>": 0, "</s>": 1} | {sign: i + 2 for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
whole.save_pretrained(directory / "base")

torch.manual_seed(7)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlamaConfig(vocab_size=len(vocabulary), initializer_range=0.1, bos_token_id=0, eos_token_id=1, **sizes)
LlamaForCausalLM(config).save_pretrained(directory / "base")

rows = [{"instruction": f"{a} + {b} =", "input": "", "output": f"{a + b}"} for a in range(16) for b in range(16)]
(directory / "sums.json").write_text(json.dumps(rows))
(directory / "dataset_info.json").write_text(json.dumps({"sums": {"file_name": "sums.json"}}))
