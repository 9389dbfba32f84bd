"""The parts of a read-write mount, put together in the order that safety asks for.

Take up what is pending; align the live tree with it, or go on with what a process before this one left of it; then what
shows, fetches, keeps and captures it.
"""

import logging
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Any

from ckptfs.cache.directory import empty_directory
from ckptfs.cache.spares import Spares
from ckptfs.capture.capture import Capturer
from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.gate import Gate
from ckptfs.capture.guards import Guards
from ckptfs.capture.journal import Journal, JournalState, read_journal
from ckptfs.capture.sizes import Sizes
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CacheError
from ckptfs.fs.align import Aligner, Alignment, Target
from ckptfs.fs.control import Control, save_text, status_text
from ckptfs.fs.hydration.contents import ContentCache, doubt_after_restart
from ckptfs.fs.hydration.eviction import Evictor
from ckptfs.fs.hydration.fetching import FetchQueue
from ckptfs.fs.hydration.hydrator import Hydrator
from ckptfs.fs.hydration.prefetch import Prefetch
from ckptfs.fs.hydration.read_order import ReadOrder
from ckptfs.fs.knowing import know_aligned, know_left, know_pending
from ckptfs.fs.live.evictable_files import EvictableLiveFiles
from ckptfs.fs.live.names import LiveNames
from ckptfs.fs.live.open_files import OpenFiles
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.marker import SaveMarker
from ckptfs.fs.operations import Operations
from ckptfs.fs.options import MountOptions
from ckptfs.fs.recovery import Taken, align_live_tree, is_kept, take_up
from ckptfs.fs.replacement import unserved
from ckptfs.fs.restorer import LiveRestorer
from ckptfs.fs.saver import LiveSaver
from ckptfs.fs.tenure import Tenure
from ckptfs.fs.transport.choice import OVERLAYFS, Transport, filesystem_type
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.tree_view import owners_for
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.version_state import VersionState
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.fs.writable import Writable
from ckptfs.transfer.damage import DamageList
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.missing import Missing

log = logging.getLogger(__name__)


