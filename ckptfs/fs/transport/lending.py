"""Lending mounts: a process that may mount does it for servers that may not (the other side: lent.py).

It opens /dev/fuse, mounts below one directory, passes the descriptor on, and keeps nothing of it: it sees no request
and no data, needs no network and no store. A mount is taken away when its server asks for it, or is dead.

Rules:
    N1  who asks is known by what the kernel says of the socket's other end (SO_PEERCRED); only listed users are heard
    N2  mounts are made at names directly below the directory, which nobody else may write to; at no other place
    N3  a name whose server lives is given to no other
    N4  the mount belongs to the user who asked; others are let in only where the lender was told to allow it
"""

import functools
import json
import logging
import os
import re
import select
import socket
import struct
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ckptfs.errors import CkptfsError, ExhaustedError, MountError
from ckptfs.fs.mountpoint import OwnMount
from ckptfs.fs.transport.device import mount_device, open_device
from ckptfs.fs.transport.lent import MOST_BYTES, Wish, namespace
from ckptfs.threads import NO_THREAD, start_thread

log = logging.getLogger(__name__)

_PEER = struct.Struct("=iII")
"""pid, uid, gid. Source: unix(7)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# each is a thread and a mount; a machine has fewer pods than that (110 by kubelet's default)
_MOST_MOUNTS = 256
_BACKLOG = 16
# who connects has its wish ready; and one that was killed and starts again finds its name free when we have noticed
_WISH_TIMEOUT_S = 5.0
_NOTICED_S = 5.0


class Lender:
    """Makes mounts below a directory, until it is stopped. The mounts stay then, as long as their servers live.

    Args:
        root: Where mount points are made; made if it is missing.
        address: Of the socket; whatever is there is replaced, and its directory made if it is missing.
        users: Who is heard.
        lets_others_in: A server may ask for --allow-other.

    Raises:
        MountError: The directory or the socket cannot be had.
    """

    def __init__(self, root: Path, address: Path, users: Collection[int], *, lets_others_in: bool) -> None:
        self._root = Path(os.path.realpath(root))
        self._names = {os.path.abspath(root), os.fspath(self._root)}
        self._users = frozenset(users)
        self._lets_others_in = lets_others_in
        self._lent: set[str] = set()
        self._changed = threading.Condition()
        self._stop, self._stopped = socket.socketpair()
        try:
            self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
            status = self._root.stat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise MountError(f"others may write to {self._root}", hint=f"chown root {root}; chmod 755 {root}")
            # what a lender before this one lent, and is served
            self._left = {name for name in os.listdir(self._root) if self._is_served(name)}
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            address.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            address.unlink(missing_ok=True)
            self._socket.bind(os.fspath(address))
            # any user may knock; whom it opens to is N1
            address.chmod(0o666)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            raise MountError(f"cannot lend mounts at {address}: {error.strerror}") from error

    def run(self) -> None:
        """Serve until `stop`."""
        poll = select.poll()
        for fd in (self._socket.fileno(), self._stopped.fileno()):
            poll.register(fd, select.POLLIN)
        while all(fd != self._stopped.fileno() for fd, _ in poll.poll()):
            server, _ = self._socket.accept()
            if start_thread(functools.partial(self._serve, server), "lend") is None:
                _say(server, {"error": NO_THREAD, "hint": ExhaustedError.hint})
                server.close()
        # its name stays: it may be the next one's already
        self._socket.close()

    def stop(self) -> None:
        """End `run`; may be called by a signal handler."""
        self._stop.send(b".")

    def _is_served(self, name: str) -> bool:
        """True if a mount is there that is not of this lender; one whose server is dead is taken away."""
        place = OwnMount(self._root / name)
        if not place.is_there():
            return False
        try:
            place.prepare()
        except MountError:
            return True
        log.info("took away a dead mount mountpoint=%s", self._root / name)
        return False

    def _serve(self, server: socket.socket) -> None:
        name = ""
        with server:
            try:
                name = self._lend(server)
            except CkptfsError as error:
                _say(server, {"error": error.fact, "hint": error.hint})
            except OSError as error:
                log.warning("could not lend a mount: %s", error)
                _say(server, {"error": f"could not mount: {error.strerror}", "hint": "the lender needs CAP_SYS_ADMIN"})
            except (ValueError, TypeError, KeyError):
                _say(server, {"error": "this is no wish for a mount", "hint": None})
            if not name:
                return
            _wait(server)
            self._take_back(name)
            _say(server, {})

    def _lend(self, server: socket.socket) -> str:
        """Mount for who is at the other end; return the name of the mount."""
        pid, uid, gid = _PEER.unpack(server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        server.settimeout(_WISH_TIMEOUT_S)
        wish = Wish(**json.loads(server.recv(MOST_BYTES)))
        server.settimeout(None)
        if uid not in self._users:
            log.warning("refused uid=%d pid=%d mountpoint=%s", uid, pid, wish.mountpoint)
            raise MountError(f"user {uid} may not mount here", hint=f"`ckptfs lend --allow-uid {uid}`")
        if wish.allow_other and not self._lets_others_in:
            raise MountError("mounts that others may enter are not lent here", hint="`ckptfs lend --allow-other`")
        name = self._reserve(wish.mountpoint)
        try:
            self._mount(server, name, wish, (uid, gid))
        except BaseException:
            self._take_back(name)
            raise
        log.info("lent mountpoint=%s source=%s uid=%d pid=%d", self._root / name, wish.source, uid, pid)
        return name

    def _reserve(self, mountpoint: str) -> str:
        directory, name = os.path.split(mountpoint)
        if directory not in self._names or not _NAME.fullmatch(name):
            raise MountError(
                f"{mountpoint} is not a mount point of this lender",
                hint=f"{self._root}/NAME is one: letters, digits, dots and dashes, at most 100",
            )
        if name in self._left and not self._is_served(name):
            self._left.discard(name)
        with self._changed:
            is_free = self._changed.wait_for(lambda: name not in self._lent, _NOTICED_S)
            if not is_free or name in self._left:
                raise MountError(f"{mountpoint} is already mounted", hint="its server must end first")
            if len(self._lent) >= _MOST_MOUNTS:
                raise MountError(f"{_MOST_MOUNTS} mounts are lent already")
            self._lent.add(name)
        return name

    def _mount(self, server: socket.socket, name: str, wish: Wish, owner: tuple[int, int]) -> None:
        mountpoint = self._root / name
        fd = open_device()
        try:
            OwnMount(mountpoint).take_away()
            mountpoint.mkdir(mode=0o755, exist_ok=True)
            mount_device(
                fd, mountpoint, wish.source, owner=owner, allow_other=wish.allow_other, read_only=wish.read_only
            )
            said = {"user_namespace": namespace("user"), "pid_namespace": namespace("pid")}
            socket.send_fds(server, [json.dumps(said).encode()], [fd])
        finally:
            # with the server's copy goes the mount: nobody is to wait for one who is dead
            os.close(fd)

    def _take_back(self, name: str) -> None:
        try:
            OwnMount(self._root / name).take_away()
            log.info("took back mountpoint=%s", self._root / name)
        except MountError as error:
            log.warning("%s", error.fact)
        with self._changed:
            self._lent.discard(name)
            self._changed.notify_all()


def _wait(server: socket.socket) -> None:
    """Return when a server wants no mount any more, or is dead."""
    with suppress(OSError):  # a connection that breaks off is a server that is dead
        server.recv(MOST_BYTES)


def _say(server: socket.socket, message: dict[str, object]) -> None:
    try:
        server.sendall(json.dumps(message).encode())
    except OSError:
        pass  # it does not wait for it
