"""Durable steps: every operation of this process that changes files below a directory, counted, and a kill before one.

They are seen where Python calls the system: the functions of `os` that make, write, move, remove or fsync a file are
replaced, in the process under test alone, by some that count first. A write of more than a page is two steps; the
second kills when half of it is done. What C code does by itself (a clone by ioctl, fallocate) is no step; those before
and after it are.
"""

import functools
import os
import pathlib
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import ckptfs.private

_CREATES = os.O_CREAT | os.O_TRUNC
# what lies in one page is written, or is not, when its writer is killed
_PAGE_BYTES = 4096
_readlink, _kill = os.readlink, os.kill


class Steps:
    """Counts the steps of this process.

    Args:
        top: Only what is below it counts.
        kill_at: kill -9 of this process when it is about to take the step of this number; 0: never.
    """

    def __init__(self, top: str, kill_at: int) -> None:
        self._top = top + "/"
        self._kill_at = kill_at
        self._lock = threading.Lock()
        self.count = 0
        self.kinds: Counter[str] = Counter()

    def take(self, kind: str, path: Any, dir_fd: int | None = None, *, can_be_cut: bool = False) -> bool:
        """Count a step, if it is one; return True if it is, and the write that it begins is to be cut short."""
        if not _where(path, dir_fd).startswith(self._top):
            return False
        with self._lock:
            self.count += 1
            self.kinds[kind] += 1
            if self.count == self._kill_at:
                _kill(os.getpid(), signal.SIGKILL)
            if not can_be_cut:
                return False
            self.count += 1
            return self.count == self._kill_at

    def install(self) -> None:
        """Replace the functions, for the rest of this process's life."""
        for name in ("unlink", "remove", "rmdir", "mkdir", "truncate"):
            self._replace(name, lambda path, *rest, dir_fd=None, **named: (path, dir_fd))
        for name in ("rename", "replace", "link"):
            self._replace(name, lambda old, new, *rest, dst_dir_fd=None, **named: (new, dst_dir_fd))
        self._replace("symlink", lambda target, path, *rest, dir_fd=None, **named: (path, dir_fd))
        for name in ("fsync", "fdatasync", "ftruncate"):
            self._replace(name, lambda fd, *rest: (fd, None))
        self._replace("copy_file_range", lambda source, target, *rest, **named: (target, None))
        self._replace_open()
        self._replace_write("write", os.write)
        self._replace_write("pwrite", os.pwrite)
        _write_through_os()

    def _replace(self, name: str, place: Callable[..., tuple[Any, int | None]]) -> None:
        real = getattr(os, name)

        @functools.wraps(real)
        def counting(*arguments: Any, **named: Any) -> Any:
            self.take(name, *place(*arguments, **named))
            return real(*arguments, **named)

        setattr(os, name, counting)

    def _replace_open(self) -> None:
        real = os.open

        @functools.wraps(real)
        def counting(path: Any, flags: int, *rest: Any, dir_fd: int | None = None, **named: Any) -> int:
            if flags & _CREATES:
                self.take("open", path, dir_fd)
            return real(path, flags, *rest, dir_fd=dir_fd, **named)

        os.open = counting

    def _replace_write(self, name: str, real: Callable[..., int]) -> None:
        @functools.wraps(real)
        def counting(fd: int, data: Any, *rest: Any) -> int:
            size = memoryview(data).nbytes
            if self.take("write", fd, can_be_cut=size > _PAGE_BYTES):
                half = -(-size // 2 // _PAGE_BYTES) * _PAGE_BYTES
                real(fd, memoryview(data).cast("B")[:half], *rest)
                _kill(os.getpid(), signal.SIGKILL)
            return real(fd, data, *rest)

        setattr(os, name, counting)


def _write_through_os() -> None:
    """Let those who write files in C write them by the functions of `os`."""

    def write_bytes(path: pathlib.Path, data: Any) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def write_text(path: pathlib.Path, data: str, *_: Any, **__: Any) -> int:
        return write_bytes(path, data.encode())

    class Opened:
        """What `open(fd, "wb", buffering=0)` gives, as far as it is used."""

        def __init__(self, fd: int, *_: Any, **__: Any) -> None:
            self._fd = fd

        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            os.close(self._fd)

        def write(self, data: Any) -> int:
            return os.write(self._fd, data)

    ckptfs.private.open = Opened  # type: ignore[attr-defined]
    pathlib.Path.write_bytes = write_bytes  # type: ignore[method-assign]
    pathlib.Path.write_text = write_text  # type: ignore[assignment,method-assign]


def _where(path: Any, dir_fd: int | None) -> str:
    """Return the full path of what a call names."""
    if isinstance(path, int):
        return _readlink(f"/proc/self/fd/{path}")
    name = os.fsdecode(path)
    if name.startswith("/"):
        return name
    above = _readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
    return f"{above}/{name}"
