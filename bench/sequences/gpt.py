"""A byte-level transformer, trained with AdamW: fp32 weights and moments, a version every 50 steps."""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

_CONTEXT = 32
_BATCH = 2
"""Small: a step is then 0.1 s, most of it for the optimizer. What is wanted is its state, not a good model."""
_WARM_UP_STEPS = 1000
"""One over 1 - beta2: before them the second moments are still filling, and no two versions are alike."""
_APART_STEPS = 50
_VERSIONS = 9
_LONG_VERSIONS = 21

Keep = Callable[[str, int], Path]


class _Gpt(nn.Module):
    def __init__(self, *, vocabulary: int = 256, width: int = 384, layers: int = 11) -> None:
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


def stdlib_text(size_bytes: int = 4 << 20) -> bytes:
    """Return the standard library's sources, which every machine has."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
    return bytes(text[:size_bytes])


def make_gpt(keep: Keep) -> None:
    """Train 20 million parameters, 240 MB a version, at a rate of 3e-4 and then, as a schedule ends, of 1e-5."""
    torch.manual_seed(0)
    corpus = _corpus()
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    _train(model, optimizer, corpus, _WARM_UP_STEPS)
    _keep_versions(lambda number: keep("fp32-adamw-3e-4", number), _VERSIONS, model, optimizer, corpus)
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    # the first moments need some steps to forget the larger rate
    _train(model, optimizer, corpus, _APART_STEPS)
    _keep_versions(lambda number: keep("fp32-adamw-1e-5", number), _VERSIONS, model, optimizer, corpus)


def make_long_run(keep: Keep) -> None:
    """Train 2 million parameters, 22 MB a version, at a rate of 3e-4, for more versions."""
    torch.manual_seed(0)
    corpus = _corpus()
    model = _Gpt(width=192, layers=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    _train(model, optimizer, corpus, _WARM_UP_STEPS)
    _keep_versions(lambda number: keep("long-run", number), _LONG_VERSIONS, model, optimizer, corpus)


def _corpus() -> torch.Tensor:
    return torch.frombuffer(bytearray(stdlib_text()), dtype=torch.uint8).long()


def _keep_versions(
    place: Callable[[int], Path],
    count: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    corpus: torch.Tensor,
) -> None:
    for number in range(count):
        if number:
            _train(model, optimizer, corpus, _APART_STEPS)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, place(number) / "checkpoint.pt")


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