class WritingParts:
    """Those of one mount. Nothing of them runs yet.

    Args:
        tenure: The cache directory, locked, and the store, whose one writer this is.
        connection, key: Of the mount.
        status: Returns the fields of `.status`.

    Raises:
        CkptfsError: The local state does not allow it.
    """

    def __init__(
        self,
        options: MountOptions,
        tenure: Tenure,
        connection: Connection | None,
        key: KeySource | None,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._options = options
        self._tenure = tenure
        self._outlives = connection is not None
        self._goes_on = connection is not None and connection.is_mounted
        self._key = key
        self._status = status
        self._boot, self._store, self._cache, self._history = tenure.boot, tenure.store, tenure.cache, tenure.history
        self._put_together(take_up(self._cache, self._history, ours=tenure.is_ours, boot=self._boot))

    def _put_together(self, taken: Taken) -> None:
        cache, options = self._cache, self._options
        if not self._goes_on:
            empty_directory(cache.orphans)
        self._root_fd = os.open(cache.live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._spare_fd = spare_fd = os.open(cache.orphans, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        state = read_journal(cache.journal)
        if self._goes_on and (state is None or state.boot != self._boot):
            raise CacheError(f"{cache.journal} is missing or not whole")
        self.journal = Journal(cache.journal)
        self.spares = Spares(cache.spares)
        self._gate, self._links, self._guards = Gate(), LinkGroups(), Guards()
        self.queue = FetchQueue(
            Fetcher(self._store, workers=1), DamageList(self._store).note, Missing(self._history).explain
        )
        self.live = self._make_live(spare_fd)
        self._names = LiveNames(self.live)
        self.hydrator = self.live.hydrator
        result = Alignment() if self._goes_on else self._align(taken, state)
        self.set_aside = result.set_aside
        self._capturer = self._make_capturer(taken)
        if self._goes_on and state is not None:
            self._go_on(taken, state)
        else:
            kept_stubs = state.stubs if state is not None else set()
            know_aligned(self.live, self._capturer, taken.target, result, kept_stubs=kept_stubs)
            self.journal.rewrite(taken.version, taken.commit_id, self._boot, self.hydrator.inodes())
            if b"" not in taken.target.tree:
                self._take_root_attributes()
        doubt_after_restart(cache.contents, cache.contents_boot, self._boot)
        contents = ContentCache(cache.contents, self.queue)
        self._versions = VersionsDirectory(self._history, contents, owners_for(allow_other=options.allow_other))
        self.order = ReadOrder(cache.read_order)
        self._open_files = OpenFiles(self.live, self._names, keeps_nameless=self._outlives, on_read=self.order.read)
        self.transport: Transport | None = None
        """By which requests come, once there is one."""
        self.uploads = self._make_uploads(taken)
        self.evictor = Evictor(
            cache,
            options.cache_size_bytes,
            contents,
            self.queue,
            self._make_evictable(),
            sweep=self._tenure.kept.drop_deleted,
        )
        self.queue.make_room = self.evictor.make_room
        self.prefetch = Prefetch(self.hydrator, self.queue, self.order.ranks, self.evictor.room_bytes)
        self.hydrator.on_added, self.hydrator.on_wanted = self.prefetch.look_again, self.prefetch.follow
        know_pending(self.live, self.uploads, taken.pending)
        self.saver = self._make_saver()
        self.marker = SaveMarker(self.saver)
        self.operations = self._make_operations()

    def _make_live(self, spare_fd: int) -> LiveTree:
        changes = Changes(self.journal)
        hydrator = Hydrator(self._root_fd, spare_fd, self.queue, self._gate, changes.times, self.journal.hydrated)
        return LiveTree(
            self._root_fd,
            spare_fd,
            spares=self.spares,
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
            spares=self.spares,
            changes=self.live.changes,
            links=self._links,
            guards=self._guards,
            sizes=sizes,
            version=taken.version,
            commit_id=taken.commit_id,
            boot=self._boot,
            mtime_ns=lambda status: self.live.shown(status).mtime_ns,
        )

    def _make_uploads(self, taken: Taken) -> Uploads:
        return Uploads(
            self._cache.root,
            self._guards,
            VersionState.of_record(taken.head) if taken.head is not None else None,
            lambda _: self._became_durable(),
            self.queue.counters,
            self._key,
            on_pruned=self._versions_pruned,
        )

    def _make_saver(self) -> LiveSaver:
        return LiveSaver(
            gate=self._gate,
            capturer=self._capturer,
            unseen=self._open_files.unseen,
            uploads=self.uploads,
            flusher=lambda: self.transport,
            max_pending_bytes=self._tenure.max_pending_bytes,
            sync_timeout_s=self._options.sync_timeout_s,
            counters=self.queue.counters,
        )

    def _make_evictable(self) -> EvictableLiveFiles:
        # on overlayfs a mapping is of the file below, and a lease on the one above does not tell
        return EvictableLiveFiles(
            self.live,
            self._open_files.inodes,
            self._capturer,
            self._history,
            self._cache.pending,
            self._durable_version,
            leases_tell=filesystem_type(self._cache.live) != OVERLAYFS,
            goes_past=lambda: self.transport is None or self.transport.name == "passthrough",
        )

    def _make_operations(self) -> Operations:
        restorer = LiveRestorer(
            history=self._history,
            live=self.live,
            names=self._names,
            capturer=self._capturer,
            uploads=self.uploads,
            make_aligner=lambda: Aligner(self._cache.live, self._root_fd, self._spare_fd, self._cache.unsaved),
            adopt=self._know_restored,
            pin=self._tenure.pin,
            sync_timeout_s=self._options.sync_timeout_s,
            bring_in=self.saver.flush_mapped,
            mark_unseen=self._open_files.unseen.mark,
            replacing=lambda: self.transport.replacing() if self.transport is not None else unserved(),
        )
        return Operations(
            versions=self._versions,
            texts={
                Control.SAVE: lambda: save_text(self.uploads.newest()),
                Control.STATUS: lambda: status_text(self._status),
                Control.RESTORE: lambda: b"%d\n" % self._capturer.version,
            },
            writable=Writable(
                live=self.live,
                names=self._names,
                open_files=self._open_files,
                marker=self.marker,
                restorer=restorer,
                check_save_allowed=self.saver.check_allowed,
                version=lambda: self._capturer.version,
                state_of=self.uploads.state_of,
                looked_at=self.uploads.looked_at,
            ),
            cache_root_status=lambda: os.fstatvfs(self._root_fd),
        )

    def _durable_version(self) -> int:
        waiting = self.uploads.waiting()
        return waiting[0].version - 1 if waiting else self._capturer.version

    def _became_durable(self) -> None:
        self._versions.changed()
        self.evictor.look_again()

    def _versions_pruned(self) -> None:
        self._versions.changed()
        self.evictor.versions_pruned()

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
            walk=lambda: {path for path, _, _ in self.live.walk(b"")},
        )

    def _go_on(self, taken: Taken, state: JournalState) -> None:
        """Know again what the process before this one knew of its live tree."""
        restored = self._history.tree(self._history.version(state.restored)) if state.restored is not None else None
        stubs = know_left(self.live, self._capturer, taken, state, restored)
        self.journal.go_on(self._boot, self.hydrator.inodes())
        self.journal.stubs(self.hydrator.inodes() - state.stubs)
        log.info("goes on version=%d changed=%d not_fetched_files=%d", taken.version, len(state.names), stubs)

    def _know_restored(self, target: Target, result: Alignment) -> None:
        self.journal.stubs(stub.ino for stub in result.stubs)
        know_aligned(self.live, self._capturer, target, result, kept_stubs=set())

    def _take_root_attributes(self) -> None:
        """An empty store's root looks like the directory that it is mounted on."""
        self.live.changes.mark_attributes(b"")
        if self._options.is_lent:
            # it is mounted already: looking at it would be waiting for ourselves
            os.fchmod(self._root_fd, 0o755)
            return
        status = os.stat(self._options.mountpoint)
        os.fchmod(self._root_fd, stat.S_IMODE(status.st_mode))
        if os.geteuid() == 0:
            os.fchown(self._root_fd, status.st_uid, status.st_gid)
