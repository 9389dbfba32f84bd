"""What interrupted runs have left on this machine: mounts and caches of tasks that no attempt will take up again.

A run that is interrupted, and a task that is killed and not retried, take nothing away; the task of a resumed run is
another one. So a task, and what it has forked, shares a lock as long as it lives, and a task that begins has a program
take away what is an hour old and nobody's.

Rules:
    O1  a task's directory is taken away by who has its lock alone, and not while a version in it is not durable
    O2  who waited for the lock looks whether it is that of the directory which is there now
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ckptfs.errors import CkptfsError
from ckptfs.metaflow import command
from ckptfs.metaflow.scope import Scope

_LOCK = "task.lock"
# a retry comes after 2 minutes, if it is not told otherwise; one that comes later restores from the store
_OLD_S = 3600.0


def take(scope: Scope) -> int:
    """Make a task's directory this process's, and return the descriptor of the lock: it is had until that is closed."""
    while True:
        Path(scope.directory).mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(os.path.join(scope.directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if _is_at(fd, scope.directory):
            os.utime(fd)
            return fd
        os.close(fd)


def send_for(scope: Scope) -> None:
    """Have a program take away what others have left beside a task's directory, if there is anything old."""
    above = Path(scope.directory).parent
    if any(_is_old(directory) for directory in above.iterdir() if str(directory) != scope.directory):
        # of its own, and not waited for: a mount may hang, and who touches it hangs with it
        subprocess.Popen(
            [sys.executable, "-P", "-m", "ckptfs.metaflow.leftover", above],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def clear_away(above: Path) -> None:
    """Take away what is old and nobody's below a directory."""
    for directory in above.iterdir():
        with suppress(OSError, ValueError, KeyError, CkptfsError):
            if _is_old(directory):
                _clear(Scope("", "", 0, str(directory)))


def _is_old(directory: Path) -> bool:
    try:
        return time.time() - (directory / _LOCK).stat().st_mtime > _OLD_S
    except OSError:
        return False


def _clear(scope: Scope) -> None:
    fd = os.open(os.path.join(scope.directory, _LOCK), os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(fd, scope.directory) and command.is_mounted(scope.mountpoint):
            status = json.loads((scope.mountpoint / ".status").read_bytes())
            if not status["pending"]:
                command.umount(scope)
    finally:
        os.close(fd)


def _is_at(fd: int, directory: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(os.path.join(directory, _LOCK)))
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    clear_away(Path(sys.argv[1]))
