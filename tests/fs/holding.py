"""Holding the upload process back, so that what is done to a pending version has time to go wrong."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.mounting import Mount, wait_until
from tests.snapshot import Snapshot, snapshot


class Held:
    """A mount whose versions stay pending until they are released."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.root = mount.root
        wait_until(lambda: mount.upload_pid() is not None, 20, "the upload process runs")
        self._pid = mount.upload_pid() or 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing become durable meanwhile; then all."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)
        self.mount.sync()

    def saved(self, number: int, path: Path) -> Path:
        """Return where a version has a path of the mount."""
        return self.root / ".versions" / str(number) / path.relative_to(self.root)

    def version(self, number: int, place: Path) -> Snapshot:
        """Return what a version holds in a directory of the mount."""
        return snapshot(self.saved(number, place))
