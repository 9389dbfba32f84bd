"""A read-write mount: becomes the store's one writer, runs, says how it is, and gives the store back.

Beginning: lock the cache directory; end an upload process that outlived its mount; become the writer (tenure.py); take
up what is pending and align the live tree (writing_parts.py); start the upload process. Ending, after the kernel has
let go of the mount: end touches; save if asked; drain; give the lease back.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError
from ckptfs.fs.control import uploads_object
from ckptfs.fs.options import MountOptions
from ckptfs.fs.tenure import Ending, Tenure, take_left
from ckptfs.fs.transport.choice import Transport
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.writing_parts import WritingParts
from ckptfs.mount_table import mounts

# a mount with --keep options that has nothing to upload: how long it waits for what its last version lets go
_LINGER_S = 10.0

log = logging.getLogger(__name__)

_TICK_S = 1.0


class WritingMount:
    """One read-write mount, from becoming the writer to giving the store back.

    Args:
        connection: If another process is to take over when this one is killed. If it is mounted, this one takes over:
            the live tree stays as it is, and nobody has been let in meanwhile.
        key: Of an encrypted store.

    Raises:
        CkptfsError: The cache directory, the store or the local state does not allow it; nothing has changed then.
    """

    def __init__(
        self, options: MountOptions, connection: Connection | None = None, key: KeySource | None = None
    ) -> None:
        self._options = options
        self._tenure = Tenure(
            options,
            lambda url: any(mount.store == url for mount in mounts()),
            connection.lock_fd if connection is not None and connection.is_mounted else None,
            key,
        )
        self._parts = WritingParts(options, self._tenure, connection, key, self.status)
        self.operations = self._parts.operations

    # running

    @property
    def cache(self) -> CacheDirectory:
        """Its cache directory."""
        return self._tenure.cache

    @property
    def store_url(self) -> str:
        """The store's address in canonical form."""
        return self._tenure.store.url

    def served_by(self, transport: Transport) -> None:
        """Requests will come through this transport."""
        self._parts.transport = transport

    def beside(self) -> dict[str, Callable[[], None]]:
        """Return what is to run beside the transport when the mount is there, each in a thread of its own."""
        parts = self._parts
        prefetch = {"prefetch": parts.prefetch.run} if self._options.prefetch else {}
        works = {"uploads": parts.uploads.run, "evictor": parts.evictor.run, "spares": parts.spares.run}
        return {**works, **prefetch, "tick": self._tick}

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            try:
                self._parts.marker.end_lingering()
            except (OSError, CkptfsError) as error:
                # descriptors may have run out: it is asked again
                log.warning("could not end a touch error=%r", str(error))
            self._parts.order.save()

    def status(self) -> dict[str, Any]:
        """Return the fields of `.status`."""
        waiting = self._parts.uploads.waiting()
        return {
            "kind": "mount",
            "store": self._tenure.store.url,
            "mountpoint": os.fspath(self._options.mountpoint),
            "pid": os.getpid(),
            "keeper": os.getppid(),
            "host": self._tenure.holder.host,
            "cache": os.fspath(self._tenure.cache.root),
            "transport": self._parts.transport.name if self._parts.transport is not None else None,
            "lent": self._options.is_lent,
            "read_only": False,
            "epoch": self._tenure.writer.epoch,
            **uploads_object(self._parts.uploads, self._parts.saver.blocked_since),
            "pending_age_s": round(max(0.0, time.time() - waiting[0].captured_s), 1) if waiting else None,
            "lease": self._parts.uploads.lease(),
            "changed_paths": len(self._parts.live.changes.current.paths),
            "not_fetched_files": self._parts.hydrator.missing_files,
            "not_fetched_bytes": self._parts.hydrator.missing_bytes,
            "set_aside_files": self._parts.set_aside,
            "counters": self._parts.queue.counters.as_dict(),
        }

    # ending

    def before_detach(self) -> None:
        """The mount is going away: end touches, and save if asked while mapped pages can still be had."""
        self._parts.saver.end()
        self._parts.marker.end_all()
        if self._options.save_on_exit and self._parts.saver.has_changes():
            try:
                self._parts.marker.put(b"")
            except (CkptfsError, OSError):
                log.exception("could not save on exit")

    def finish(self, stop_draining: threading.Event) -> Ending:
        """The kernel has let go of the mount: drain, and give the store back."""
        self.before_detach()
        reason = self._parts.uploads.drain(self._options.drain_timeout_s, stop_draining)
        for part in (self._parts.prefetch, self._parts.evictor, self._parts.queue, self._parts.spares):
            part.stop()
        self._parts.order.save()
        self._parts.uploads.stop(_LINGER_S if self._options.keeps_some else 0.0)
        left = take_left(self._tenure.cache)
        is_fenced = self._parts.uploads.fenced is not None
        self._tenure.release(is_fenced=is_fenced)
        self._parts.journal.close()
        self._tenure.cache.unlock()
        return Ending(left, reason, self._parts.uploads.failed is not None)
