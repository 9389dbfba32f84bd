"""A tenure: the time in which one process is a store's one writer, with a cache directory of its own.

Beginning: lock the cache directory; end an upload process that outlived its mount process; look at the lease and append
a fence record; write the session down for the upload process. Ending: give the lease back.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckptfs.cache.directory import CacheDirectory, CacheInUseError, boot_id, lock_is_free, store_directory_name
from ckptfs.cache.durable import sync_path
from ckptfs.cache.pending import commit_ids, list_pending, sync_pending
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError, HeldError
from ckptfs.format.lease import LeaseRecord
from ckptfs.fs.options import MountOptions, access_of, server_encryption
from ckptfs.fs.recovery import claims_of, is_our_lineage
from ckptfs.store.open import open_store
from ckptfs.threads import start_thread
from ckptfs.versions.kept import through_kept
from ckptfs.versions.leasing import Holder
from ckptfs.versions.pins import pin
from ckptfs.versions.retry import Retry
from ckptfs.versions.writer import Writer

log = logging.getLogger(__name__)

# a mount that has nothing to upload ends within this
_ENDING_S = 5.0
_ENDING_POLL_S = 0.05
# one small PUT; who comes next on this machine need not wait anyway, and on another no longer than the lease
_RELEASE_S = 5.0


@dataclass(slots=True)
class Ending:
    """How a mount ended."""

    left: int
    """Versions that are not durable, and are kept in the cache directory."""
    reason: str = ""
    is_lost: bool = False
    """One of them can never enter history, nor can those after it."""

    @property
    def outlook(self) -> str:
        """What becomes of those versions, for the log."""
        if self.is_lost:
            return "they can never enter history; `ckptfs recover` lists them"
        return "the next mount, or watch, with this cache directory finishes them"


class Tenure:
    """One process's tenure of one store.

    Args:
        options: Of the mount.
        is_shown: Tells whether a mount of a store (its address) is there: one that is not, but has the cache
            directory, is ending, and is waited for.
        lock_fd: Of the cache directory's lock, if this process goes on for one that was killed, as the same writer.
        key: Of an encrypted store.

    Raises:
        CkptfsError: The cache directory or the store does not allow it; nothing has changed then.
    """

    def __init__(
        self,
        options: MountOptions,
        is_shown: Callable[[str], bool],
        lock_fd: int | None = None,
        key: KeySource | None = None,
    ) -> None:
        self._options = options
        self.boot = boot_id()
        self._access = access_of(options, key, goes_on=lock_fd is not None)
        # to go on is to find it again: where its filesystem is not mounted now, nothing is made
        is_new = lock_fd is None
        self.store = open_store(options.store, create=is_new, server_encryption=server_encryption(options))
        self.cache = CacheDirectory(options.cache_dir / store_directory_name(self.store.url))
        self.cache.prepare(trusted=options.trust_cache_dir)
        if lock_fd is not None:
            self.cache.go_on_locked(lock_fd)
        else:
            self._lock_cache(is_shown)
        self.cache.stop_upload_process()
        session = self.cache.read_session()
        self.holder = self._make_holder()
        self.writer = self._go_on(session) if lock_fd is not None else self._acquire(session)
        # from here on, as it opens what is encrypted
        self.store = self.writer.history.store
        objects = self.cache.objects / self.writer.history.store_id
        # who takes over does so without the store, too
        self.kept, self.history = through_kept(self.writer.history, objects, check=lock_fd is None)
        self.is_ours = lock_fd is not None or is_our_lineage(session, self.writer)
        """Whether nobody wrote to the store since the last session of this cache directory."""
        self.last_epoch: int | None = session.get("epoch")
        """Of that session; None if there was none."""
        # who takes over does not wait for the disk: the epoch is the one that is there
        self._write_session(self.cache.read_lost() if lock_fd is not None else {}, durably=lock_fd is None)
        # again: one that was still starting when its mount process died, and found the old session
        self.cache.stop_upload_process()

    def _lock_cache(self, is_shown: Callable[[str], bool]) -> None:
        deadline_s = time.monotonic() + _ENDING_S
        while True:
            try:
                self.cache.lock()
                return
            except CacheInUseError as error:
                # one whose mount is gone is ending
                if is_shown(self.store.url) or time.monotonic() > deadline_s:
                    raise self._held(error) from error
            time.sleep(_ENDING_POLL_S)

    def _held(self, error: CacheInUseError) -> HeldError:
        return HeldError(
            f"{self.store.url} is mounted read-write by {socket.gethostname()} (pid {error.pid or '?'}, "
            f"on this machine, with the same cache directory)",
            hint=f"unmount it there and wait until it has ended; it works in {self.cache.root}",
        )

    def _make_holder(self) -> Holder:
        return Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=self.boot,
            lock=os.fspath(self.cache.lock_path),
            lock_id=self.cache.lock_id,
        )

    def _go_on(self, session: dict[str, Any]) -> Writer:
        return Writer.resume(self.store, int(session["epoch"]), self.holder, self._options.lease_s, access=self._access)

    def _acquire(self, session: dict[str, Any]) -> Writer:
        # written before the fence, which is durable: a session that dies right after it, the machine with it, is known
        # as the one before the next all the same, and what a clean unmount has left pending may go on
        claims = [*claims_of(session), [self.holder.host, self.holder.pid]]
        self.cache.write_session({**session, "claims": claims}, durably=True)
        return Writer.acquire(
            self.store,
            self.holder,
            lease_s=self._options.lease_s,
            takeover=self._options.takeover,
            unsafe_single_writer=self._options.unsafe_single_writer,
            access=self._access,
            holder_is_dead=self._is_dead,
            holder_is_alive=self._is_alive,
            # one of ours that died between its fence and its lease: the lock of its cache directory is ours now
            maker_is_dead=lambda record: [record.host, record.pid] in claims_of(session),
            on_wait=lambda line: log.warning("%s", line),
        )

    def _is_dead(self, lease: LeaseRecord) -> bool:
        same_directory = (lease.lock, lease.lock_id) == (self.holder.lock, self.holder.lock_id)
        return lease.machine == self.boot and (same_directory or lock_is_free(lease.lock, lease.lock_id))

    def _is_alive(self, lease: LeaseRecord) -> bool:
        if lease.machine != self.boot or lease.lock_id == self.holder.lock_id:
            return False
        try:
            status = os.stat(lease.lock)
        except (OSError, ValueError):
            # ValueError: a name that none can have
            return False
        named = f"{status.st_dev}:{status.st_ino}" == lease.lock_id
        return named and not lock_is_free(lease.lock, lease.lock_id)

    def pin(self, version: int, base: int) -> None:
        """Keep a version while the newest one is not above a base (versions/pins.py). Errors as of pin()."""
        host, pid = self.holder.host, self.holder.pid
        pin(self.history, version, base, Retry(), epoch=self.writer.epoch, host=host, pid=pid)

    def _write_session(self, lost: dict[str, str], *, durably: bool) -> None:
        self.cache.write_session(
            {
                "store": self.store.url,
                "store_id": self.writer.history.store_id,
                "epoch": self.writer.epoch,
                "lease_s": self._options.lease_s,
                "cache_size_bytes": self._options.cache_size_bytes,
                "upload_limit_bps": self._options.upload_limit_bps,
                "upload_nice": self._options.upload_nice,
                "confine_upload": self._options.confine_upload,
                "sse": self._options.sse,
                "sse_kms_key_id": self._options.sse_kms_key_id,
                "keep_last": self._options.keep_last,
                "keep_daily": self._options.keep_daily,
                "keep_every": self._options.keep_every,
                "host": self.holder.host,
                "pid": self.holder.pid,
                "machine": self.holder.machine,
                "lock": self.holder.lock,
                "lock_id": self.holder.lock_id,
                "lost": lost,
            },
            durably=durably,
        )

    @property
    def max_pending_bytes(self) -> int:
        """Local disk that pending versions may keep before a save waits."""
        if self._options.max_pending_bytes is not None:
            return self._options.max_pending_bytes
        room = os.statvfs(self.cache.root)
        return room.f_bavail * room.f_frsize // 2

    def release(self, *, is_fenced: bool) -> None:
        """Give the lease back, unless it is another's by now; a store that does not answer holds nobody up."""

        def run() -> None:
            try:
                if not is_fenced:
                    self.writer.release()
                self.store.close()
            except CkptfsError as error:
                log.warning("could not give the lease back error=%r", error.fact)

        thread = start_thread(run, "release")
        if thread is not None:
            thread.join(_RELEASE_S)
        if thread is None or thread.is_alive():
            log.warning("could not give the lease back in %.0f s", _RELEASE_S)


def take_left(cache: CacheDirectory) -> int:
    """Count the versions that are not durable, and make those that are pending outlive a restart of the machine."""
    left = list_pending(cache.pending)
    aside = cache.read_lost().keys() & commit_ids(cache.aside)
    try:
        for pending in left:
            sync_pending(pending)
        if left:
            sync_path(cache.session)
            sync_path(cache.root)
    except OSError:
        log.exception("could not sync what is left pending_versions=%d", len(left))
    return len(left) + len(aside)
