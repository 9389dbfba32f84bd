"""The keeper: the parent of the process that serves a mount. It holds /dev/fuse, so that the mount lives on when its
server is killed, and has another server take over.

    keeper  -- fork -->  server 1   (killed)
            -- fork -->  server 2   goes on: same node ids, same open files; requests wait meanwhile

The keeper does nothing else and touches neither the mount nor the live tree. Servers are forked and not executed: what
they import is there already, and a new one answers after some 0.1 s. Where the kernel cannot be handed over (libfuse),
a dead mount is taken away and mounted anew, which programs notice.
"""

import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ckptfs.cache.directory import CacheDirectory
from ckptfs.errors import (
    CkptfsError,
    ExhaustedError,
    MountError,
    NoStoreError,
    StoreAccessError,
    StoreError,
    StoreMissingError,
    StoreUnavailableError,
)
from ckptfs.fs.mountpoint import OwnMount
from ckptfs.fs.options import MountOptions
from ckptfs.fs.transport.choice import connect, mount_of
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.transport.lent import LentMount, Wish, adopt, borrow
from ckptfs.log_file import log_to
from ckptfs.threads import is_no_thread

log = logging.getLogger("ckptfs")

# a server that does not live as long may have a reason that the next one will meet as well: not all at once then
_TOO_SHORT_S = 10.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 0.2
_MOST_FAILURES = 5
# one that is killed before it is ready has not said that it cannot go on: whoever kills may stop
_MOST_KILLED = 100
# how late it is noticed that a server was killed and cannot go yet
_LOOK_MS = 300
_GRACE_MS = 100
_MOST_SAID_BYTES = 64 << 10
_ENDED_BADLY = 70
"""Exit code of a server that an exception ended (sysexits.h: internal software error)."""

_PASSING: tuple[type[CkptfsError], ...] = (
    StoreError,
    StoreUnavailableError,
    StoreAccessError,
    StoreMissingError,
    # where a filesystem is not mounted, what is below its mount point is no store
    NoStoreError,
    ExhaustedError,
)
"""What does not keep a dead server's successor from going on later."""
_CAN_WAIT = {said.__name__: said for said in _PASSING}

Serve = Callable[[MountOptions, Callable[[CacheDirectory], None], Connection | None], int]


