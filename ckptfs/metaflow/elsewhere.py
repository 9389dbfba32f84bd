"""What is saved from elsewhere: copied into the mount, by one thread of one program at a time until it is captured."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptfs.client import incoming
from ckptfs.metaflow import command
from ckptfs.metaflow.reference import SAVED
from ckptfs.metaflow.scope import Scope

# locks of fcntl are a process's, and a child that is forked meanwhile does not have them
_one_at_a_time = threading.Lock()


def _begin_anew() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def brought(given: incoming.Given, scope: Scope) -> Iterator[None]:
    """Put a file, or a directory's content, into its place in the mount; nobody else's takes it before this ends."""
    with _one_at_a_time:
        fd = os.open(os.path.join(scope.directory, "save.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            _take(given, scope.mountpoint)
            yield
        finally:
            os.close(fd)


def _take(given: incoming.Given, root: Path) -> None:
    source, target, new = incoming.existing(given), root / SAVED, root / f".{SAVED}"
    if os.path.lexists(new):
        command.remove(new)  # of a program that was killed here
    try:
        if source.is_dir():
            incoming.copy(source, new, root)
        else:
            new.mkdir()
            incoming.copy(source, new / source.name, root)
        command.replace(new, target)
    except BaseException:
        if os.path.lexists(new):
            command.remove(new)
        raise
