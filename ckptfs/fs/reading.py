"""A read-only mount: shows one version from its manifest, or follows the newest. It takes no lease and writes nothing
to the store.
"""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from ckptfs.cache.directory import CacheDirectory, boot_id, store_directory_name
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError, CorruptObjectError, NoSuchVersionError, PrunedError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Chunk, Entry
from ckptfs.fs.control import Control, save_text, status_text, version_object
from ckptfs.fs.hydration.contents import ContentCache, MissingContents, doubt_after_restart
from ckptfs.fs.hydration.eviction import Evictor
from ckptfs.fs.hydration.fetching import FetchQueue
from ckptfs.fs.hydration.prefetch import Prefetch
from ckptfs.fs.hydration.read_order import ReadOrder
from ckptfs.fs.operations import Operations
from ckptfs.fs.options import MountOptions, access_of
from ckptfs.fs.replacement import unserved
from ckptfs.fs.transport.choice import Transport
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.tree_view import TreeView, owners_for
from ckptfs.fs.version_state import VersionState
from ckptfs.fs.versions_directory import VersionsDirectory
from ckptfs.store.open import open_store
from ckptfs.threads import start_thread
from ckptfs.transfer.fetch import Fetcher
from ckptfs.transfer.missing import Missing
from ckptfs.versions.history import open_history
from ckptfs.versions.kept import through_kept

log = logging.getLogger(__name__)

# one LIST of one key each time: cheap enough to be seconds behind a writer
_FOLLOW_S = 1.0
_SAVE_ORDER_S = 2.0


