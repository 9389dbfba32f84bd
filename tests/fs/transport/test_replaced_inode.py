"""A name that is truncated gets a fresh inode while a pending version has the old one: the two are never mixed up."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounting import Mounts, touch, wait_until

pytestmark = pytest.mark.fuse

_DELAY_S = 2


@contextmanager
def slow_times(pid: int) -> Iterator[None]:
    """Have a process be slow at setting times, which is what it does last when it gives a name a fresh inode."""
    inject = f"inject=utimensat:delay_exit={_DELAY_S * 1_000_000}"
    command = ["strace", "-f", "-qq", "-e", "trace=utimensat", "-e", inject, "-p", str(pid), "-o", os.devnull]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), 20, "strace is there")
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_a_number_comes_back_only_when_its_name_is_known_to_have_another(mount: Mounts) -> None:
    """Under load a version became durable, its inode went, and a new file got the number by which the truncated one was
    still known: the kernel took the two for one."""
    mounted = mount(transport="passthrough")
    root, live = mounted.root, mounted.cache / "live"
    wait_until(lambda: mounted.upload_pid() is not None, 20, "the upload process runs")
    upload_pid = mounted.upload_pid() or 0
    truncated = root / "truncated"
    truncated.write_bytes(b"old")
    ino = (live / truncated.name).stat().st_ino
    os.kill(upload_pid, signal.SIGSTOP)
    touch(root)
    with slow_times(mounted.pid):
        writer = threading.Thread(target=truncated.write_bytes, args=(b"new",))
        writer.start()
        wait_until(lambda: (live / truncated.name).stat().st_ino != ino, 20, "the name has a fresh inode")
        os.kill(upload_pid, signal.SIGCONT)
        wait_until(lambda: not os.listdir(mounted.cache / "pending"), 20, "the version is durable")
        made: list[Path] = []
        while writer.is_alive():
            made.append(root / f"made-{len(made)}")
            made[-1].write_bytes(made[-1].name.encode())
        writer.join()
    assert truncated.read_bytes() == b"new"
    assert [path.read_bytes() for path in made] == [path.name.encode() for path in made]
    assert len({path.stat().st_ino for path in (truncated, *made)}) == 1 + len(made)
