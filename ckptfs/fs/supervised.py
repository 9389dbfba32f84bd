"""A mount that a supervisor keeps up: a keeper that says what it does, can be found again, and can be replaced.

    supervisor -- start -->  python -m ckptfs.fs.supervised LABEL OPTIONS   (the keeper, which forks servers)

Its standard input is a socket, over which the two talk in datagrams of JSON with descriptors:

    to the keeper     {"roles": [...]}     first; with the descriptors of a connection that it is to go on with, if any
    to the supervisor {"ready": true, "cache": directory}
                      {"error": ..., "hint": ..., "errno": ...}
                      {"roles": [...]}     with what another keeper could go on with from now on; [] when that is over

The supervisor may die: the mount goes on. The next one finds it by its command line, which says whose it is and what it
was told.
"""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ckptfs import logs
from ckptfs.errors import CkptfsError
from ckptfs.fs.keeper import Keeper
from ckptfs.fs.keys import own_key
from ckptfs.fs.launch import check, options_from_json, options_to_json, serve, set_limits
from ckptfs.fs.options import MountOptions
from ckptfs.fs.transport.handover import ROLES, Connection, Descriptors

log = logging.getLogger("ckptfs")

_MODULE = "ckptfs.fs.supervised"
_MOST_SAID_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Label:
    """Whose mount it is."""

    supervisor: str
    """Unique on this machine."""
    name: str
    """Unique for the supervisor."""
    environment: str = ""
    """Tells one environment from another, without showing it to all who can see the command line."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process of a mount, found on this machine: its keeper, or a server whose keeper is gone."""

    pid: int
    parent: int
    label: Label
    options: MountOptions
    """What it was told."""


def start(
    label: Label, options: MountOptions, held: Descriptors, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a keeper; return it, and the socket on which it will say that it is ready or why not.

    Args:
        label: It is found by.
        options: Of the mount.
        held: A connection to go on with; stays the caller's. Empty: mount anew.
        environment: Its whole environment.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(ours, [json.dumps({"roles": list(held)}).encode()], list(held.values()))
        words = [json.dumps([label.supervisor, label.name, label.environment]), json.dumps(options_to_json(options))]
        process = subprocess.Popen(
            # -P: as for every mount, modules in the directory where it was started are not run
            [sys.executable, "-P", "-m", _MODULE, *words],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    return process, ours


def find(supervisor: str, name: str | None = None) -> list[Running]:
    """Return the topmost process of each mount that a supervisor started, whether or not it was this one's."""
    found = {
        running.pid: running
        for running in _all()
        if running.label.supervisor == supervisor and name in (None, running.label.name)
    }
    return [running for running in found.values() if running.parent not in found]


def servers_of(keeper_pid: int) -> list[Running]:
    """Return the processes that a keeper has forked."""
    return [running for running in _all() if running.parent == keeper_pid]


def _all() -> Iterator[Running]:
    for path in Path("/proc").glob("[0-9]*"):
        running = look(int(path.name))
        if running is not None:
            yield running


def look(pid: int) -> Running | None:
    """Return what a process is as one of a mount, None if it is none of this user's, or has ended."""
    process = Path(f"/proc/{pid}")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        # anybody may give a process of his such a command line
        if words[1:4] != [b"-P", b"-m", _MODULE.encode()] or process.stat().st_uid != os.geteuid():
            return None
        label, options = Label(*json.loads(words[4])), options_from_json(json.loads(words[5]))
        # PID (NAME) STATE PARENT ...
        state, parent = (process / "stat").read_text().rpartition(") ")[2].split()[:2]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    return Running(pid, int(parent), label, options) if state not in "ZX" else None


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """Return what the other side said, None if it has ended; and the descriptors that came, by role."""
    line, fds, _, _ = socket.recv_fds(channel, _MOST_SAID_BYTES, len(ROLES))
    for fd in fds:
        os.set_inheritable(fd, False)
    if not line:
        return None, {}
    message: dict[str, Any] = json.loads(line)
    return message, dict(zip(message.get("roles", ()), fds, strict=False))


def main(arguments: list[str]) -> int:
    """The keeper of one mount, started by `start`."""
    options = options_from_json(json.loads(arguments[1]))
    # not to be inherited by what the servers start
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    _, held = receive(channel)

    def say(message: dict[str, Any], fds: Mapping[str, int] | None = None) -> None:
        try:
            socket.send_fds(channel, [json.dumps(message).encode()], list((fds or {}).values()))
        except OSError:
            pass  # the supervisor has died; the next one finds us

    def said_connection(connection: Connection | None) -> None:
        fds = connection.descriptors() if connection is not None else {}
        say({"roles": list(fds)}, fds)

    logs.configure(verbose=options.verbose)
    try:
        check(options)
        set_limits()
        connection = Connection(held) if held else None
        keeper = Keeper(
            options,
            partial(serve, key=own_key(options)),
            in_background=False,
            connection=connection,
            on_connection=said_connection,
        )
        return keeper.run(lambda log_path: say({"ready": True, "cache": os.fspath(log_path.parent)}))
    except CkptfsError as error:
        say({"error": error.fact, "hint": error.hint, "errno": error.errno})
    except Exception as error:
        log.exception("could not mount")
        say({"error": f"{type(error).__name__}: {error}", "hint": None, "errno": 5})
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
