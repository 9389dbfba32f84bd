"""The process of a watch: signals, readiness, and the end."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CacheError
from ckptfs.fs.keeper import redirect_errors, redirect_output
from ckptfs.fs.options import WatchOptions
from ckptfs.fs.watch.watching import Watch

log = logging.getLogger("ckptfs")


def keep_watching(
    options: WatchOptions, ready: Callable[[], None], *, key: KeySource | None = None, in_background: bool = False
) -> int:
    """Watch a directory, and stay until the watch has ended; return an exit code.

    Args:
        options: Of the watch.
        ready: Called when the directory is the newest version, and is watched.
        key: Of an encrypted store.
        in_background: Log to the cache directory from then on.

    Raises:
        CkptfsError: What keeps it from watching.
    """
    stop, stop_draining = threading.Event(), threading.Event()
    watch: Watch | None = None

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if watch is None:
            # it may be fetching for hours; what it leaves is what a kill -9 leaves, which the next one takes up
            os._exit(128 + number)
        if stop.is_set():
            stop_draining.set()
        stop.set()
        watch.wake()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        # what the upload process inherits must not be a pipe that somebody waits for the end of
        watch = Watch(options, stop, key, redirect_errors if in_background else lambda _: None)
        # by which `ckptfs status` finds it (watch_table.py)
        os.chdir(options.mountpoint)
    except OSError as error:
        raise CacheError(
            f"cannot use {error.filename or options.mountpoint}: {error.strerror}",
            hint="make it accessible or free some space there, or choose another cache directory with --cache-dir",
        ) from error
    try:
        ready()
    except BaseException:
        # nobody knows of the watch, and nobody would end it
        watch.finish(stop_draining)
        raise
    if in_background:
        redirect_output(watch.cache.log)
    watch.run()
    if watch.is_lost:
        log.error(
            "%s was removed, or another is in its place: it cannot be watched any more, "
            "and what was not saved there is in no version",
            options.mountpoint,
        )
    ending = watch.finish(stop_draining)
    if ending.left:
        log.error(
            "ended with %d version(s) not durable (%s): they are kept in %s, and %s",
            ending.left,
            ending.reason,
            watch.cache.root,
            ending.outlook,
        )
    else:
        log.info("ended directory=%s", options.mountpoint)
    return 1 if ending.left or watch.is_lost else 0