class _KilledError(MountError):
    """A server was killed before it was ready.

    Args:
        cause: By what.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(_not_ready(cause))
        self.cause = cause


class Keeper:
    """Keeps one mount served.

    Args:
        serve: Mounts, or takes over if the connection is mounted; calls its second argument when that is done, with
            where it works; returns an exit code when the mount has ended.
        in_background: Output goes to the log when the mount is ready.
        connection: One whose keeper and server have died, to go on with.
        on_connection: Told, when a mount is there, with what another keeper could go on; and None when that is over.
    """

    def __init__(
        self,
        options: MountOptions,
        serve: Serve,
        *,
        in_background: bool,
        connection: Connection | None = None,
        on_connection: Callable[[Connection | None], None] = lambda connection: None,
    ) -> None:
        self._options = options
        self._serve = serve
        self._in_background = in_background
        self._connection = connection
        self._on_connection = on_connection
        self._told: Connection | None = None
        self._server = 0
        self._signalled = 0

    def run(self, ready: Callable[[Path], None]) -> int:
        """Serve until the mount has ended; return an exit code.

        Args:
            ready: Called when the mount is there, with the path for logs in its cache directory.

        Raises:
            CkptfsError: What keeps it from mounting.
        """
        goes_on = self._connection is not None
        if not goes_on:
            self._connection = self._connect()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        log_path = self._restart("its keeper's end", 0, 0.0) if goes_on else self._start_server()
        try:
            ready(log_path)
        except BaseException:
            # nobody knows of the mount, and nobody would keep it
            self._pass_on(signal.SIGTERM, None)
            self._wait()
            raise
        if self._in_background:
            redirect_output(log_path)
        return self._keep()

    def _keep(self) -> int:
        short_lives, pause_s = 0, _FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            code = self._wait()
            if 0 <= code != _ENDED_BADLY or self._signalled:
                return code if code >= 0 else 1
            cause = f"signal {-code}" if code < 0 else "an exception"
            if not self._mount.is_there():
                log.warning("the server was ended by %s, and the mount is gone", cause)
                return 1
            lived_s = time.monotonic() - started_s
            short_lives = short_lives + 1 if lived_s < _TOO_SHORT_S else 0
            pause_s = _FIRST_PAUSE_S if short_lives == 0 else min(2 * pause_s, _LAST_PAUSE_S)
            self._restart(cause, short_lives, pause_s)

    def _restart(self, cause: str, short_lives: int, pause_s: float) -> Path:
        failures = killed = waited = 0
        while True:
            handed_over = self._connection is not None and self._connection.ledger.is_usable
            how = "another takes over" if handed_over else "the kernel cannot be handed over, mounting again"
            log.warning("the server of %s was ended by %s: %s", self._options.mountpoint, cause, how)
            if not handed_over:
                self._give_up_connection()
            if short_lives > 1 or failures or killed or waited:
                time.sleep(pause_s)
            try:
                return self._start_server()
            except _PASSING as error:
                waited += 1
                log.warning("cannot go on with %s yet: %s", self._options.mountpoint, error.fact)
            except _KilledError as error:
                killed += 1
                cause = f"{error.cause} before it was ready"
                if killed == _MOST_KILLED:
                    log.error("could not go on with %s: %s", self._options.mountpoint, error.fact)
                    self._give_up_connection()
                    raise
            except CkptfsError as error:
                failures += 1
                log.error("could not go on with %s: %s", self._options.mountpoint, error.fact)
                if failures == _MOST_FAILURES:
                    self._give_up_connection()
                    raise
            if self._signalled:
                self._give_up_connection()
                raise MountError(f"{self._options.mountpoint} was to be unmounted while nobody served it")
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _give_up_connection(self) -> None:
        """Take the dead mount away; who has files open there gets ENOTCONN."""
        self._mount.take_away()
        if self._connection is not None:
            self._told = None
            self._on_connection(None)
            self._connection.close()
            self._connection = self._connect()

    def _connect(self) -> Connection | None:
        options = self._options
        if options.fuse_socket is not None:
            wish = Wish(
                mountpoint=os.fspath(options.mountpoint),
                source=options.store,
                allow_other=options.allow_other,
                read_only=options.read_only or options.version is not None,
            )
            return Connection(lent=borrow(options.fuse_socket, wish))
        if options.fuse_fd is not None:
            return Connection(lent=adopt(options.fuse_fd))
        return connect(options.transport)

    @property
    def _mount(self) -> OwnMount | LentMount:
        return mount_of(self._connection, self._options.mountpoint)

    def _start_server(self) -> Path:
        """Fork a server; return the path for logs when it is ready. Raises CkptfsError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise ExhaustedError(f"cannot start the mount process: {error.strerror}") from error
        if pid == 0:
            ours.close()
            self._be_server(theirs)
        theirs.close()
        self._server = pid
        with ours:
            line, fds, _, _ = socket.recv_fds(ours, _MOST_SAID_BYTES, 1)
        if not line:
            code = self._wait()
            if code < 0:
                raise _KilledError(_ending(code))
            raise MountError(_not_ready(_ending(code)))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._wait()
            failure = _CAN_WAIT.get(answer["class"], CkptfsError)(str(answer["error"]), hint=answer["hint"])
            failure.errno = int(answer["errno"])
            raise failure
        if self._connection is not None:
            self._connection.keep_lock(fds[0] if fds else -1)
        elif fds:
            os.close(fds[0])
        if self._connection is not None and self._connection is not self._told:
            self._told = self._connection
            self._on_connection(self._connection)
        if self._signalled:
            self._pass_on(self._signalled, None)
        return Path(answer["log"])

    def _be_server(self, keeper: socket.socket) -> NoReturn:
        code = _ENDED_BADLY
        is_ready = False
        try:
            # Ctrl-C is for the keeper, which passes it on
            os.setpgid(0, 0)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

            def ready(cache: CacheDirectory) -> None:
                nonlocal is_ready
                is_ready = True
                _say(keeper, {"log": os.fspath(cache.log)}, cache.lock_fd)
                keeper.close()
                if self._in_background:
                    redirect_output(cache.log)

            code = self._serve(self._options, ready, self._connection)
        except CkptfsError as error:
            _say_error(keeper, error)
        except BaseException as error:
            if is_no_thread(error):
                _say_error(keeper, ExhaustedError("cannot start the mount process: no more threads may be had"))
            else:
                if is_ready or self._options.verbose:
                    # until then what is said goes to a person
                    traceback.print_exc()
                _say_error(keeper, CkptfsError(f"{type(error).__name__}: {error}"))
        finally:
            logging.shutdown()
            # not sys.exit: libfuse's threads must not run into an interpreter that is being torn down
            os._exit(code)

    def _wait(self) -> int:
        """Return the server's exit code; negative: minus the signal that killed it.

        A thread that has the kernel flush a file may wait in there for an answer to another request, which only the
        next server can give: so a server that was killed need not be gone altogether.
        """
        end = select.poll()
        process_fd = os.pidfd_open(self._server)
        end.register(process_fd, select.POLLIN)
        try:
            while True:
                was_killed = _state_of(self._server) == "Z"
                # any child: in a container, the upload processes of dead servers become ours
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self._server:
                    # its number may be another's from now on
                    self._server = 0
                    return os.waitstatus_to_exitcode(status)
                # it may be ending by itself, and its first thread be ahead of the others
                if pid == 0 and not end.poll(_GRACE_MS if was_killed else _LOOK_MS) and was_killed:
                    return -signal.SIGKILL
        finally:
            os.close(process_fd)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._signalled = number
        if self._server:
            os.kill(self._server, signal.SIGTERM)


def redirect_errors(log_path: Path) -> None:
    """Send what is logged to a file."""
    log_to(log_path)
    ours = logging.getLogger("ckptfs")
    ours.setLevel(min(ours.level, logging.INFO))


def redirect_output(log_path: Path) -> None:
    """Let go of the terminal: what is logged goes to a file."""
    redirect_errors(log_path)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def _not_ready(how: str) -> str:
    return f"the mount process ended before it was ready ({how})"


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _state_of(pid: int) -> str:
    """Return the state of a process's first thread, as proc_pid_stat(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


def _say_error(keeper: socket.socket, error: CkptfsError) -> None:
    said = {"error": error.fact, "hint": error.hint, "errno": error.errno, "class": type(error).__name__}
    _say(keeper, said)


def _say(keeper: socket.socket, fields: dict[str, Any], fd: int = -1) -> None:
    try:
        socket.send_fds(keeper, [json.dumps(fields).encode()], [fd] if fd >= 0 else [])
    except OSError:
        pass  # it has been said before that the mount is ready
