"""A sequence: the versions of one tree of files, on disk once they have been made."""

import io
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.sequences.fine_tune import make_fine_tune, make_lora
from bench.sequences.gpt import make_gpt, make_long_run
from bench.sequences.tabular import make_sqlite, make_xgboost

LONG = "long-run"
"""The sequence that is longer than the others."""

Keep = Callable[[str, int], Path]
"""Gives the directory for the files of a version of a sequence."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """Some versions of one tree of files."""

    name: str
    directory: Path
    """Holds a directory for each version, named by its number from 0."""
    derive: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None
    """Makes the files out of those that are kept: what can be computed takes no disk."""

    def __len__(self) -> int:
        return sum(1 for _ in self.directory.iterdir())

    def files(self, number: int) -> dict[str, bytes]:
        """Return the content of a version's files by their relative paths, sorted."""
        top = self.directory / str(number)
        paths = sorted(path for path in top.rglob("*") if path.is_file())
        kept = {str(path.relative_to(top)): path.read_bytes() for path in paths}
        return self.derive(kept) if self.derive is not None else kept

    def write(self, number: int, target: Path) -> int:
        """Write a version in place of what a directory holds; return its size (bytes)."""
        files = self.files(number)
        for path in sorted(target.rglob("*"), reverse=True):
            name = str(path.relative_to(target))
            if name in files or any(other.startswith(f"{name}/") for other in files):
                continue
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        for name, content in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return sum(map(len, files.values()))


class SequencePairs(Mapping[str, tuple[bytes, bytes]]):
    """The first two versions of every sequence as one piece of bytes each; read when they are asked for."""

    def __init__(self, sequences: Mapping[str, Sequence]) -> None:
        self._sequences = sequences

    def __getitem__(self, name: str) -> tuple[bytes, bytes]:
        sequence = self._sequences[name]
        return b"".join(sequence.files(0).values()), b"".join(sequence.files(1).values())

    def __iter__(self) -> Iterator[str]:
        return iter(self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)


def _with_bf16_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    """Mixed precision: the weights in bfloat16, their fp32 masters in the optimizer's part."""
    import torch

    (name,) = files
    state = torch.load(io.BytesIO(files[name]), weights_only=True)
    weights = {key: tensor.to(torch.bfloat16) for key, tensor in state["model"].items()}
    buffer = io.BytesIO()
    torch.save({"model": weights, "masters": state["model"], "optimizer": state["optimizer"]}, buffer)
    return {name: buffer.getvalue()}


_DERIVED = {"bf16-and-fp32": ("fp32-adamw-3e-4", _with_bf16_weights)}
"""Name: what it is made of, and how."""

_MAKERS: dict[Callable[[Keep], None], tuple[str, ...]] = {
    make_gpt: ("fp32-adamw-3e-4", "fp32-adamw-1e-5"),
    make_fine_tune: ("fine-tune",),
    make_lora: ("lora-merged",),
    make_xgboost: ("xgboost-ubj", "xgboost-json"),
    make_sqlite: ("sqlite",),
    make_long_run: (LONG,),
}
"""What makes sequences, and which."""

NAMES = (
    "fp32-adamw-3e-4",
    "fp32-adamw-1e-5",
    "bf16-and-fp32",
    "fine-tune",
    "lora-merged",
    "xgboost-ubj",
    "xgboost-json",
    "sqlite",
)
"""Those that are compared: nine versions each, the first, which stands alone, and eight that may refer to it."""


def load_sequences(directory: Path, names: Iterable[str] = NAMES) -> dict[str, Sequence]:
    """Return sequences by name; those that the directory lacks are made now."""
    sequences = {}
    for name in names:
        kept, derive = _DERIVED.get(name, (name, None))
        _ensure(directory, kept)
        sequences[name] = Sequence(name, directory / kept, derive)
    return sequences


def make_sequences(directory: Path) -> SequencePairs:
    """Return the first two versions of every sequence, made now if the directory lacks them."""
    return SequencePairs(load_sequences(directory))


def _ensure(directory: Path, name: str) -> None:
    if (directory / name).exists():
        return
    make, made = next(item for item in _MAKERS.items() if name in item[1])
    partial = directory / f"unfinished-{name}"
    shutil.rmtree(partial, ignore_errors=True)

    def keep(kept: str, number: int) -> Path:
        path = partial / kept / str(number)
        path.mkdir(parents=True)
        return path

    print(f"making {', '.join(made)}", flush=True)
    started_s = time.monotonic()
    make(keep)
    for kept in made:
        (partial / kept).rename(directory / kept)
    partial.rmdir()
    print(f"made {', '.join(made)} in {time.monotonic() - started_s:.0f} s", flush=True)
