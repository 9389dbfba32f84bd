"""The marker of a watched directory while programs use it at the worst moment."""

import os
from pathlib import Path

import pytest

from ckptfs.fs.watch import marker_file
from ckptfs.fs.watch.marker_file import MarkerFile


@pytest.mark.parametrize("after", [False, True], ids=["just before", "just after"])
def test_what_is_written_around_an_exchange_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    marker, real = MarkerFile(root_fd, b".save"), marker_file._exchange_names
    marker.put(b"version 1")

    def exchange(*names: bytes | int) -> None:
        if not after:
            (tmp_path / ".save").write_bytes(b"note")
        real(*names)
        if after:
            (tmp_path / ".save").write_bytes(b"note")

    assert not marker.is_touched()
    with monkeypatch.context() as patch:
        patch.setattr(marker_file, "_exchange_names", exchange)
        marker.put(b"version 2")
    assert marker.is_touched()
    assert marker.take(marker.prepare()).text == b"note"
    assert not marker.is_touched()
    marker.remove()
    os.close(root_fd)
