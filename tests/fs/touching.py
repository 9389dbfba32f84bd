"""Touching the marker as programs do, and counting what came of it."""

import subprocess
from pathlib import Path
from typing import Any

from tests.mounting import Mount


def run(command: str, directory: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a shell line in a directory, to its end."""
    return subprocess.run(["bash", "-c", command], cwd=directory, capture_output=True, text=True, timeout=30, **more)


def ran(command: str, directory: Path, **more: Any) -> str:
    """Run a shell line that must succeed; return what it printed."""
    result = run(command, directory, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


class Counter:
    """Counts versions of a mount."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._before = self.version

    @property
    def version(self) -> int:
        return int(self._mount.marker()["version"])

    @property
    def made(self) -> int:
        """Versions made since."""
        return self.version - self._before

    @property
    def note(self) -> Any:
        """Of the newest version."""
        return self._mount.marker()["note"]
