"""Programs that open, close and remove one file at the same moment each get that file, and what they write is in it."""

import errno
import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.fs.holding import Held
from tests.mounting import Mount

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(passthrough_obstacle()), reason=passthrough_obstacle() or ""),
    pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_another_program(act: Callable[[], object]) -> tuple[Callable[[], None], Callable[[], str]]:
    """Return what has another process do something, and what returns the name of the error that it met."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        try:
            act()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)

    def go() -> None:
        os.write(write, b"x")

    def end() -> str:
        number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(read)
        os.close(write)
        return errno.errorcode[number] if number else ""

    return go, end


def wait(duration_s: float) -> None:
    """Return a moment later, more exactly than sleep(3)."""
    until_s = time.perf_counter() + duration_s
    while time.perf_counter() < until_s:
        pass


def test_who_opens_a_file_while_another_truncates_it_writes_to_that_file(shared: Mount, place: Path) -> None:
    path, chance = place / "model", random.Random(1)
    path.touch()
    for number in range(50):
        # a pending file is given a fresh inode when it is truncated, and all of these
        os.setxattr(path, f"user.{number}", b"value")
    with Held(shared).held():
        for _ in range(100):
            # not for reading and writing: such a file may be mapped, and keeps its inode
            with open(path, "ab") as file:
                file.write(b"saved")
            shared.save()
            go, end = in_another_program(lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))
            go()
            wait(chance.random() * 2e-3)
            fd = os.open(path, os.O_WRONLY)
            assert end() == ""
            os.pwrite(fd, b"after", 0)
            os.close(fd)
            assert path.read_bytes() == b"after"


def test_a_file_without_a_name_can_be_looked_at_while_another_of_its_handles_is_closed(place: Path) -> None:
    path = place / "model"
    for _ in range(80):
        fds = [os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for _ in range(40)]
        path.unlink()
        # the kernel says later that one is closed, and asks by whatever is open
        for fd in fds[:-1]:
            os.close(fd)
            assert stat.S_IMODE(os.fstat(fds[-1]).st_mode) == 0o600
            os.fchmod(fds[-1], 0o600)
        os.close(os.open(f"/proc/self/fd/{fds[-1]}", os.O_RDWR))
        os.close(fds[-1])
