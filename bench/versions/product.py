"""ckptfs itself: a mount of a store in a directory, one save for each version."""

import shutil
import tempfile
from pathlib import Path

from bench.product import mounted, read_ckptfs, run_ckptfs, size_of
from bench.sequences import Sequence
from bench.versions.stored import Stored


def store_in_ckptfs(sequence: Sequence, scratch: Path) -> Stored:
    """Save every version in turn, then check that the newest comes back; return by how much the store's files grew.

    Raises:
        RuntimeError: The newest version is not what was saved, or `ckptfs log` says less than the store grew.
    """
    raw: dict[int, int] = {}
    added: dict[int, int] = {}
    root = Path(tempfile.mkdtemp(prefix="ckptfs-versions-", dir=scratch))
    store = root / "store"
    url = f"file://{store}"
    try:
        with mounted(root, url, {}) as mount:
            before = size_of(store)
            for number in range(len(sequence)):
                raw[number] = sequence.write(number, mount.run)
                mount.save()
                size = size_of(store)
                added[number], before = size - before, size
        _check_log(url, added)
        target = root / "restored"
        run_ckptfs("restore", url, str(target), env={})
        _check_restored(sequence.files(len(sequence) - 1), target / "run")
        return Stored("ckptfs", raw, added)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _check_log(url: str, added: dict[int, int]) -> None:
    """`bytes_added` leaves out the commit record, at most some hundred bytes and the manifest of small versions."""
    told = {version["version"] - 1: int(version["bytes_added"]) for version in read_ckptfs("log", url, env={})}
    for number, size in added.items():
        if not 0 <= size - told[number] <= 64 << 10:
            raise RuntimeError(f"version {number} added {size} bytes to the store, ckptfs log says {told[number]}")


def _check_restored(files: dict[str, bytes], target: Path) -> None:
    for name, content in files.items():
        if (target / name).read_bytes() != content:
            raise RuntimeError(f"{name} was not restored as it was saved")
