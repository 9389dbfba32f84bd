"""A read-write mount: puts the parts together, in the order that safety asks for, and takes them apart again.

Beginning: lock the cache directory; end an upload process that outlived its mount; become the store's one writer; take
up what is pending; align the live tree; start the upload process. Ending, after the kernel has let go of the mount: end
touches; save if asked; drain; give the lease back.
"""

import logging
import os
import shutil
import stat
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.capture.capture import Capturer
from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.gate import Gate
from ckptfs.capture.guards import Guards
from ckptfs.capture.journal import Journal, JournalState, read_journal
from ckptfs.capture.sizes import Sizes
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CacheError, CkptfsError
from ckptfs.fs.align import Aligner, Alignment, Target
from ckptfs.fs.contents import ContentCache
from ckptfs.fs.control import Control, save_text, status_text, uploads_object
from ckptfs.fs.evictable_files import EvictableLiveFiles
from ckptfs.fs.eviction import Evictor
from ckptfs.fs.fetching import FetchQueue
from ckptfs.fs.hydrate import Hydrator
from ckptfs.fs.knowing import know_aligned, know_left, know_pending
from ckptfs.fs.live import LiveTree
from ckptfs.fs.live_names import LiveNames
from ckptfs.fs.marker import SaveMarker
from ckptfs.fs.open_files import OpenFiles
from ckptfs.fs.operations import Operations
from ckptfs.fs.options import MountOptions
from ckptfs.fs.prefetch import Prefetch
from ckptfs.fs.read_order import ReadOrder
from ckptfs.fs.recovery import Taken, align_live_tree, is_kept, take_up
from ckptfs.fs.restorer import LiveRestorer
from ckptfs.fs.saver import LiveSaver
from ckptfs.fs.tenure import Ending, Tenure, take_left
from ckptfs.fs.transport.choice import OVERLAYFS, Transport, filesystem_type
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.version_state import VersionState
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.fs.writable import Writable
from ckptfs.mount_table import mounts
from ckptfs.transfer.damage import DamageList
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.missing import Missing

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
        self._outlives = connection is not None
        self._goes_on = connection is not None and connection.is_mounted
        self._key = key
        self._tenure = tenure = Tenure(
            options,
            lambda url: any(mount.store == url for mount in mounts()),
            connection.lock_fd if connection is not None and connection.is_mounted else None,
            key,
        )
        self._boot, self._store, self._cache, self._history = tenure.boot, tenure.store, tenure.cache, tenure.history
        self._build(take_up(self._cache, self._history, ours=tenure.is_ours, boot=self._boot))

    # beginning

    def _build(self, taken: Taken) -> None:
        cache, options = self._cache, self._options
        if not self._goes_on:
            _empty(cache.orphans)
        self._root_fd = os.open(cache.live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._spare_fd = spare_fd = os.open(cache.orphans, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        state = read_journal(cache.journal)
        if self._goes_on and (state is None or state.boot != self._boot):
            raise CacheError(f"{cache.journal} is missing or not whole")
        self._journal = Journal(cache.journal)
        self._gate, self._links, self._guards = Gate(), LinkGroups(), Guards()
        self._queue = FetchQueue(
            Fetcher(self._store, workers=1), DamageList(self._store).note, Missing(self._history).explain
        )
        self._counters = self._queue.counters
        self._live = self._make_live(spare_fd)
        self._names = LiveNames(self._live)
        self._hydrator = self._live.hydrator
        result = Alignment() if self._goes_on else self._align(taken, state)
        self._set_aside = result.set_aside
        self._capturer = self._make_capturer(taken)
        if self._goes_on and state is not None:
            self._go_on(taken, state)
        else:
            kept_stubs = state.stubs if state is not None else set()
            know_aligned(self._live, self._capturer, taken.target, result, kept_stubs=kept_stubs)
            self._journal.rewrite(taken.version, taken.commit_id, self._boot, self._hydrator.inodes())
            if b"" not in taken.target.tree:
                self._take_root_attributes()
        contents = ContentCache(cache.contents, self._queue)
        self._versions = VersionsDirectory(self._history, contents)
        self._order = ReadOrder(cache.read_order)
        self._open_files = OpenFiles(self._live, self._names, keeps_nameless=self._outlives, on_read=self._order.read)
        self._transport: Transport | None = None
        self._uploads = self._make_uploads(taken)
        self._evictor = Evictor(
            cache,
            options.cache_size_bytes,
            contents,
            self._queue,
            self._make_evictable(),
            sweep=self._tenure.kept.drop_deleted,
        )
        self._queue.make_room = self._evictor.make_room
        self._prefetch = Prefetch(self._hydrator, self._queue, self._order.ranks, self._evictor.room_bytes)
        self._hydrator.on_added, self._hydrator.on_wanted = self._prefetch.look_again, self._prefetch.follow
        know_pending(self._live, self._uploads, taken.pending)
        self._saver = self._make_saver()
        self._marker = SaveMarker(self._saver)
        self.operations = self._make_operations()

    # the parts

    def _make_live(self, spare_fd: int) -> LiveTree:
        changes = Changes(self._journal)
        hydrator = Hydrator(self._root_fd, spare_fd, self._queue, self._gate, changes.times, self._journal.hydrated)
        return LiveTree(
            self._root_fd,
            spare_fd,
            gate=self._gate,
            changes=changes,
            links=self._links,
            guards=self._guards,
            hydrator=hydrator,
        )

    def _make_capturer(self, taken: Taken) -> Capturer:
        sizes = Sizes()
        sizes.load(taken.target.tree)
        return Capturer(
            root_fd=self._root_fd,
            pending_root=self._cache.pending,
            changes=self._live.changes,
            links=self._links,
            guards=self._guards,
            sizes=sizes,
            version=taken.version,
            commit_id=taken.commit_id,
            boot=self._boot,
            mtime_ns=lambda status: self._live.shown(status).mtime_ns,
        )

    def _make_uploads(self, taken: Taken) -> Uploads:
        return Uploads(
            self._cache.root,
            self._guards,
            VersionState.of_record(taken.head) if taken.head is not None else None,
            lambda _: self._became_durable(),
            self._counters,
            self._key,
            on_pruned=self._versions_pruned,
        )

    def _make_saver(self) -> LiveSaver:
        return LiveSaver(
            gate=self._gate,
            capturer=self._capturer,
            unseen=self._open_files.unseen,
            uploads=self._uploads,
            flusher=lambda: self._transport,
            max_pending_bytes=self._tenure.max_pending_bytes,
            sync_timeout_s=self._options.sync_timeout_s,
            counters=self._counters,
        )

    def _make_evictable(self) -> EvictableLiveFiles:
        # on overlayfs a mapping is of the file below, and a lease on the one above does not tell
        return EvictableLiveFiles(
            self._live,
            self._open_files.inodes,
            self._capturer,
            self._history,
            self._cache.pending,
            self._durable_version,
            leases_tell=filesystem_type(self._cache.live) != OVERLAYFS,
            goes_past=lambda: self._transport is None or self._transport.name == "passthrough",
        )

    def _make_operations(self) -> Operations:
        restorer = LiveRestorer(
            history=self._history,
            live=self._live,
            names=self._names,
            capturer=self._capturer,
            uploads=self._uploads,
            make_aligner=lambda: Aligner(self._cache.live, self._root_fd, self._spare_fd, self._cache.unsaved),
            adopt=self._know_restored,
            pin=self._tenure.pin,
            sync_timeout_s=self._options.sync_timeout_s,
            restored=lambda: self._transport.tree_replaced() if self._transport is not None else None,
        )
        return Operations(
            versions=self._versions,
            texts={
                Control.SAVE: lambda: save_text(self._uploads.newest()),
                Control.STATUS: lambda: status_text(self.status),
                Control.RESTORE: lambda: b"%d\n" % self._capturer.version,
            },
            writable=Writable(
                live=self._live,
                names=self._names,
                open_files=self._open_files,
                marker=self._marker,
                restorer=restorer,
                check_save_allowed=self._saver.check_allowed,
                version=lambda: self._capturer.version,
                state_of=self._uploads.state_of,
                looked_at=self._uploads.looked_at,
            ),
            cache_root_status=lambda: os.fstatvfs(self._root_fd),
        )

    def _durable_version(self) -> int:
        waiting = self._uploads.waiting()
        return waiting[0].version - 1 if waiting else self._capturer.version

    def _became_durable(self) -> None:
        self._versions.changed()
        self._evictor.look_again()

    def _versions_pruned(self) -> None:
        self._versions.changed()
        self._evictor.versions_pruned()

    # what was found

    def _align(self, taken: Taken, state: JournalState | None) -> Alignment:
        return align_live_tree(
            Aligner(self._cache.live, self._root_fd, self._spare_fd, self._cache.unsaved),
            taken,
            state,
            is_kept=partial(is_kept, self._cache, self._history),
            ours=self._tenure.is_ours,
            boot=self._boot,
            root_fd=self._root_fd,
            walk=lambda: {path for path, _, _ in self._live.walk(b"")},
        )

    def _go_on(self, taken: Taken, state: JournalState) -> None:
        """Know again what the process before this one knew of its live tree."""
        restored = self._history.tree(self._history.version(state.restored)) if state.restored is not None else None
        stubs = know_left(self._live, self._capturer, taken, state, restored)
        self._journal.go_on(self._boot, self._hydrator.inodes())
        log.info("goes on version=%d changed=%d not_fetched_files=%d", taken.version, len(state.names), stubs)

    def _know_restored(self, target: Target, result: Alignment) -> None:
        self._journal.stubs(stub.ino for stub in result.stubs)
        know_aligned(self._live, self._capturer, target, result, kept_stubs=set())

    def _take_root_attributes(self) -> None:
        """An empty store's root looks like the directory that it is mounted on."""
        self._live.changes.mark_attributes(b"")
        if self._options.is_lent:
            # it is mounted already: looking at it would be waiting for ourselves
            os.fchmod(self._root_fd, 0o755)
            return
        status = os.stat(self._options.mountpoint)
        os.fchmod(self._root_fd, stat.S_IMODE(status.st_mode))
        if os.geteuid() == 0:
            os.fchown(self._root_fd, status.st_uid, status.st_gid)

    # running

    @property
    def cache(self) -> CacheDirectory:
        """Its cache directory."""
        return self._cache

    @property
    def store_url(self) -> str:
        """The store's address in canonical form."""
        return self._store.url

    def served_by(self, transport: Transport) -> None:
        """Requests will come through this transport."""
        self._transport = transport

    def began(self) -> None:
        """The mount is there: start what runs beside it."""
        self._uploads.start()
        threading.Thread(target=self._evictor.run, name="evictor", daemon=True).start()
        if self._options.prefetch:
            threading.Thread(target=self._prefetch.run, name="prefetch", daemon=True).start()
        threading.Thread(target=self._tick, name="tick", daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            self._marker.end_lingering()
            self._order.save()

    def status(self) -> dict[str, Any]:
        """Return the fields of `.status`."""
        waiting = self._uploads.waiting()
        return {
            "kind": "mount",
            "store": self._store.url,
            "mountpoint": os.fspath(self._options.mountpoint),
            "pid": os.getpid(),
            "keeper": os.getppid(),
            "host": self._tenure.holder.host,
            "cache": os.fspath(self._cache.root),
            "transport": self._transport.name if self._transport is not None else None,
            "lent": self._options.is_lent,
            "read_only": False,
            "epoch": self._tenure.writer.epoch,
            **uploads_object(self._uploads, self._saver.blocked_since),
            "pending_age_s": round(max(0.0, time.time() - waiting[0].captured_s), 1) if waiting else None,
            "lease": self._uploads.lease(),
            "changed_paths": len(self._live.changes.current.paths),
            "not_fetched_files": self._hydrator.missing_files,
            "not_fetched_bytes": self._hydrator.missing_bytes,
            "set_aside_files": self._set_aside,
            "counters": self._counters.as_dict(),
        }

    # ending

    def before_detach(self) -> None:
        """The mount is going away: end touches, and save if asked while mapped pages can still be had."""
        self._saver.end()
        self._marker.end_all()
        if self._options.save_on_exit and self._saver.has_changes():
            try:
                self._marker.put(b"")
            except (CkptfsError, OSError):
                log.exception("could not save on exit")

    def finish(self, stop_draining: threading.Event) -> Ending:
        """The kernel has let go of the mount: drain, and give the store back."""
        self.before_detach()
        reason = self._uploads.drain(self._options.drain_timeout_s, stop_draining)
        for part in (self._prefetch, self._evictor, self._queue):
            part.stop()
        self._order.save()
        self._uploads.stop(_LINGER_S if self._options.keeps_some else 0.0)
        left = take_left(self._cache)
        is_fenced = self._uploads.fenced is not None
        self._tenure.release(is_fenced=is_fenced)
        self._journal.close()
        self._cache.unlock()
        return Ending(left, reason, is_fenced)


def _empty(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
