"""Runs small cases of system calls in a directory and says all that can be seen of each: what the call returned, and
what it left of every file there (kind, mode, owners, link count, size, and which of its times it moved).

Run on the local filesystem and on a mount, the cases must look the same. All of a run are prepared first, then there is
one pause for the clock, then all are made: so thousands of cases cost one pause.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("regular", "dir", "fifo", "block", "char", "socket", "symlink")
# the kernel's coarse clock, which stamps files, ticks every 4 ms at 250 Hz; on a busy virtual machine later
_PAUSE_S = 0.05
# of a path that a system call takes
_LONG_BYTES = 4096
_CHILD_S = 60.0


class User(NamedTuple):
    """Who makes a call."""

    uid: int
    groups: tuple[int, ...]
    """The first is the group of new files."""


ROOT = User(0, (0,))
OWNER = User(65534, (65534,))
MEMBER = User(65533, (65533, 65534))
OTHER = User(65533, (65533,))


class Case(NamedTuple):
    """One thing to do in a directory of its own, which is the working directory, belongs to root and has mode 0755."""

    label: str
    prepare: Callable[[], Any]
    """As root, without a umask."""
    act: Callable[[], Any]
    user: User = ROOT


Table = Callable[[], Iterable[Case]]
Seen = dict[str, Any]


def call(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Return what a call returns, or its errno's name."""
    try:
        return function(*args, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Make calls as another user; the whole process is, so it must be one of our own."""
    if user != ROOT:
        os.setgroups(user.groups)
        os.setegid(user.groups[0])
        os.seteuid(user.uid)
    try:
        yield
    finally:
        if user != ROOT:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups([0])


def make(kind: str, name: str = "n0", mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Make a file of a kind."""
    if kind == "regular":
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    elif kind == "dir":
        os.mkdir(name, 0o755)
    elif kind == "fifo":
        os.mkfifo(name, 0o644)
    elif kind in ("block", "char"):
        os.mknod(name, (stat.S_IFBLK if kind == "block" else stat.S_IFCHR) | 0o644, os.makedev(1, 2))
    elif kind == "socket":
        bind(name)
        os.chmod(name, 0o644)
    elif kind == "symlink":
        os.symlink("test", name)
    if owner is not None:
        os.lchown(name, *owner)
    if mode is not None and kind != "symlink":
        os.chmod(name, mode)


def bind(name: str) -> None:
    """Make a socket's name."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)


def remove(name: str) -> Any:
    """Remove a file or directory."""
    return call(os.rmdir if stat.S_ISDIR(os.lstat(name).st_mode) else os.unlink, name)


def look(name: str) -> Any:
    """Return what lstat says that is the same on every filesystem."""
    return _look(os.lstat(name))


def _look(status: os.stat_result) -> tuple[Any, ...]:
    is_dir = stat.S_ISDIR(status.st_mode)
    return (
        stat.filemode(status.st_mode),
        f"nlink {status.st_nlink}",
        f"{status.st_uid}:{status.st_gid}",
        f"{0 if is_dir else status.st_size} bytes",
        status.st_rdev,
    )


def run_in_child(cases: list[Case], directory: Path, before: Callable[[], Any] = lambda: None) -> Seen:
    """Run cases in a process of their own; return what was seen, by label.

    Args:
        directory: Empty. Every case gets a directory below it.
        before: Called in the child when all is prepared.
    """
    assert len({case.label for case in cases}) == len(cases), "two cases have one label"
    return dict(in_child(lambda: _run(cases, directory, before)))


def in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a process of its own, which may change its directory, umask and user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                result = True, function()
            except BaseException as error:
                result = False, f"{error!r} {getattr(error, '__notes__', '')}"
            with os.fdopen(write, "wb") as out:
                pickle.dump(result, out)
        finally:
            os._exit(0)
    os.close(write)
    data = b""
    deadline_s = time.monotonic() + _CHILD_S
    with os.fdopen(read, "rb") as pipe:
        while select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            piece = os.read(pipe.fileno(), 1 << 20)
            if not piece:
                break
            data += piece
        else:
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert data, "the child hangs"
    succeeded, result = pickle.loads(data)
    assert succeeded, result
    return result


def _run(cases: list[Case], directory: Path, before: Callable[[], Any]) -> Seen:
    os.umask(0)
    os.chmod(directory, 0o755)
    homes = [directory / str(number) for number in range(len(cases))]
    for case, home in zip(cases, homes, strict=True):
        os.mkdir(home)
        os.chdir(home)
        try:
            case.prepare()
        except BaseException as error:
            error.add_note(f"preparing {case.label}")
            raise
    before()
    known = []
    for home in homes:
        os.chdir(home)
        known.append(_survey())
    time.sleep(_PAUSE_S / 2)
    since_ns = time.time_ns()
    time.sleep(_PAUSE_S / 2)
    results = []
    for case, home in zip(cases, homes, strict=True):
        os.chdir(home)
        with acting_as(case.user):
            results.append(call(case.act))
    seen: Seen = {}
    for case, home, result, then in zip(cases, homes, results, known, strict=True):
        os.chdir(home)
        # by name before by listing: what the kernel remembers of a name must be true as well
        by_name = {name: _lstat(name) for name in then if len(name) < _LONG_BYTES}
        found = by_name | {name: status for name, status in _survey().items() if name not in by_name}
        seen[case.label] = result, {name: _change(found.get(name), then.get(name), since_ns) for name in found | then}
    os.chdir("/")
    return seen


def _survey(directory: str = ".", dir_fd: int | None = None) -> dict[str, os.stat_result]:
    """Return the status of all paths below a directory, of any length, without reading a symlink."""
    fd = os.open(os.path.basename(directory), os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        found = {directory: os.fstat(fd)}
        for name in sorted(os.listdir(fd)):
            path = os.path.normpath(os.path.join(directory, name))
            found[path] = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found[path].st_mode):
                found |= _survey(path, fd)
        return found
    finally:
        os.close(fd)


def _lstat(name: str) -> os.stat_result | None:
    try:
        return os.lstat(name)
    except FileNotFoundError:
        return None


def _change(now: os.stat_result | None, then: os.stat_result | None, since_ns: int) -> Any:
    """Return what a name has become: how it looks, and which times have moved, or lie in the time of the call."""
    if now is None:
        return "gone"
    moved = []
    for field in ("atime", "mtime", "ctime"):
        value = getattr(now, f"st_{field}_ns")
        if value >= since_ns:
            moved.append(f"{field} now" if value < since_ns + 60 * 10**9 else f"{field} {value}")
        elif then is not None and then.st_ino == now.st_ino and value != getattr(then, f"st_{field}_ns"):
            moved.append(f"{field} moved")
    if stat.S_ISDIR(now.st_mode) or stat.S_ISLNK(now.st_mode):
        # whoever lists a directory reads it; what a symlink says is remembered by the kernel, and not read again
        moved = [field for field in moved if field != "atime now"]
    return _look(now), moved


def differences(expected: Seen, found: Seen) -> list[str]:
    """Return a line for every case that looks different."""
    lines = []
    for label, (result, files) in expected.items():
        other_result, other_files = found[label]
        parts = [] if result == other_result else [f"returned {other_result!r}, not {result!r}"]
        parts += [
            f"{name!r} is {other_files.get(name)!r}, not {files.get(name)!r}"
            for name in dict.fromkeys([*files, *other_files])
            if files.get(name) != other_files.get(name)
        ]
        if parts:
            lines.append(f"{label}: " + "; ".join(parts))
    return lines


libc = ctypes.CDLL(None, use_errno=True)
