"""Checkpoints as training really writes them: small models, trained here, seeded.

Every sequence is two versions of one file, the base and the version after it. They are kept in a directory, so that
training happens once.
"""

import io
import sqlite3
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

_CONTEXT = 64
_BATCH = 8
_WARM_UP_STEPS = 1000
"""One over 1 - beta2: before them the second moments are still filling, and no two versions are alike."""
_APART_STEPS = 50


class _Gpt(nn.Module):
    """A byte-level transformer."""

    def __init__(self, *, vocabulary: int = 256, width: int = 192, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(_CONTEXT, width)
        block = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(_CONTEXT), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(tokens) + self.positions.weight
        return self.head(self.blocks(hidden, mask=self.mask, is_causal=True))


def _corpus(size_bytes: int = 4 << 20) -> torch.Tensor:
    """The standard library's sources, as byte values."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
    return torch.frombuffer(text[:size_bytes], dtype=torch.uint8).long()


def _words(corpus: torch.Tensor) -> torch.Tensor:
    """Pairs of bytes as one token of 65,536, of which most never occur: what a large vocabulary looks like."""
    pairs = corpus[: len(corpus) // 2 * 2].view(-1, 2)
    return pairs[:, 0] * 256 + pairs[:, 1]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, corpus: torch.Tensor, steps: int) -> None:
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(corpus) - _CONTEXT - 1, (_BATCH,)).tolist()
        batch = torch.stack([corpus[start : start + _CONTEXT + 1] for start in starts])
        logits = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _fp32(model: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    return _saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def _bf16(model: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Mixed precision: the weights in bfloat16, their fp32 masters in the optimizer's part."""
    masters = model.state_dict()
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in masters.items()}
    return _saved({"model": weights, "masters": masters, "optimizer": optimizer.state_dict()})


def _adamw(keep: Callable[[str, bytes, bytes], None]) -> None:
    corpus = _corpus()
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    _train(model, optimizer, corpus, _WARM_UP_STEPS)
    start = _fp32(model, optimizer), _bf16(model, optimizer)
    _train(model, optimizer, corpus, _APART_STEPS)
    keep("fp32-adamw-3e-4", start[0], _fp32(model, optimizer))
    keep("bf16-and-fp32", start[1], _bf16(model, optimizer))
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    # the moments need some steps to forget the larger rate
    _train(model, optimizer, corpus, _APART_STEPS)
    before = _fp32(model, optimizer)
    _train(model, optimizer, corpus, _APART_STEPS)
    keep("fp32-adamw-1e-5", before, _fp32(model, optimizer))


def _fine_tune(keep: Callable[[str, bytes, bytes], None]) -> None:
    """A large vocabulary of which few rows get gradients: the moments of the others only decay, or stay 0."""
    corpus = _words(_corpus())
    model = _Gpt(vocabulary=65_536, width=96, layers=4)
    model.head.weight = model.tokens.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0)
    model.head.weight.register_hook(lambda gradient: gradient * (gradient.abs().amax(1, keepdim=True) > 1e-4))
    _train(model, optimizer, corpus, 40)
    before = _fp32(model, optimizer)
    _train(model, optimizer, corpus, 10)
    keep("fine-tune", before, _fp32(model, optimizer))


def _lora(keep: Callable[[str, bytes, bytes], None]) -> None:
    """A model with low-rank updates of its attention added to its bf16 weights."""
    model = _Gpt(width=384)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    merged = []
    for scale in (1e-3, 2e-3):
        copy = dict(weights)
        for name, tensor in weights.items():
            if "in_proj_weight" in name:
                left, right = torch.randn(tensor.shape[0], 8), torch.randn(8, tensor.shape[1])
                copy[name] = (tensor.float() + scale * (left @ right) / 8).to(torch.bfloat16)
        merged.append(_saved(copy))
    keep("lora-merged", merged[0], merged[1])


def _sqlite(keep: Callable[[str, bytes, bytes], None]) -> None:
    """A table of trials that grew by 1 %."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "study.db")
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE trials (id INTEGER PRIMARY KEY, name TEXT, value REAL, state TEXT)")
        versions = []
        for count in (60_000, 600):
            rows = [(f"lr_{int(rate * 1e6)}", float(rate), "COMPLETE") for rate in generator.random(count)]
            connection.executemany("INSERT INTO trials (name, value, state) VALUES (?, ?, ?)", rows)
            connection.commit()
            versions.append(path.read_bytes())
        connection.close()
    keep("sqlite", versions[0], versions[1])


def make_sequences(directory: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return base and next version of every sequence by name, trained now if the directory lacks them."""
    directory.mkdir(parents=True, exist_ok=True)
    done = directory / "done"

    def keep(name: str, base: bytes, version: bytes) -> None:
        (directory / f"{name}.0").write_bytes(base)
        (directory / f"{name}.1").write_bytes(version)

    if not done.exists():
        torch.manual_seed(0)
        torch.set_num_threads(1)
        for make in (_adamw, _fine_tune, _lora, _sqlite):
            make(keep)
        done.touch()
    return {
        path.stem: (path.read_bytes(), path.with_suffix(".1").read_bytes()) for path in sorted(directory.glob("*.0"))
    }
