"""The upload process: takes pending versions of a cache directory into the store, oldest first.

    python -m ckptfs.transfer.process CACHEDIR [EPOCH.PID [key]]

It is a process of its own so that Python's lock never makes a training write wait. It is crash-only: all it knows is in
the cache directory and the store, so that it may be killed at any moment, and SIGTERM simply ends it.

    stdin   a line: there is something new under pending/; `!` in it: somebody waits for that. End of file: the mount
            process is gone.
            With `key`, the first line is the key of an encrypted store, in hex
    stdout  events (events.py)

Rules:
    X1  one upload process for a cache directory: upload.lock
    X2  a version leaves pending/ only when its commit record exists, and before that is said
    X3  while stdin is open the lease is renewed, and whatever fails is tried again for ever; afterwards nothing is
        renewed, and the first failure ends the process: the next mount goes on

    X4  it works for the session with EPOCH and PID, its mount process's: one that was still starting when that died
        must not take the versions of the next, which would wait for news of them for ever

Exit code: 0 the mount process is gone and nothing is left to do; 1 it is gone and something failed; 3 fenced.
"""

import fcntl
import gc
import logging
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ckptfs import logs
from ckptfs.cache.anchors import AnchorCache
from ckptfs.cache.directory import CacheDirectory, write_pid
from ckptfs.cache.high_water import HighWater
from ckptfs.cache.pending import PendingVersion, discard_pending, list_pending, pending_numbers
from ckptfs.crypto.secret import KeySource, Secret
from ckptfs.errors import CacheError, CkptfsError, DivergedError, ExhaustedError, FencedError
from ckptfs.format.commit import CommitRecord
from ckptfs.log_file import is_logged_to, log_to
from ckptfs.memory import keep_freed_memory
from ckptfs.store.base import Store
from ckptfs.store.caching import CachingStore
from ckptfs.store.open import open_store, store_directory
from ckptfs.store.server_encryption import ServerEncryption
from ckptfs.threads import NO_THREAD, is_no_thread, require_thread
from ckptfs.transfer.confine import confine
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.damage import DamageList
from ckptfs.transfer.data_file import PendingDataError
from ckptfs.transfer.effort import EffortControl
from ckptfs.transfer.encoding import EncoderPool
from ckptfs.transfer.events import Events, describe
from ckptfs.transfer.gathering import HURRY, Gathering
from ckptfs.transfer.heal import find_on_disk
from ckptfs.transfer.retaining import Retainer
from ckptfs.transfer.upload import VersionUploader
from ckptfs.versions.leasing import Holder
from ckptfs.versions.opening import Access
from ckptfs.versions.prune import Pruned, Pruner
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry
from ckptfs.versions.writer import Writer

EXIT_DONE, EXIT_FAILED, EXIT_FENCED = 0, 1, 3

# 10: training's own processes go first; on an idle machine it changes nothing
_NICE = 10
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
# some 60 MiB of memory each, and 1 GB/s together with the store's side of the work
_MOST_ENCODERS = 4
# how long a mount that ends waits for what its last version lets go; the next mount finishes it
_LAST_PRUNE_S = 10.0
# how long one commit of unknown outcome is asked about before that is said
_COMMIT_BUDGET_S = 5.0
# 64 GiB, of anchors, where the session does not say: the mount's own default
_CACHE_SIZE_BYTES = 64 << 30

# not __name__, which is __main__ here
logger = logging.getLogger("ckptfs.transfer.process")
T = TypeVar("T")


class _GaveUpError(Exception):
    """Something failed and nobody is left to wait for it, or it is somebody else's to do."""


