"""Starting a mount: in the foreground (keep), or in processes of its own (start).

    start -> python -m ckptfs.fs.launch OPTIONS -> keep -> serve

`start`'s child says on its standard output, in one JSON line, that the mount is ready or why not; then it lets go of
the terminal and logs to the cache directory.
"""

import errno
import gc
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ckptfs import logs
from ckptfs.cache.directory import CacheDirectory
from ckptfs.crypto.secret import KeySource, Secret
from ckptfs.errors import CacheError, CkptfsError, InvalidInputError, MountError, ReadOnlyError
from ckptfs.fs.keeper import Keeper
from ckptfs.fs.options import MountOptions, WatchOptions
from ckptfs.fs.reading import ReadingMount
from ckptfs.fs.transport.choice import MountPlan, Transport, choose, mount_of, require_local
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.writing import WritingMount
from ckptfs.libc import set_signal_at_parents_death
from ckptfs.memory import share_pool
from ckptfs.store.open import check_url
from ckptfs.threads import start_thread
from ckptfs.transfer.confine import require_confinement

log = logging.getLogger("ckptfs")

# after a detach: a mount that nobody uses ends its loop at once
_LOOP_END_S = 2.0
# lets a signal handler run even where a wait is not interrupted by one
_LOOK_S = 1.0
_FILE = "file://"
_TOO_SMALL = "its filesystem holds no such file, so choose another directory with --cache-dir"
_REMEDIES = {
    errno.EFBIG: _TOO_SMALL,
    errno.ENAMETOOLONG: _TOO_SMALL,
    errno.EROFS: "nothing can be written there, so choose another directory with --cache-dir",
    errno.EMFILE: "raise `ulimit -n`",
}
"""For a cache directory that is no use, where more room would not help."""
# 1,048,576: what Linux allows by default (fs.nr_open); where it is more, programs that close every number take minutes
_MOST_FILES = 1 << 20


def start(options: MountOptions, key: KeySource | None = None) -> int:
    """Mount in processes of its own. Returns the pid of the keeper, our child, when the mount is ready.

    Args:
        options: What others may read: they are the child's arguments.
        key: Of an encrypted store. The child gets it through a pipe.

    Raises:
        CkptfsError: What kept it from mounting, as its process said it.
    """
    check(options)
    # -P: the user's directory may be one where others put modules
    secret = key().reveal() if key is not None else b""
    command = [sys.executable, "-P", "-m", "ckptfs.fs.launch", json.dumps(options_to_json(options))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        pass_fds=() if options.fuse_fd is None else (options.fuse_fd,),
    )
    if process.stdout is None or process.stdin is None:
        raise MountError("the mount process has no standard input or output")
    with suppress(BrokenPipeError), process.stdin:  # it has died: what it said, or that it said nothing, is read next
        process.stdin.write(secret)
    try:
        line = process.stdout.readline()
    except BaseException:
        # Ctrl-C, while a lease or the store is waited for: nothing is to be mounted later
        process.terminate()
        process.wait()
        raise
    process.stdout.close()
    try:
        answer = json.loads(line)
    except ValueError:
        code = process.wait()
        raise MountError(f"the mount process ended before it was ready (exit code {code})") from None
    if "error" in answer:
        process.wait()
        error = CkptfsError(str(answer["error"]), hint=answer["hint"])
        error.errno = int(answer["errno"])
        raise error
    # it goes on without us: nobody is to warn that it was not waited for
    process.returncode = 0
    return process.pid


def keep(
    options: MountOptions, ready: Callable[[], None], *, key: KeySource | None = None, in_background: bool = False
) -> int:
    """Mount, and stay until the mount has ended; return an exit code.

    Args:
        ready: Called when the mount is there.
        key: Of an encrypted store.
        in_background: Log to the cache directory from then on.

    Raises:
        CkptfsError: What keeps it from mounting.
    """
    check(options)
    set_limits()
    return Keeper(options, partial(serve, key=key), in_background=in_background).run(lambda _: ready())


