"""What a watch takes up from the one before."""

import os
from pathlib import Path

from ckptfs.fs.watch.before import kept_bytes
from tests.cli.scene import capture


def test_a_pending_version_keeps_the_disk_that_its_files_take(tmp_path: Path) -> None:
    pending = capture(tmp_path, 1, {"dense": b"d" * 5000, "sparse": b"s" * 50_000}, before={}, note=None)
    for size_bytes in (0, 50_000):
        os.truncate(pending.data_path(1), size_bytes)
    assert kept_bytes(pending) == 5000
