"""Where a daemon listens, and asking it; commands do, where a mount belongs to one."""

import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from ckptfs.errors import CkptfsError, MountError
from ckptfs.mount_table import real_mountpoint

_SOCKET = "ckptfsd.sock"
_VARIABLE = "CKPTFS_DAEMON_SOCKET"
"""Another socket; empty: ask no daemon."""
_ANSWER_TIMEOUT_S = 10.0
"""A status comes from the daemon's memory. Saving and unmounting take as long as they take."""


def default_runtime_directory() -> Path:
    """Return /run/ckptfs for root, else a directory of the user's own."""
    if os.geteuid() == 0:
        return Path("/run/ckptfs")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/ckptfs-{os.geteuid()}") / "ckptfs"


def socket_path(runtime_directory: Path) -> Path:
    """Return the daemon's control socket."""
    return runtime_directory / _SOCKET


class DaemonSocket:
    """A daemon that listens on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mounts(self) -> list[dict[str, Any]] | None:
        """Return the mounts that it keeps, be they up or not; None if it has ended, or does not answer."""
        try:
            answer = self._ask("GET", "/v1/mounts", None, _ANSWER_TIMEOUT_S)
        except OSError:
            return None
        return [dict(mount) for mount in answer["mounts"]]

    def mount_at(self, mountpoint: Path) -> dict[str, Any] | None:
        """Return the mount that it keeps there, None if it keeps none."""
        wanted = os.fspath(real_mountpoint(mountpoint))
        return next((mount for mount in self.mounts() or () if mount["mountpoint"] == wanted), None)

    def save(self, name: str, note: str | None, *, wait: bool) -> dict[str, Any]:
        """Save a mount; return what its `.save` says. Raises CkptfsError."""
        return self._command(f"/v1/mounts/{name}/save", {"note": note, "wait": wait})

    def stop(self, name: str) -> dict[str, Any]:
        """Unmount, and keep it so; return what is left. Raises CkptfsError."""
        return self._command(f"/v1/mounts/{name}/stop", {})

    def _command(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._ask("POST", path, body, None)
        except OSError as error:
            raise MountError(f"ckptfsd at {self._path} did not answer: {error.strerror or error}") from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float | None) -> dict[str, Any]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            sent = json.dumps(body) if body is not None else None
            connection.request(method, path, sent, {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
            try:
                answer: dict[str, Any] = json.loads(response.read())
            except ValueError as error:
                raise MountError(f"ckptfsd at {self._path} answered {response.status}: {error}") from error
        except http.client.HTTPException as error:
            raise MountError(f"ckptfsd at {self._path} did not answer: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise CkptfsError(str(answer.get("error")), hint=answer.get("hint"))
        return answer


def find_daemon() -> DaemonSocket | None:
    """Return the daemon of this machine, None if there is none or it is not for us."""
    named = os.environ.get(_VARIABLE)
    if named == "":
        return None
    path = Path(named) if named else socket_path(default_runtime_directory())
    try:
        status = path.stat()
    except OSError:
        return None
    # the directory of a user's own daemon may be in /tmp, where anybody could have made it
    is_trusted = bool(named) or status.st_uid in (0, os.geteuid())
    return DaemonSocket(path) if stat.S_ISSOCK(status.st_mode) and is_trusted and os.access(path, os.W_OK) else None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
