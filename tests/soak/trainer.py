"""A program that trains in a mount and saves after each step, saying what it saves: `python -m tests.soak.trainer`.

    python -m tests.soak.trainer DIRECTORY RECORDS FIRST_STEP SEED

Before and after each touch of the marker a line goes to RECORDS: the step, and the hash of every file. Whatever kills
it leaves its files half written; it begins by writing all of them anew.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from ckptfs.hashing import hash_bytes

_WEIGHTS = 4 << 20
"""float32."""
_CHANGED = 1 << 18
_KEPT_CHECKPOINTS = 3
_THINKING_S = 0.3


class Trainer:
    """Writes as training programs do: whole files, in place, through a temporary name, and at the end of a log."""

    def __init__(self, top: Path, records_fd: int, seed: int) -> None:
        self._top = top
        self._records_fd = records_fd
        self._chance = np.random.default_rng(seed)
        self._weights = self._chance.standard_normal(_WEIGHTS, dtype=np.float32)
        self._log = b""
        self._hashes: dict[str, str] = {}

    def begin(self) -> None:
        """Write everything anew."""
        for path in self._top.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._write("weights.bin", self._weights.tobytes())
        self._write("log.txt", b"")

    def step(self, number: int) -> None:
        """Train, save, and say so."""
        start = int(self._chance.integers(0, _WEIGHTS - _CHANGED))
        self._weights[start : start + _CHANGED] += self._chance.standard_normal(_CHANGED, dtype=np.float32) * 1e-3
        if number % 3:
            self._write("weights.bin", self._weights.tobytes())
        else:
            with (self._top / "weights.bin").open("r+b") as file:
                file.seek(4 * start)
                file.write(self._weights[start : start + _CHANGED].tobytes())
            self._hashes["weights.bin"] = hash_bytes(self._weights.tobytes()).hex()
        line = f"step {number} loss {self._chance.random():.6f}\n".encode()
        with (self._top / "log.txt").open("ab") as file:
            file.write(line)
        self._log += line
        self._hashes["log.txt"] = hash_bytes(self._log).hex()
        self._checkpoint(number)
        self._save(number)

    def _checkpoint(self, number: int) -> None:
        directory = self._top / f"checkpoint-{number}"
        directory.mkdir()
        data = self._chance.bytes(200_000)
        temporary = directory / "state.tmp"
        temporary.write_bytes(data)
        temporary.rename(directory / "state.bin")
        self._hashes[f"{directory.name}/state.bin"] = hash_bytes(data).hex()
        # rotated by name and not by what a former life has left
        names = sorted((path.name for path in self._top.glob("checkpoint-*")), key=lambda name: int(name[11:]))
        for name in names[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(self._top / name)
            self._hashes.pop(f"{name}/state.bin", None)

    def _write(self, name: str, data: bytes) -> None:
        (self._top / name).write_bytes(data)
        self._hashes[name] = hash_bytes(data).hex()

    def _save(self, number: int) -> None:
        self._say({"what": "trying", "step": number, "files": self._hashes})
        fd = os.open(self._top / ".save", os.O_WRONLY)
        try:
            os.write(fd, json.dumps({"step": number}).encode())
        finally:
            os.close(fd)
        self._say({"what": "captured", "step": number})

    def _say(self, record: dict[str, object]) -> None:
        os.write(self._records_fd, json.dumps(record).encode() + b"\n")


def main(directory: str, records: str, first_step: str, seed: str) -> None:
    """Train until something ends it."""
    records_fd = os.open(records, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    number = int(first_step)
    trainer = Trainer(Path(directory), records_fd, int(seed) + number)
    trainer.begin()
    while True:
        trainer.step(number)
        number += 1
        time.sleep(_THINKING_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
