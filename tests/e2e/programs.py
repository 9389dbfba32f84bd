"""Busy programs that run beside a test and check all that they do (busy_program.py)."""

import os
import subprocess
import sys
from pathlib import Path


class Program:
    """A busy program in a directory of its own."""

    def __init__(self, kind: str, directory: Path, seed: int, output: Path) -> None:
        directory.mkdir()
        self._output = output
        command = [sys.executable, "-u", "-m", "tests.e2e.busy_program", kind, os.fspath(directory), str(seed)]
        with output.open("w") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)

    @property
    def has_ended(self) -> bool:
        """True if something went wrong."""
        return self._process.poll() is not None

    def said(self) -> list[str]:
        """Return the lines that it has said so far."""
        return self._output.read_text().splitlines()

    def stop(self) -> list[str]:
        """Have it end; return the lines that it said. AssertionError if it has failed."""
        self._process.communicate(b"stop\n", timeout=120)
        said = self.said()
        assert self._process.returncode == 0, "\n".join(said)[-3000:]
        return said

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(60)
