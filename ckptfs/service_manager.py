"""What a service manager (systemd) and its service say to each other: ready, reloading, alive, descriptors to be kept.

Without one nothing happens. Sources: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_FIRST_FD = 3
_ANSWER_TIMEOUT_S = 5.0
"""Process 1 answers in some 10 ms; whoever waits for it longer than this is better off alive."""


def notify(*lines: str, fds: Sequence[int] = ()) -> bool:
    """Tell the service manager; return False if there is none, or it cannot be told.

    Args:
        lines: `READY=1`, `STATUS=...`, `FDSTORE=1`, ...
        fds: What goes with them.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    # a leading @ stands for the NUL of an abstract address
    to = address.replace("@", "\0", 1) if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(_ANSWER_TIMEOUT_S)
        try:
            channel.connect(to)
            socket.send_fds(channel, ["\n".join(lines).encode()], list(fds))
        except OSError:
            return False
    return True


def notify_reloading() -> None:
    """The service takes a new configuration; `READY=1` ends that."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_s() -> float | None:
    """Return within what time `WATCHDOG=1` is expected again and again; None: it is not."""
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    is_ours = pid is None or pid == str(os.getpid())
    return int(micros) / 1e6 if micros.isdecimal() and int(micros) and is_ours else None


def take_stored_descriptors() -> list[tuple[str, int]]:
    """Return the descriptors that the service manager kept, with their names; they are ours then, once."""
    count, names = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_FDNAMES", "").split(":")
    is_ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    for variable in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"):
        os.environ.pop(variable, None)
    if not is_ours or not count.isdecimal():
        return []
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(zip(names, fds, strict=False))


def is_being_restarted() -> bool:
    """True if the service manager stops this service only to start it again: then others may go on meanwhile.

    The signal is the same for both, so systemd is asked what its job for the unit is.
    """
    unit = _own_unit()
    if unit is None or not os.environ.get("NOTIFY_SOCKET"):
        return False
    try:
        command = ["systemctl", "list-jobs", "--no-legend", "--plain", unit]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    # 123 ckptfsd.service restart running
    rows = (line.split() for line in answer.stdout.splitlines())
    return any(len(row) >= 3 and row[1] == unit and row[2] == "restart" for row in rows)


def _own_unit() -> str | None:
    """Return the unit that this process runs in, from its control group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        # 0::/system.slice/ckptfsd.service or 1:name=systemd:/system.slice/ckptfsd.service
        match = re.match(r"(?:0:|\d+:name=systemd):.*/([^/]+\.service)(?:/|$)", line)
        if match is not None:
            return match[1]
    return None