class UploadProcess:
    """The work of one process.

    Args:
        cache: Its directory; upload.lock is held.
        events: Where to tell what happens.
        encoders: For chunks of CHUNK_BYTES.
        session: EPOCH.PID of its mount process (X4); None takes the session that is there.
        key: Of an encrypted store.
    """

    def __init__(
        self,
        cache: CacheDirectory,
        events: Events,
        encoders: EncoderPool,
        *,
        session: str | None = None,
        key: KeySource | None = None,
    ) -> None:
        self._cache = cache
        self._events = events
        self._encoders = encoders
        self._session = session
        self._key = key
        self._wanted = threading.Event()
        """Something may be new under pending/, or the mount process is gone."""
        self._orphaned = threading.Event()
        self._gathering = Gathering()
        self._retainer: Retainer | None = None

    def run(self) -> int:
        """Upload until there is no more to do; return the exit code."""
        try:
            require_thread(self._listen, "ckptfs-stdin")
            store, writer = self._persist(0, self._open)
            # from here on: beginning takes 0.2 s, and beside busy programs it would be 2 s
            let_other_sessions_first()
            require_thread(partial(self._renew, writer), "ckptfs-lease")
            anchors = self._open_anchors()
            uploader = VersionUploader(
                store,
                writer,
                writer.history,
                anchors=anchors,
                damage=DamageList(store),
                find=find_on_disk(self._cache.live, anchors),
                kept=CachingStore(store, self._cache.objects / writer.history.store_id),
                encoders=self._encoders,
                effort=EffortControl(self._count_waiting, self._events.regime),
                on_progress=self._events.progress,
            )
            self._retainer = self._start_retaining(writer)
            while True:
                is_last = self._orphaned.is_set()
                self._wanted.clear()
                self._gathering.calm()
                for pending in self._persist(0, lambda: list_pending(self._cache.pending)):
                    if pending.is_open:
                        # those after it build on it
                        break
                    self._upload(uploader, pending)
                if is_last:
                    if self._retainer is not None:
                        self._retainer.end(_LAST_PRUNE_S)
                    return EXIT_DONE
                if not self._orphaned.is_set():
                    self._wanted.wait()
                    self._gathering.wait()
        except FencedError as error:
            self._events.fenced(error)
            return EXIT_FENCED
        except _GaveUpError:
            return EXIT_FAILED
        except (ExhaustedError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_no_thread(error):
                raise
            logger.warning("ends error=%r", NO_THREAD)
            return EXIT_FAILED

    def _listen(self) -> None:
        """Take wake-ups from stdin until it ends."""
        while news := os.read(0, 4096):
            if HURRY in news:
                self._gathering.hurry()
            self._wanted.set()
        self._orphaned.set()
        self._gathering.hurry()
        self._wanted.set()

    def _open(self) -> tuple[Store, Writer]:
        session = self._cache.read_session()
        try:
            url, epoch, lease_s = str(session["store"]), int(session["epoch"]), float(session["lease_s"])
            names = {name: str(session[name]) for name in ("host", "machine", "lock", "lock_id")}
            holder = Holder(pid=int(session["pid"]), **names)
        except (KeyError, ValueError, TypeError) as error:
            raise CacheError(f"{self._cache.session} does not say who writes: {error!r}") from error
        if self._session not in (None, f"{epoch}.{holder.pid}"):
            logger.warning("another mount works in the cache directory now epoch=%d pid=%d", epoch, holder.pid)
            raise _GaveUpError
        sse, kms_key_id = session.get("sse"), session.get("sse_kms_key_id")
        store = open_store(
            url,
            upload_limit_bps=_number(session.get("upload_limit_bps"), 0),
            server_encryption=ServerEncryption(sse, kms_key_id) if sse else None,
        )
        access = Access(key=self._key, high_water=HighWater(self._cache.high_water))
        writer = Writer.resume(store, epoch, holder, lease_s, access=access, retry_budget_s=_COMMIT_BUDGET_S)
        return writer.history.store, writer

    def _open_anchors(self) -> AnchorCache | None:
        """Return what is kept to encode against; None if there is no place for it."""
        try:
            limit_bytes = int(self._cache.read_session().get("cache_size_bytes", _CACHE_SIZE_BYTES))
            return AnchorCache(self._cache.anchors, limit_bytes)
        except (OSError, ValueError, TypeError) as error:
            logger.warning("works without anchors error=%r", str(error))
            return None

    def _start_retaining(self, writer: Writer) -> Retainer | None:
        """Return what prunes by the rules of the mount; None if it has none."""
        session = self._cache.read_session()
        rules = {name: session.get(name) for name in ("keep_last", "keep_daily", "keep_every")}
        retention = Retention(**{name: rule for name, rule in rules.items() if isinstance(rule, int)})
        if retention.keeps_all:
            return None
        pruner = Pruner(writer.history, Retry(), host=writer.holder.host, pid=writer.holder.pid, epoch=writer.epoch)

        def pruned(done: Pruned) -> None:
            if done.record is not None:
                writer.meet(done.record)
            self._events.pruned(len(done.dropped))

        retainer = Retainer(pruner, retention, pruned)
        retainer.start()
        return retainer

    def _count_waiting(self) -> int:
        """Return how many versions wait behind the one that is uploaded."""
        return max(0, len(pending_numbers(self._cache.pending)) - 1)

    def _renew(self, writer: Writer) -> None:
        """Renew the lease until the mount process is gone. An outage is said once, not each time for hours."""
        is_away = False
        while not self._orphaned.is_set():
            try:
                writer.renew()
                self._events.lease(None)
                if is_away:
                    logger.info("renewed the lease again")
                is_away = False
            except FencedError as error:
                self._events.fenced(error)
                os._exit(EXIT_FENCED)
            except CkptfsError as error:
                # a commit decides whether we are the writer, not the lease
                self._events.lease(error)
                if not is_away:
                    logger.warning("did not renew the lease error=%r", error.fact)
                is_away = True
            self._orphaned.wait(writer.lease_s / 3)

    def _upload(self, uploader: VersionUploader, pending: PendingVersion) -> None:
        """Take one version into the store, or put it aside."""
        started_s = time.monotonic()
        self._gathering.begin()

        def upload() -> CommitRecord:
            self._events.begin(pending.version)
            record = uploader.upload(pending)
            discard_pending(pending)
            return record

        try:
            record = self._persist(pending.version, upload)
        except (PendingDataError, DivergedError) as error:
            self._put_aside(pending)
            logger.error("put version aside version=%d error=%r", pending.version, error.fact)
            self._events.failed(pending.version, error)
            return
        logger.info(
            "committed version=%d seq=%d files=%d bytes=%d uploaded_bytes=%d duration_s=%.2f",
            *(record.version, record.seq, record.files, record.bytes, record.bytes_added),
            time.monotonic() - started_s,
        )
        self._events.durable(record, uploader.new_bytes)
        if self._retainer is not None:
            self._retainer.wake()

    def _put_aside(self, pending: PendingVersion) -> None:
        # the number may have been put aside before, and then been given out again
        name = f"{pending.directory.name}-{secrets.token_hex(4)}"
        try:
            pending.directory.rename(self._cache.aside / name)
        except FileNotFoundError:
            # somebody else has replaced or removed it
            return

    def _persist(self, version: int, action: Callable[[], T]) -> T:
        """Return what an action returns, doing it again when it fails (X3).

        Raises:
            FencedError, PendingDataError, DivergedError: It can never succeed.
            _GaveUpError: It failed after the mount process was gone.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return action()
            except (FencedError, PendingDataError, DivergedError):
                raise
            except (CkptfsError, OSError) as error:
                if self._orphaned.is_set():
                    logger.warning("gave up version=%d error=%r", version, describe(error))
                    raise _GaveUpError from error
                # jitter, for a store that comes back meets all its writers at once
                next_s = pause_s * random.uniform(0.5, 1.0)
                self._events.retrying(version, error, next_s)
                self._orphaned.wait(next_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def let_others_first(niceness: int) -> None:
    """Give way to other processes: weigh less, wait for the end of their slice of time when waking up.

    Who has given us another policy meant that, and may not allow to leave it (SCHED_IDLE); nor may a container.
    """
    os.nice(niceness)
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def let_other_sessions_first() -> None:
    """Give our session our niceness, if it is our own (fs/upload_process.py).

    Linux divides processor time among sessions before it does among the processes of each (sched(7), "The autogroup
    feature"), and training has another session than we.
    """
    if os.getsid(0) == os.getpid():
        # no such feature in this kernel, or somebody else of this user has just set a session's
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(os.nice(0)))


def main(arguments: list[str]) -> int:
    """Run the upload process of a cache directory; return the exit code."""
    if len(arguments) not in (1, 2, 3):
        sys.stderr.write("usage: python -m ckptfs.transfer.process CACHEDIR [EPOCH.PID [key]]\n")
        return 2
    logs.configure(verbose=False)
    # Ctrl-C at a mount in the foreground is for the mount process, which drains through us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cache = CacheDirectory(Path(arguments[0]))
    if is_logged_to(cache.log):
        log_to(cache.log)
    let_others_first(_number(cache.read_session().get("upload_nice"), _NICE))
    keep_freed_memory()
    # what was imported stays
    gc.freeze()
    if cache.read_session().get("confine_upload"):
        # before there is another thread, and before anything comes from the network
        try:
            confine(_places(cache))
        except CkptfsError as error:
            logger.error("did not begin error=%r", error.fact)
            Events(1).retrying(0, error, 0.0)
            return EXIT_FAILED
    # before there is a lock, a thread or a connection that it would inherit
    encoders = EncoderPool(min(len(os.sched_getaffinity(0)), _MOST_ENCODERS), chunk_bytes=CHUNK_BYTES, forked=True)
    lock_fd = os.open(cache.upload_lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    write_pid(lock_fd)
    session = arguments[1] if arguments[1:] else None
    return UploadProcess(cache, Events(1), encoders, session=session, key=_read_key() if arguments[2:] else None).run()


def _places(cache: CacheDirectory) -> list[Path]:
    """Return the directories below which this process changes files."""
    store = store_directory(str(cache.read_session().get("store")))
    # where boto3, and programs that it asks for credentials, keep what they got
    places = [Path(os.path.expanduser("~/.aws")), Path(tempfile.gettempdir()), Path("/dev")]
    return [cache.root, cache.high_water, *places, *([store] if store is not None else [])]


def _read_key() -> KeySource | None:
    # unbuffered: what comes after it is for somebody else
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    secret = Secret(bytes.fromhex(line.decode()))
    return lambda: secret


def _number(value: object, otherwise: int) -> int:
    """Return a number of the session, which an older ckptfs may have written."""
    return value if isinstance(value, int) else otherwise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
