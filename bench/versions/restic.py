"""restic: content-defined chunks, deduplicated, compressed by zstd and encrypted."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.product import size_of
from bench.sequences import Sequence

_DEADLINE_S = 600.0


def store_in_restic(sequence: Sequence, scratch: Path) -> dict[int, int]:
    """Back up every version in turn; return by how much the repository grew, by the version's number."""
    root = Path(tempfile.mkdtemp(prefix="restic-", dir=scratch))
    repository, source = root / "repository", root / "run"
    source.mkdir()
    env = {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": "none", "RESTIC_CACHE_DIR": str(root / "cache")}
    added = {}
    try:
        _run(["restic", "init", "--repository-version", "2"], env)
        before = size_of(repository)
        for number in range(len(sequence)):
            sequence.write(number, source)
            _run(["restic", "backup", "--quiet", "--compression", "auto", str(source)], env)
            size = size_of(repository)
            added[number], before = size - before, size
        return added
    finally:
        shutil.rmtree(root, ignore_errors=True)


def is_installed() -> bool:
    """True if there is a restic that compresses (0.14)."""
    return shutil.which("restic") is not None


def _run(command: list[str], env: dict[str, str]) -> None:
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, timeout=_DEADLINE_S)
