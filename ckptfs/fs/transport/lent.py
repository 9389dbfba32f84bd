"""A mount that somebody else made: the descriptor of /dev/fuse that is ours to serve, and how to ask for one.

A server without privileges can serve a mount, but not make it. Whoever may (`ckptfs lend`, lending.py; the driver of a
container platform) opens /dev/fuse, mounts, and passes the descriptor on: to a child, or over a Unix socket.

    we      -> lender   a wish: the mount point, what `df` is to show, options
    lender  -> we       an answer, with the descriptor (SCM_RIGHTS); or why not
    we      -> lender   an empty wish: take it away
    lender  -> we       an empty answer

The lender takes the mount away, too, when the connection ends, that is, when our keeper and our server are dead.
Messages are JSON objects; the socket keeps them apart (SOCK_SEQPACKET).
"""

import json
import os
import select
import socket
import stat
from pathlib import Path
from typing import Any, NamedTuple

from ckptfs.errors import MountError

# major and minor number of /dev/fuse (Documentation/admin-guide/devices.txt)
_FUSE_DEVICE = (10, 229)
MOST_BYTES = 16 << 10
"""Of a message: a path, a store's address and a few words."""
# the lender looks whether the mount point is free, which takes 5 s at most, and mounts
_ANSWER_TIMEOUT_S = 30.0


class Wish(NamedTuple):
    """What is asked of a lender."""

    mountpoint: str
    """As the lender has it."""
    source: str
    """What `df` and `mount` show as the device."""
    allow_other: bool
    read_only: bool


class LentMount:
    """A mount that we serve and did not make.

    Args:
        fd: Of /dev/fuse, mounted; ours from now on.
        lender: The connection to who made it; None if there is none.
        knows_programs: Its requests name processes as our pid namespace does.
    """

    def __init__(self, fd: int, lender: socket.socket | None = None, *, knows_programs: bool = False) -> None:
        self.fd = fd
        self._lender = lender
        self.knows_programs = knows_programs

    def prepare(self) -> None:
        """Nothing is to be done: it is mounted."""

    def is_there(self) -> bool:
        """True until it is unmounted."""
        # asked of the connection itself, for the mount point may be where only the lender sees it
        return not _events(self.fd) & select.POLLERR

    def take_away(self) -> None:
        """Have the lender unmount it. One that came without a lender is taken away by whoever mounted it."""
        if self._lender is None:
            return
        try:
            _ask(self._lender, {})
        except (OSError, ValueError):
            pass  # it has gone; the next one clears dead mounts away

    def close(self) -> None:
        """Let the lender go; the descriptor is closed by who holds it."""
        if self._lender is not None:
            self._lender.close()


def adopt(fd: int) -> LentMount:
    """Return the mount of a descriptor that we were started with.

    Raises:
        MountError: It is none, nothing is mounted with it, or somebody has served it before.
    """
    try:
        device = os.fstat(fd)
    except OSError as error:
        raise MountError(f"there is no descriptor {fd}", hint="it must be open and inherited") from error
    if not stat.S_ISCHR(device.st_mode) or (os.major(device.st_rdev), os.minor(device.st_rdev)) != _FUSE_DEVICE:
        raise MountError(f"descriptor {fd} is not of /dev/fuse")
    events = _events(fd)
    if events & select.POLLERR:
        raise MountError(f"nothing is mounted with descriptor {fd}", hint="whoever opens it mounts it, too")
    # the kernel's first request waits from the moment of mounting on
    if not events & select.POLLIN:
        raise MountError(f"descriptor {fd} has been served already", hint="mount again, with a new one")
    os.set_inheritable(fd, False)
    return LentMount(fd)


def borrow(address: Path, wish: Wish) -> LentMount:
    """Have a lender mount, and return what it made.

    Raises:
        MountError: There is no lender, or it refuses.
    """
    lender = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        lender.settimeout(_ANSWER_TIMEOUT_S)
        lender.connect(os.fspath(address))
        answer, fds = _ask(lender, wish._asdict())
    except (OSError, ValueError) as error:
        lender.close()
        why = getattr(error, "strerror", None) or str(error)
        raise MountError(f"no mount from {address}: {why}", hint="is `ckptfs lend` running there?") from error
    if "error" in answer or len(fds) != 1:
        lender.close()
        raise MountError(str(answer.get("error", "the lender sent no descriptor")), hint=answer.get("hint"))
    if answer["user_namespace"] != namespace("user"):
        lender.close()
        os.close(fds[0])
        raise MountError(
            "the lender is in another user namespace, where users have other numbers",
            hint="run this container without a user namespace of its own",
        )
    return LentMount(fds[0], lender, knows_programs=answer["pid_namespace"] == namespace("pid"))


def namespace(kind: str) -> int:
    """Return the number of a namespace that this process is in. Source: namespaces(7)."""
    return os.stat(f"/proc/self/ns/{kind}").st_ino


def _ask(lender: socket.socket, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    lender.sendall(json.dumps(message).encode())
    data, fds, _, _ = socket.recv_fds(lender, MOST_BYTES, 1)
    if not data:
        raise ConnectionAbortedError("the lender said nothing")
    for fd in fds:
        os.set_inheritable(fd, False)
    return dict(json.loads(data)), list(fds)


def _events(fd: int) -> int:
    """Return what poll(2) says of a descriptor."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return next((events for _, events in poll.poll(0)), 0)