def serve(
    options: MountOptions,
    ready: Callable[[CacheDirectory], None] = lambda cache: None,
    connection: Connection | None = None,
    *,
    key: KeySource | None = None,
) -> int:
    """Mount in this process, or take a mount over; return an exit code when it has ended.

    Args:
        ready: Called when the mount is there, with where it works.
        connection: For passthrough; mounted already if this process takes over.
        key: Of an encrypted store.

    Raises:
        CkptfsError: What keeps it from mounting.
    """
    os.umask(0)  # the program's is applied by the kernel, or with each request (Requests.new_mode)
    # trees of 100,000 files are built now, and stay: looking for garbage in them takes as long as building them
    gc.disable()
    if connection is None or not connection.is_mounted:
        mount_of(connection, options.mountpoint).prepare()
        require_local(options.transport, options.mountpoint, allow_other=options.allow_other, connection=connection)
    if options.confine_upload:
        require_confinement()
    try:
        mount: ReadingMount | WritingMount
        if options.read_only or options.version is not None:
            mount = ReadingMount(options, connection, key)
        else:
            mount = WritingMount(options, connection, key)
    except OSError as error:
        remedy = "free some space there, or choose another directory with --cache-dir"
        raise CacheError(
            f"cannot use {error.filename or options.cache_dir}: {error.strerror}",
            hint=_REMEDIES.get(error.errno or 0, remedy),
        ) from error
    return _Service(options, mount, ready, connection).run()


class _Service:
    """Runs the transport in a thread, so that this one can hear signals."""

    def __init__(
        self,
        options: MountOptions,
        mount: ReadingMount | WritingMount,
        ready: Callable[[CacheDirectory], None],
        connection: Connection | None,
    ) -> None:
        self._options = options
        self._mount = mount
        self._ready = ready
        self._place = mount_of(connection, options.mountpoint)
        self._wake = threading.Event()
        self._is_mounted = threading.Event()
        self._is_told = threading.Event()
        self._stop_asked = threading.Event()
        self._stop_draining = threading.Event()
        self._failure: BaseException | None = None
        plan = MountPlan(
            operations=mount.operations,
            mountpoint=options.mountpoint,
            name=mount.store_url,
            allow_other=options.allow_other,
            read_only=isinstance(mount, ReadingMount),
            backing=mount.cache.root,
            connection=connection,
        )
        self._transport: Transport = choose(options.transport, plan, lambda line: log.info("%s", line))
        mount.served_by(self._transport)

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        server = threading.Thread(target=self._serve, name="transport", daemon=True)
        server.start()
        while not self._is_mounted.is_set() and server.is_alive():
            self._wake.wait(_LOOK_S)
            self._wake.clear()
        if not self._is_mounted.is_set():
            self._finish()
            if isinstance(self._failure, CkptfsError):
                raise self._failure
            raise MountError(f"could not mount on {self._options.mountpoint}: {self._failure}")
        gc.freeze()
        gc.enable()
        self._ready(self._mount.cache)
        self._is_told.set()
        waiting = self._mount.beside()
        self._start(waiting)
        log.info(
            "mounted store=%s mountpoint=%s transport=%s",
            self._mount.store_url,
            self._options.mountpoint,
            self._transport.name,
        )
        if waiting:
            log.warning("no more threads may be had: what runs beside the mount begins when they may")
        while not (self._stop_asked.is_set() or not server.is_alive()):
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            self._start(waiting)
        if self._stop_asked.is_set() and server.is_alive():
            if isinstance(self._mount, WritingMount):
                self._mount.before_detach()
            self._place.take_away()
            server.join(_LOOP_END_S)
        # what it uploads by: the transport's threads are gone
        self._start(waiting)
        return self._finish()

    def _start(self, waiting: dict[str, Callable[[], None]]) -> None:
        """Start a thread for each, and take it out; those that may not be had yet stay."""
        for name, work in list(waiting.items()):
            if start_thread(work, name) is None:
                return
            del waiting[name]

    def _serve(self) -> None:
        try:
            self._transport.serve(self._on_mounted)
        except BaseException as error:
            self._failure = error
        finally:
            self._wake.set()

    def _on_mounted(self) -> None:
        self._is_mounted.set()
        self._wake.set()
        # who gets an answer may take the mount for ready, and kill us: the keeper is to know as much by then
        self._is_told.wait()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop_asked.is_set():
            self._stop_draining.set()
        self._stop_asked.set()
        self._wake.set()

    def _finish(self) -> int:
        """End all, and say how; return an exit code: 1 if versions are left."""
        self._transport.close()
        if isinstance(self._mount, ReadingMount):
            self._mount.finish()
            return 0
        ending = self._mount.finish(self._stop_draining)
        if ending.left:
            log.error(
                "unmounted with %d version(s) not durable (%s): they are kept in %s, and %s",
                ending.left,
                ending.reason,
                self._mount.cache.root,
                ending.outlook,
            )
            return 1
        if self._is_mounted.is_set():
            log.info("unmounted mountpoint=%s", self._options.mountpoint)
        return 0


