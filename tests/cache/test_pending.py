"""Pending versions: how they get to the local disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from ckptfs.cache.pending import close_pending, list_pending, make_draft, write_pending
from tests.data.make_golden import LOCAL_PART, PENDING


def test_nothing_of_one_is_truncated_while_a_save_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 writes what was truncated to the disk as it is closed (ext4(5), auto_da_alloc)."""
    draft, pending_root = tmp_path / "draft", tmp_path / "pending"
    make_draft(draft)
    pending_root.mkdir()
    opened: list[tuple[str, int]] = []
    real = os.open

    def watched(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        opened.append((Path(path).name, flags))
        return real(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        pending = write_pending(draft, pending_root, 1, PENDING, LOCAL_PART)
    assert sorted(name for name, _ in opened) == ["manifest", "seal", "version.json"]
    assert not any(flags & os.O_TRUNC for _, flags in opened)
    close_pending(pending)
    (found,) = list_pending(pending_root)
    assert (found.header, found.part()) == (PENDING, LOCAL_PART)
