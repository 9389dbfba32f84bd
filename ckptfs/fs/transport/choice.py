"""Choosing a transport: the first that works here, and why the others do not."""

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ckptfs.errors import MountError
from ckptfs.fs.launder import Launderer
from ckptfs.fs.mountpoint import OwnMount
from ckptfs.fs.operations import Operations
from ckptfs.fs.replacement import Follow, unserved
from ckptfs.fs.transport.device import open_device
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.transport.lent import LentMount
from ckptfs.mount_table import rows

_CAP_SYS_ADMIN = 21
# entry_timeout of libfuse, 1 s; its high-level interface cannot take back what the kernel was told
_NAMES_REMEMBERED_S = 1.1
OVERLAYFS = "overlay"
_FUSE_CONF = Path("/etc/fuse.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlan:
    """What a transport is to mount."""

    operations: Operations
    mountpoint: Path
    name: str
    """What `df` and `mount` show as the device."""
    allow_other: bool
    read_only: bool
    backing: Path
    """Where the files are that the kernel may be given."""
    connection: Connection | None
    """For our own server, if it is to serve."""


class Transport(Protocol):
    """One way of bringing requests from the kernel to the operations."""

    name: str

    def serve(self, ready: Callable[[], None]) -> None:
        """Mount, call `ready`, serve until unmounted. Raises MountError."""

    def flush(self, path: bytes, ino: int) -> bool:
        """See saver.MappedFlusher."""

    def replacing(self) -> AbstractContextManager[Follow]:
        """See Replacing."""

    def close(self) -> None:
        """The mount is gone."""


class FusepyTransport:
    """libfuse 2 through fusepy."""

    name = "fusepy"

    def __init__(self, plan: MountPlan) -> None:
        self._plan = plan
        self._launderer = Launderer(os.fspath(plan.mountpoint))
        self._replaced: Callable[[], None] = lambda: None
        self._names_of: Callable[[bytes, int], set[bytes]] = lambda path, ino: {path}

    def serve(self, ready: Callable[[], None]) -> None:
        """Mount and serve."""
        plan = self._plan
        try:
            # loaded only when it is used: without libfuse it does not load
            from ckptfs.fs.transport.fusepy import FusepyServer, serve
        except OSError as error:
            raise _no_libfuse(error) from error

        def started(server: FusepyServer) -> None:
            self._replaced, self._names_of = server.tree_replaced, server.names_of
            ready()

        serve(
            plan.operations,
            plan.mountpoint,
            name=plan.name,
            allow_other=plan.allow_other,
            read_only=plan.read_only,
            flusher_pid=lambda: self._launderer.pid,
            ready=started,
        )

    def flush(self, path: bytes, ino: int) -> bool:
        """Have a child process fsync the file, by all its names."""
        done = [self._launderer.flush(name, ino) for name in self._names_of(path, ino)]
        return all(done)

    @contextmanager
    def replacing(self) -> Iterator[Follow]:
        """Return when the kernel remembers no name: one that was a fifo is not to be taken for one now."""
        yield lambda paths, before: self._replaced()
        time.sleep(_NAMES_REMEMBERED_S)

    def close(self) -> None:
        """End the child process."""
        self._launderer.close()


class DeviceTransport:
    """Our own server on /dev/fuse.

    Args:
        passes: The kernel may be given files to read and write itself; else all data go through the server.
    """

    def __init__(self, plan: MountPlan, connection: Connection, *, passes: bool) -> None:
        from ckptfs.fs.transport.passthrough import PassthroughServer

        self.name = "passthrough" if passes else "mediated"
        self._passes = passes
        self._plan = plan
        self._connection = connection
        self._server: PassthroughServer | None = None

    def serve(self, ready: Callable[[], None]) -> None:
        """Mount and serve."""
        from ckptfs.fs.transport.passthrough import PassthroughServer, serve

        def made(server: PassthroughServer) -> None:
            self._server = server

        plan = self._plan
        serve(
            plan.operations,
            self._connection,
            plan.mountpoint,
            name=plan.name,
            allow_other=plan.allow_other,
            read_only=plan.read_only,
            passes=self._passes,
            stack_depth=2 if filesystem_type(plan.backing) == OVERLAYFS else 1,
            made=made,
            ready=ready,
        )

    def flush(self, path: bytes, ino: int) -> bool:
        """Have the kernel write the file's pages back."""
        if self._server is not None:
            self._server.flush_mapped(ino)
        return True

    def replacing(self) -> AbstractContextManager[Follow]:
        """See Replacing."""
        return self._server.replacing() if self._server is not None else unserved()

    def close(self) -> None:
        """Answer nothing any more that comes through a mount which we could not take away."""
        if self._server is not None and self._connection.lent is not None:
            self._server.refuse()


def choose(wanted: str, plan: MountPlan, say: Callable[[str], None]) -> Transport:
    """Return the transport to mount with.

    Args:
        wanted: `auto`, `passthrough`, `mediated` or `fusepy`.
        plan: For it.
        say: Told why `auto` did not take passthrough.

    Raises:
        MountError: The one wanted cannot work here.
    """
    if plan.connection is not None and plan.connection.lent is not None:
        return _choose_for_lent(wanted, plan, plan.connection, say)
    if wanted == "fusepy":
        return FusepyTransport(plan)
    if plan.connection is not None:
        return DeviceTransport(plan, plan.connection, passes=wanted != "mediated")
    if wanted == "passthrough":
        raise _no_passthrough()
    say(f"mounting through libfuse: {passthrough_obstacle()}")
    return FusepyTransport(plan)


def _choose_for_lent(wanted: str, plan: MountPlan, connection: Connection, say: Callable[[str], None]) -> Transport:
    if wanted == "fusepy":
        raise MountError("libfuse cannot serve a descriptor that was lent", hint="leave --transport out")
    obstacle = "it is not wanted" if wanted == "mediated" else _backing_obstacle()
    if obstacle is not None:
        if wanted == "passthrough":
            raise MountError(f"passthrough cannot work here: {obstacle}", hint="use --transport auto or mediated")
        say(f"file data go through this process: {obstacle}")
    return DeviceTransport(plan, connection, passes=obstacle is None)


def require_local(wanted: str, mountpoint: Path, *, allow_other: bool, connection: Connection | None) -> None:
    """Raise a MountError for what is known to fail here, before anything is written to the store for the mount.

    Args:
        wanted: As for `choose`.
        mountpoint: A directory.
        allow_other: Other users are to be let in.
        connection: What `connect` returned, or a mount that was lent.
    """
    if connection is not None:
        return
    if wanted == "passthrough":
        if _backing_obstacle() is None:
            _require_device()  # it is all that is missing, and no other transport can do without
        raise _no_passthrough()
    try:
        from ckptfs.fs.transport import fusepy  # noqa: F401, without libfuse it does not load
    except OSError as error:
        raise _no_libfuse(error) from error
    if os.geteuid() != 0:
        _require_fusermount(mountpoint, allow_other=allow_other)
    # fusermount opens it as the user, too. Source: fusermount.c, try_open_fuse_device()
    _require_device()


def _require_device() -> None:
    os.close(open_device())


def _require_fusermount(mountpoint: Path, *, allow_other: bool) -> None:
    """Raise a MountError for what fusermount refuses to a user. Source: fusermount.c, check_perm() and do_mount()."""
    if shutil.which("fusermount3") is None and shutil.which("fusermount") is None:
        raise MountError("neither fusermount3 nor fusermount is installed", hint="apt-get install fuse3")
    status = os.stat(mountpoint)
    is_others = status.st_mode & stat.S_ISVTX and status.st_uid != os.getuid()
    if is_others or not os.access(mountpoint, os.W_OK):
        raise MountError(
            f"{mountpoint} is not this user's: only root may mount on what a user cannot write to",
            hint="choose a directory of your own",
        )
    if allow_other and not _lets_users_allow_others():
        raise MountError(
            f"{_FUSE_CONF} does not let users mount with --allow-other",
            hint=f"add a line `user_allow_other` to {_FUSE_CONF}, mount as root, or leave --allow-other out",
        )


def _lets_users_allow_others() -> bool:
    try:
        return "user_allow_other" in map(str.strip, _FUSE_CONF.read_text().splitlines())
    except OSError:
        return False


def _no_passthrough() -> MountError:
    hint = "use --transport auto or fusepy"
    return MountError(f"passthrough cannot work here: {passthrough_obstacle()}", hint=hint)


def _no_libfuse(error: OSError) -> MountError:
    return MountError(f"cannot load libfuse 2: {error}", hint="apt-get install fuse3 libfuse2")


def connect(wanted: str) -> Connection | None:
    """Return what our own server needs and its successors inherit; None if libfuse is to serve.

    Raises:
        MountError: /dev/fuse cannot be opened, and nothing else was wanted.
    """
    if wanted == "mediated" or (wanted != "fusepy" and passthrough_obstacle() is None):
        return Connection()
    return None


def mount_of(connection: Connection | None, mountpoint: Path) -> OwnMount | LentMount:
    """Return the mount as something that can be looked at and taken away."""
    return connection.lent if connection is not None and connection.lent is not None else OwnMount(mountpoint)


def passthrough_obstacle() -> str | None:
    """Return why the passthrough transport cannot work on this machine, None if it can."""
    obstacle = _backing_obstacle()
    if obstacle is None and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return obstacle


def _backing_obstacle() -> str | None:
    """Return why the kernel would take no file from us to read and write itself, None if it would."""
    release = os.uname().release
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None or (int(version[1]), int(version[2])) < (6, 9):
        return f"the kernel is {release}, and FUSE passthrough came with 6.9"
    if not _is_first_user_namespace():
        return "this is not the machine's first user namespace"
    if not _has_capability(_CAP_SYS_ADMIN):
        return "it needs CAP_SYS_ADMIN"
    return None


def filesystem_type(path: Path) -> str:
    """Return the type of the filesystem that holds a directory, as the kernel's mount table has it."""
    found, longest = "", -1
    resolved = os.path.realpath(path)
    for row in rows():
        top = row.mountpoint
        if len(top) >= longest and (top == "/" or resolved == top or resolved.startswith(top + "/")):
            found, longest = row.kind, len(top)
    return found


def _is_first_user_namespace() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    except OSError:
        return False


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
