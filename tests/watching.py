"""Watches for tests: each is a process of its own that is killed at the end, whatever happens."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ckptfs.client import watched
from ckptfs.fs.options import WatchOptions
from ckptfs.fs.watch.names import is_temporary
from tests.mounting import Speaking, wait_until

_END_TIMEOUT_S = 60.0
CONTROL = {".save", ".save.status", ".status", ".restore"}


def is_of_watch(path: Path) -> bool:
    """True for what a watch keeps in a directory, some of it for a moment only."""
    return path.name in CONTROL or is_temporary(os.fsencode(path.name))


class WatchFailedError(Exception):
    """A watch did not come to be; says why."""


class Watching(Speaking):
    """One watched directory.

    Args:
        store: Its URL.
        directory: Made if it is missing.
        cache_dir: As given to --cache-dir.
        options: Of WatchOptions.
    """

    def __init__(self, store: str, directory: Path, cache_dir: Path, **options: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.root = directory
        self.store = store
        self.cache_dir = cache_dir
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **options: Any) -> "Watching":
        """Watch; return when it is ready. Raises WatchFailedError."""
        self._process = self._launch(options)
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline() or '{"error": "it died"}')
        if "error" in answer:
            self._reap()
            raise WatchFailedError(answer["error"])
        return self

    def start_for_nobody(self) -> None:
        """Watch, but who started it is not there any more when it is ready."""
        self._process = self._launch({})
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _launch(self, options: dict[str, Any]) -> "subprocess.Popen[bytes]":
        wanted = WatchOptions(
            store=self.store, mountpoint=self.root, cache_dir=self.cache_dir, **{**self._options, **options}
        )
        values = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
        return subprocess.Popen(
            [sys.executable, "-m", "ckptfs.fs.launch", json.dumps(values, default=os.fspath)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9; its upload process goes on by itself."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def terminate(self) -> int:
        """SIGTERM; return its exit code when it has ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait_ended()

    def wait_ended(self) -> int:
        """Return its exit code when it has ended by itself."""
        assert self._process is not None
        code = self._process.wait(_END_TIMEOUT_S)
        self._reap()
        return code

    def close(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.wait(_END_TIMEOUT_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    # what it says

    def answers(self) -> dict[str, Any]:
        """What `.save.status` says."""
        return dict(json.loads((self.root / ".save.status").read_bytes()))

    def version(self) -> int:
        """The newest version that was captured."""
        return int(self.answers()["version"])

    def files(self) -> dict[str, bytes]:
        """The regular files of the directory, but for the watch's own."""
        found = {}
        for path in self.root.rglob("*"):
            if not is_of_watch(path) and path.is_file():
                found[str(path.relative_to(self.root))] = path.read_bytes()
        return found

    # doing

    def save(self, note: str = "", *, sync: bool = False) -> int:
        """Touch the marker and wait for its answer; return the version's number. Raises OSError."""
        return int(watched.touch(self.root, note.encode(), sync=sync)["version"])

    def wait_version(self, number: int) -> None:
        """Wait until there are as many versions."""
        wait_until(lambda: self.version() >= number, 30, f"version {number} of {self.root} is captured")


class Watches:
    """Makes watches below one directory, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: list[Watching] = []

    @property
    def store(self) -> str:
        return f"file://{self.directory}/store"

    def prepare(self, name: str = "watched", cache: str = "cache", **options: Any) -> Watching:
        """Return a watch that has not been started."""
        watching = Watching(self.store, self.directory / name, self.directory / cache, **options)
        self._made.append(watching)
        return watching

    def __call__(self, name: str = "watched", cache: str = "cache", **options: Any) -> Watching:
        """Watch."""
        return self.prepare(name, cache, **options).start()

    def close(self) -> None:
        for watching in self._made:
            watching.close()


def made_for(directory: Path) -> Iterator[Watches]:
    """Yield watches for a fixture."""
    watches = Watches(directory)
    try:
        yield watches
    finally:
        watches.close()
