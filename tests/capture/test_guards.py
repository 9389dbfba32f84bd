"""Guards: a pending version's bytes stay, also when a process was killed while it gave it a copy."""

import os
from pathlib import Path

import pytest

from ckptfs.capture.guards import Guards, Slot


def pending(directory: Path, live: Path) -> Slot:
    """Make a pending version that shares a live file."""
    (directory / "data").mkdir(parents=True)
    os.link(live, directory / "data" / "0")
    return Slot(directory)


@pytest.mark.parametrize("killed", ["before its rename", "while it was written"])
def test_what_a_killed_process_left_is_not_written_to(tmp_path: Path, killed: str) -> None:
    live = tmp_path / "live"
    live.write_bytes(b"captured")
    slots = [pending(tmp_path / name, live) for name in ("older", "newer")]
    older, newer = (slot.directory / "data" for slot in slots)
    (newer / "0").unlink()
    (newer / "0").write_bytes(b"captured")
    if killed == "before its rename":
        os.link(newer / "0", older / "0.copy")
    else:
        (older / "0.copy").write_bytes(b"capt")
    guards = Guards()
    guards.add(live.stat().st_ino, slots[0], 0, 8)
    guards.protect(live.stat().st_ino, 0)
    live.write_bytes(b"changed")
    assert [(data / "0").read_bytes() for data in (older, newer)] == [b"captured"] * 2
    assert sorted(os.listdir(older)) == ["0"]


def test_one_copy_serves_all_versions_whatever_is_left_of_an_earlier_one(tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.write_bytes(b"captured")
    slots = [pending(tmp_path / name, live) for name in ("one", "two")]
    guards = Guards()
    for slot in slots:
        (slot.directory / "data" / "0.copy").write_bytes(b"left")
        guards.add(live.stat().st_ino, slot, 0, 8)
    guards.protect(live.stat().st_ino, 0)
    live.write_bytes(b"changed")
    first, second = (slot.directory / "data" / "0" for slot in slots)
    assert first.read_bytes() == second.read_bytes() == b"captured"
    assert first.stat().st_ino == second.stat().st_ino