def set_limits() -> None:
    """Take a descriptor for each file that programs may have open; and leave no core, which would hold keys."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_FILES), most))
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def check(options: MountOptions) -> None:
    """Raise a CkptfsError if the options contradict each other, or a mount would keep its data in itself."""
    # here, where a relative path means what the user meant
    check_url(options.store)
    if options.version is not None and options.save_on_exit:
        raise ReadOnlyError("a mount of an old version is read-only: --save-on-exit does not go with --version")
    # not the mount point itself, which may be a dead mount
    given = os.path.abspath(options.mountpoint)
    real = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
    places = {"the cache directory": os.fspath(options.cache_dir)}
    if options.store.startswith(_FILE):
        places["the store"] = options.store.removeprefix(_FILE)
    for what, path in places.items():
        if _is_inside(os.path.abspath(path), given) or _is_inside(os.path.realpath(path), real):
            raise InvalidInputError(
                f"{what} {path} would be inside the mount at {options.mountpoint}",
                hint="a mount cannot keep its data in itself: choose another directory",
            )


def _is_inside(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def options_to_json(options: MountOptions) -> dict[str, Any]:
    """Return what the command line of another process can carry."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: os.fspath(value) if isinstance(value, Path) else value for name, value in values.items()}


def options_from_json(values: dict[str, Any]) -> MountOptions:
    """Undo options_to_json; what another version of ckptfs wrote is taken as far as it is known here."""
    kind = WatchOptions if "adopt" in values else MountOptions
    known = {field.name for field in fields(kind)}
    places = ("mountpoint", "cache_dir", "key_file", "fuse_socket")
    paths = {name: Path(values[name]) for name in places if values.get(name) is not None}
    return kind(**{name: value for name, value in values.items() if name in known} | paths)


def _key_from(data: bytes) -> KeySource | None:
    if not data:
        return None
    secret = Secret(data)
    return lambda: secret


def _answer(fields_: dict[str, Any]) -> None:
    line = json.dumps(fields_).encode() + b"\n"
    os.write(1, line)


class _NobodyWaitsError(Exception):
    """Whoever started this process has ended before it was ready."""


def _say_ready() -> None:
    # from here on it goes on without whoever started it
    set_signal_at_parents_death(0)
    try:
        _answer({"ready": True})
    except BrokenPipeError as error:
        raise _NobodyWaitsError from error


def _say_failed(fact: str, hint: str | None, number: int) -> None:
    with suppress(BrokenPipeError):  # who started us has ended
        _answer({"error": fact, "hint": hint, "errno": number})


def main(argument: str) -> int:
    """The keeper of one mount, or the process of a watch, started by `start`."""
    set_signal_at_parents_death(signal.SIGTERM)
    share_pool()
    options = options_from_json(json.loads(argument))
    configure_logging(options.verbose)
    if not options.verbose:
        # until there is a log, a person waits for the mount, who need not know how it goes
        logging.getLogger("ckptfs").setLevel(logging.WARNING)
    # not to keep the filesystem busy where the user happened to be
    os.chdir("/")
    try:
        key = _key_from(sys.stdin.buffer.read())
        if isinstance(options, WatchOptions):
            # imported here: watchdog takes 50 ms, and a mount has no use for it
            from ckptfs.fs.watch.service import keep_watching

            return keep_watching(options, _say_ready, key=key, in_background=True)
        return keep(options, _say_ready, key=key, in_background=True)
    except _NobodyWaitsError:
        pass  # the keeper has taken the mount away again, and there is nobody to tell
    except CkptfsError as error:
        _say_failed(error.fact, error.hint, error.errno)
    except Exception as error:
        log.exception("could not mount")
        _say_failed(f"{type(error).__name__}: {error}", None, errno.EIO)
    return 1


def configure_logging(verbose: bool) -> None:
    """Send log lines to standard error."""
    logs.configure(verbose=verbose)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
