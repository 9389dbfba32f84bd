"""What changes past the mount's process is looked for under names that may have become others'."""

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ckptfs.fs.handles import Inode
from ckptfs.fs.live.unseen import UnseenChanges


def test_a_fifo_under_the_name_of_a_mapped_file_holds_up_no_capture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "name")
    root_fd = os.open(tmp_path, os.O_RDONLY)
    inodes = {1: Inode(1, maybe_mapped=True, path=b"name")}

    @contextmanager
    def all_inodes() -> Any:
        yield inodes

    live: Any = SimpleNamespace(
        root_fd=root_fd,
        at=lambda path: path,
        lstat=lambda path: os.stat(path, dir_fd=root_fd, follow_symlinks=False),
    )
    unseen = UnseenChanges(live, SimpleNamespace(all=all_inodes, find=inodes.get))  # type: ignore[arg-type]
    marking = threading.Thread(target=unseen.mark, daemon=True)
    marking.start()
    marking.join(10)
    try:
        assert not marking.is_alive(), "it waits for somebody to open the other end"
    finally:
        # if it does: end it
        os.close(os.open(tmp_path / "name", os.O_RDWR))
        marking.join(10)
        os.close(root_fd)
