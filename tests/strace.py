"""Programs whose system calls are made to fail or to take long, by strace(1)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounting import wait_until


@contextmanager
def injected(pid: int, calls: str, fault: str) -> Iterator[None]:
    """Have calls of a process and of all that it begins meanwhile be as strace's `inject` says.

    Args:
        calls: Separated by commas.
        fault: As `error=EAGAIN`.
    """
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    command = ["strace", "-f", "-qq", *inject, "-p", str(pid), "-o", os.devnull]
    strace = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "TracerPid:\t0" not in status.read_text(), 20, "strace is there")
        yield
    finally:
        # asked to end, it waits for a process in vfork(2), whose child waits for it
        strace.kill()
        strace.wait(20)