class ReadingMount:
    """One read-only mount.

    Args:
        connection: If somebody may take over, or this one does: it shows the version that was shown.
        key: Of an encrypted store.

    Raises:
        CkptfsError: There is no such store or version.
    """

    def __init__(
        self, options: MountOptions, connection: Connection | None = None, key: KeySource | None = None
    ) -> None:
        self._options = options
        self._connection = connection
        goes_on = connection is not None and connection.is_mounted
        history = open_history(open_store(options.store), access_of(options, key, goes_on=goes_on))
        self._store = history.store
        self._cache = CacheDirectory(options.cache_dir / store_directory_name(self._store.url))
        self._cache.prepare(trusted=options.trust_cache_dir)
        objects = self._cache.objects / history.store_id
        kept, self._history = through_kept(history, objects, check=not goes_on)
        self._queue = FetchQueue(Fetcher(self._store, workers=1), explain=self._explain)
        self._missing = Missing(self._history)
        self._owners = owners_for(allow_other=options.allow_other)
        self._error: str | None = None
        self._follow_error: str | None = None
        """Why it does not see now whether there is a newer version."""
        doubt_after_restart(self._cache.contents, self._cache.contents_boot, boot_id())
        self._contents = ContentCache(self._cache.contents, self._queue)
        self._contents.on_wanted = self._wanted_by_program
        self._order = ReadOrder(self._cache.read_order)
        # what was shown before, of a version that may have been pruned, is known from there alone
        sweep = kept.drop_deleted if not goes_on else lambda: None
        self._evictor = Evictor(self._cache, options.cache_size_bytes, self._contents, self._queue, sweep=sweep)
        self._queue.make_room = self._evictor.make_room
        self._prefetching: Prefetch | None = None
        self._versions = VersionsDirectory(self._history, self._contents, self._owners)
        self._over = threading.Event()
        self._transport: Transport | None = None
        if connection is not None and goes_on:
            self._record, self._view = self._shown_before(connection.shown_version)
        else:
            self._record = self._wanted()
            self._view = self._make_view(self._record)
        self._say_shown()
        self.operations = Operations(
            versions=self._versions,
            texts={
                Control.SAVE: lambda: save_text(self._state()),
                Control.STATUS: lambda: status_text(self.status),
                Control.RESTORE: lambda: b"%d\n" % self._view.version,
            },
            view=lambda: self._view,
            cache_root_status=lambda: os.statvfs(self._cache.root),
        )

    @property
    def cache(self) -> CacheDirectory:
        """Its cache directory, shared with other mounts of the store."""
        return self._cache

    @property
    def store_url(self) -> str:
        """The store's address in canonical form."""
        return self._store.url

    def served_by(self, transport: Transport) -> None:
        """Requests will come through this transport."""
        self._transport = transport

    def beside(self) -> dict[str, Callable[[], None]]:
        """Return what is to run beside the transport when the mount is there, each in a thread of its own."""
        prefetch = {"prefetch": self._make_prefetch().run} if self._options.prefetch else {}
        follow = {"follow": self._follow} if self._options.moves_on else {}
        return {"evictor": self._evictor.run, "tick": self._tick, **prefetch, **follow}

    def finish(self) -> None:
        """The mount is gone."""
        self._over.set()
        if self._prefetching is not None:
            self._prefetching.stop()
        self._evictor.stop()
        self._queue.stop()
        self._order.save()
        self._store.close()

    def status(self) -> dict[str, Any]:
        """Return the fields of `.status`."""
        state = self._state()
        return {
            "kind": "mount",
            "store": self._store.url,
            "mountpoint": os.fspath(self._options.mountpoint),
            "pid": os.getpid(),
            "keeper": os.getppid(),
            "cache": os.fspath(self._cache.root),
            "transport": self._transport.name if self._transport is not None else None,
            "lent": self._options.is_lent,
            "read_only": True,
            "follow": self._options.moves_on,
            "version": self._view.version,
            "newest": version_object(state) if state is not None else None,
            "pending": [],
            "error": self._error or self._follow_error,
            "counters": self._queue.counters.as_dict(),
        }

    def _wanted(self) -> CommitRecord | None:
        spec = self._options.version
        return self._history.resolve(spec) if spec is not None else self._history.head()

    def _shown_before(self, number: int) -> tuple[CommitRecord | None, TreeView]:
        """Return what the process before this one showed, also when it has been pruned since.

        What has been read of such a version is on local disk. Where its manifest is not, an empty directory is shown:
        the mount is to answer all the same, and to move on if it follows.
        """
        if not number:
            return None, self._make_view(None)
        record = self._history.version(number, even_dropped=True)
        try:
            self._history.version(number)
            return record, self._make_view(record)
        except NoSuchVersionError as error:
            self._say_pruned(record)
            try:
                return record, self._make_view(record)
            except NoSuchVersionError:
                log.warning("knows no names of a pruned version version=%d error=%r", number, error.fact)
                return record, TreeView({}, number, self._contents, is_shown=True, owners=self._owners)

    def _make_view(self, record: CommitRecord | None) -> TreeView:
        # the root of an empty store is an empty directory
        tree, version = (self._history.tree(record), record.version) if record else ({}, 0)
        return TreeView(tree, version, self._contents, on_read=self._order.read, is_shown=True, owners=self._owners)

    def _say_shown(self) -> None:
        """Tell whoever takes over."""
        if self._connection is not None:
            self._connection.shows(self._view.version)

    def _show(self, view: TreeView) -> None:
        """Show another version."""
        with self._transport.replacing() if self._transport is not None else unserved() as follow:
            before, self._view = self._view, view
            self._say_shown()
            follow(before.tree.keys() | view.tree.keys(), before.attributes)

    def _state(self) -> VersionState | None:
        record = self._record
        return VersionState.of_record(record) if record is not None else None

    def _make_prefetch(self) -> Prefetch:
        if self._prefetching is not None:
            self._prefetching.stop()
        files = MissingContents(self._contents, self._view.files())
        prefetching = Prefetch(files, self._queue, self._order.ranks, self._evictor.room_bytes)
        self._prefetching = prefetching
        return prefetching

    def _wanted_by_program(self, entry: Entry) -> None:
        if self._prefetching is not None:
            self._prefetching.follow(entry.path)

    def _explain(self, chunk: Chunk, error: CorruptObjectError) -> CkptfsError:
        """Return why the store does not have a chunk; say so if that is because what is shown was pruned."""
        explained = self._missing.explain(chunk, error)
        if isinstance(explained, PrunedError):
            self._note_pruned(explained)
        return explained

    def _note_pruned(self, error: CkptfsError) -> None:
        record = self._record
        if record is None or self._error is not None:
            return
        try:
            self._history.require(record, error)
        except NoSuchVersionError:
            self._say_pruned(record)

    def _say_pruned(self, record: CommitRecord) -> None:
        self._error = f"version {record.version}, which is shown here, was pruned: what was not read before is gone"
        log.warning("pruned version=%d store=%s; what was not read before is gone", record.version, self._store.url)

    def _tick(self) -> None:
        while not self._over.wait(_SAVE_ORDER_S):
            self._order.save()

    def _follow(self) -> None:
        while not self._over.wait(_FOLLOW_S):
            try:
                record = self._wanted()
                self._follow_error = None
                if record is None or (self._record is not None and record.seq == self._record.seq):
                    continue
                view = self._make_view(record)
            except CkptfsError as error:
                if error.fact != self._follow_error:
                    log.warning("could not follow error=%r", error.fact)
                self._follow_error = error.fact
                continue
            self._show(view)
            self._record, self._error = record, None
            self._versions.changed()
            log.info("followed version=%d", view.version)
            if self._options.prefetch and start_thread(self._make_prefetch().run, "prefetch") is None:
                log.warning("does not fetch version %d ahead: no more threads may be had", view.version)
