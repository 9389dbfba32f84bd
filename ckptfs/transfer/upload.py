"""Uploading one pending version: its data become packs, its manifest parts, and a commit record makes it a version.

Rules:
    U1  nothing is committed before every object that it names is in the store (FORMAT.md C4)
    U2  a pending version is committed at most once, however often its upload starts over: by its commit id
    U3  chunks are taken over, or encoded against, from the version before and from nowhere else: no other is sure to
        stay. Those that the pending version names itself (a restore brought them back) are checked by the commit
    U4  chunks that are known to be damaged in the store are neither taken over nor encoded against where their bytes
        are at hand: they are stored again; and so is the manifest, where parts of it are
    U5  what is committed is a tree: it can be read back
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ckptfs.cache.anchors import AnchorCache, anchor_of
from ckptfs.cache.pending import PendingVersion
from ckptfs.errors import (
    CkptfsError,
    CondemnedError,
    CorruptObjectError,
    DivergedError,
    RollbackError,
    UnsupportedFormatError,
)
from ckptfs.format.commit import CommitRecord
from ckptfs.format.keys import new_segment_key
from ckptfs.format.manifest import Chunk, Entry, Extent, Kind, LocalData, ParentFile, Part, Tree, merge
from ckptfs.format.rules import check_tree
from ckptfs.store.base import Store
from ckptfs.store.caching import CachingStore
from ckptfs.transfer.bases import Predecessors
from ckptfs.transfer.content_writer import CHUNK_BYTES, ContentWriter, Progress, Source, Stored
from ckptfs.transfer.damage import DamageList, Marks, is_damaged, part_mark
from ckptfs.transfer.data_file import PendingDataError, read_head
from ckptfs.transfer.effort import EffortControl
from ckptfs.transfer.encoding import EncoderPool
from ckptfs.transfer.heal import Find, heal
from ckptfs.transfer.pack_writer import PackWriter
from ckptfs.versions.history import History
from ckptfs.versions.parts import plan_parts
from ckptfs.versions.references import content_chunks, needed_chunks, needed_packs
from ckptfs.versions.retry import Retry
from ckptfs.versions.tree import holders
from ckptfs.versions.writer import SaveDraft, Writer

log = logging.getLogger(__name__)

# 2 s: rides out one refused connection; longer waits belong to the caller, who can say that it waits
_BRIEF_RETRY = Retry(budget_s=2.0, most_s=0.5)


class VersionUploader:
    """Uploads pending versions, one after another in the order of their numbers. Used by one thread.

    Args:
        store: Where to.
        writer: Commits.
        history: Of the same store.
        anchors: What chunks can be encoded against; None: each stands alone.
        encoders: For chunks of content_writer.CHUNK_BYTES; None: two threads of this process.
        effort: Says how hard to encode.
        damage: The store's list of damaged chunks; None: it is not looked at.
        find: Looks on local disk for the bytes of those that a version would take over.
        kept: The same store with what local disk keeps of it in front: it may have a manifest that is damaged there.
        puts: Packs on their way at once.
        on_progress: Told about the data of the version at hand: first (0, total), then as they get into the store.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        history: History,
        *,
        anchors: AnchorCache | None = None,
        encoders: EncoderPool | None = None,
        effort: EffortControl | None = None,
        damage: DamageList | None = None,
        find: Find | None = None,
        kept: CachingStore | None = None,
        puts: int = 4,
        on_progress: Progress = lambda done, total: None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._history = history
        self._anchors = anchors
        self._encoders = encoders or EncoderPool(chunk_bytes=CHUNK_BYTES)
        self._effort = effort or EffortControl()
        self._damage = damage
        self._find = find
        self._kept = kept
        self._puts = puts
        self._on_progress = on_progress
        self._base: tuple[CommitRecord | None, Tree] | None = None
        """The newest version and its tree, once they are known."""
        self._is_base_damaged = False
        """Its manifest cannot be read in the store."""
        self._attempt = _Attempt("")

    def upload(self, pending: PendingVersion) -> CommitRecord:
        """Make a pending version part of history; return its record. It may be started over after any error.

        Raises:
            PendingDataError: Its local data are damaged or do not fit the version before; no attempt will succeed.
            DivergedError: The version before it is not in history, or not the newest; no attempt will succeed.
            FencedError: Another writer has taken over.
            RollbackError: The store was put back to an older state; when that is undone it can be started over.
            StoreError: The store failed; StoreUnavailableError: try again.
            OSError: Local data cannot be read now.
        """
        try:
            return self._upload(pending)
        except CondemnedError as error:
            # what was put for it is about to be deleted; put again, under new keys, it cannot be condemned
            self._base = None
            was_fresh, self._attempt = self._attempt.is_fresh, _Attempt("")
            if was_fresh:
                raise PendingDataError(
                    f"version {pending.version} refers to content that was pruned: {error.fact}"
                ) from error
            self._attempt = _Attempt(pending.header.commit_id, is_fresh=True)
            raise
        except RollbackError:
            # what was put for it went to a state of the store that may be undone as well
            self._base, self._attempt = None, _Attempt("")
            raise
        except CkptfsError:
            # ask the store before anything is read again: it may be gone, and the commit may have happened
            self._base = None
            raise

    @property
    def new_bytes(self) -> int:
        """Content that the version uploaded last added to the store, before it was compressed."""
        return sum(chunk.size_bytes for chunk in self._attempt.stored.chunks.values())

    def _upload(self, pending: PendingVersion) -> CommitRecord:
        head, before = self._find_base()
        header = pending.header
        if head is not None and head.commit_id == header.commit_id:
            return head
        newest = head.version if head is not None else 0
        if newest != header.version - 1:
            # said before its data are put, which may take hours; the commit checks it again
            raise DivergedError(
                f"version {header.version} cannot follow version {newest}, the newest of {self._store.url}"
            )
        if self._attempt.commit_id != header.commit_id:
            self._attempt = _Attempt(header.commit_id)
        marks = self._damage.recent() if self._damage is not None else ()
        if self._attempt.change is None:
            # what was captured is not kept: its entries take as much memory as those that come of them
            self._attempt.change = self._resolve(pending, _read_part(pending), before, marks)
        change = self._attempt.change
        tree = _apply(change, before)
        if marks and self._find is not None and (healed := self._heal(tree, marks, self._find)):
            change = _with_entries(change, healed)
            tree = _apply(change, before)
        put = {chunk.pack for chunk in self._attempt.stored.chunks.values()}
        # on top of a manifest that is damaged nobody could read the new one
        kept = head if head is not None and not self._is_manifest_damaged(head, marks) else None
        draft = self._draft(pending, kept, change, tree, _new_packs(change, before) - put)
        record = self._writer.commit_save(draft)
        if self._anchors is not None:
            self._anchors.advance(_anchor_packs(tree), self._attempt.stored.base_packs())
        # an earlier attempt may have won after all, with other objects
        self._base = (record, tree) if record.parts == draft.parts else None
        self._is_base_damaged = False
        return record

    def _find_base(self) -> tuple[CommitRecord | None, Tree]:
        if self._base is None:
            head = self._history.head()
            self._base = (head, self._read_tree(head) if head is not None else {})
        return self._base

    def _read_tree(self, head: CommitRecord) -> Tree:
        """Return the tree of the newest version, from local disk where the store's is damaged."""
        self._is_base_damaged = False
        try:
            return self._history.tree(head)
        except CorruptObjectError as error:
            if (kept := self._kept) is None:
                raise
            tree = self._history.through(lambda _: kept).tree(head)
            log.warning("took the manifest from local disk version=%d error=%r", head.version, error.fact)
            self._is_base_damaged = True
            return tree

    def _is_manifest_damaged(self, head: CommitRecord, marks: Marks) -> bool:
        return self._is_base_damaged or any(part_mark(holder) in marks for holder in holders(head))

    def _heal(self, tree: Tree, marks: Marks, find: Find) -> list[Entry]:
        """Store damaged chunks again that the version before has; return the entries that change by it."""
        stored = self._attempt.stored

        def note_stored(pack: str, chunks: list[Chunk], body: bytes) -> None:
            stored.add(chunks, body)
            if self._anchors is not None:
                self._anchors.keep(pack, body, chunks)

        packs = PackWriter(self._store, self._writer.epoch, puts=1, retry=_BRIEF_RETRY, on_stored=note_stored)
        return heal(tree.values(), marks, find, stored, packs)

    def _resolve(self, pending: PendingVersion, part: Part, before: Tree, marks: Marks) -> Part:
        """Return the part with chunks in place of local extents, all of them stored."""
        local: dict[LocalData, Entry] = {}
        for entry in part.entries:
            for extent in entry.extents:
                if isinstance(extent, LocalData):
                    local.setdefault(extent, entry)
        contents = self._store_contents(pending, local, before, marks)
        return Part(tuple(_resolve_entry(entry, contents, before) for entry in part.entries), part.tombstones)

    def _store_contents(
        self, pending: PendingVersion, files: Mapping[LocalData, Entry], before: Tree, marks: Marks
    ) -> "_Contents":
        """Store data files, each for the first of its entries."""
        if not files:
            self._on_progress(0, 0)
            return {}
        content_writer = ContentWriter(
            self._store,
            self._writer.epoch,
            {chunk.hash: chunk for chunk in needed_chunks(before.values()) if not is_damaged(chunk, marks)},
            self._attempt.stored,
            self._anchors,
            encoders=self._encoders,
            effort=self._effort,
            puts=self._puts,
            retry=_BRIEF_RETRY,
            on_progress=self._on_progress,
        )
        predecessors = Predecessors(before)
        extents = content_writer.write(
            (
                Source(
                    path := pending.data_path(file.index),
                    file.size_bytes,
                    predecessors.of(entry.path, file.size_bytes, partial(read_head, path)),
                )
                for file, entry in files.items()
            ),
            sum(file.size_bytes for file in files),
        )
        return dict(zip(files, extents, strict=True))

    def _draft(
        self, pending: PendingVersion, head: CommitRecord | None, change: Part, tree: Tree, revived: frozenset[str]
    ) -> SaveDraft:
        """Put the manifest where it is too large to be inlined, and describe the commit."""
        segment_bytes = 0

        def put_segment(body: bytes) -> str:
            nonlocal segment_bytes
            key = new_segment_key(self._writer.epoch)
            _BRIEF_RETRY.call(lambda: (self._kept or self._store).put(key, body))
            segment_bytes += len(body)
            return key

        parts, inline = plan_parts(head, change, lambda: tree, put_segment)
        header, stored = pending.header, self._attempt.stored
        return SaveDraft(
            version=header.version,
            commit_id=header.commit_id,
            captured_ns=header.captured_ns,
            note=header.note,
            files=header.files,
            bytes=header.bytes,
            bytes_added=stored.size_bytes + segment_bytes,
            torn=sum(entry.torn for entry in tree.values()),
            parts=tuple(parts),
            inline=inline,
            revived=revived,
        )


@dataclass(slots=True)
class _Attempt:
    """What has been done for the version at hand; kept when an attempt fails, so that the next goes on from there."""

    commit_id: str
    stored: Stored = field(default_factory=Stored)
    change: Part | None = None
    """Set once all of its content is stored."""
    is_fresh: bool = False
    """Begun after objects of an earlier one were condemned."""


_Contents = dict[LocalData, tuple[Extent, ...]]


def _read_part(pending: PendingVersion) -> Part:
    try:
        return pending.part()
    except (FileNotFoundError, CorruptObjectError, UnsupportedFormatError) as error:
        raise PendingDataError(f"the manifest of pending version {pending.version} cannot be read: {error}") from error


def _new_packs(change: Part, before: Tree) -> frozenset[str]:
    named = needed_packs(change.entries)
    return frozenset(named - needed_packs(before.values()) if named else named)


def _anchor_packs(tree: Tree) -> set[str]:
    anchors = map(anchor_of, content_chunks(tree.values()))
    return {anchor.pack for anchor in anchors if anchor is not None}


def _with_entries(change: Part, entries: Iterable[Entry]) -> Part:
    by_path = {entry.path: entry for entry in (*change.entries, *entries)}
    return Part(tuple(entry for _, entry in sorted(by_path.items())), change.tombstones)


def _resolve_entry(entry: Entry, contents: Mapping[LocalData, tuple[Extent, ...]], before: Tree) -> Entry:
    if len(entry.extents) == 1 and isinstance(entry.extents[0], LocalData):
        return replace(entry, extents=contents[entry.extents[0]])
    extents: list[Extent] = []
    for extent in entry.extents:
        if isinstance(extent, LocalData):
            extents.extend(contents[extent])
        elif isinstance(extent, ParentFile):
            parent = before.get(extent.path)
            if parent is None or parent.kind is not Kind.FILE or parent.size_bytes != extent.size_bytes:
                raise PendingDataError(
                    f"{entry.path!r} refers to {extent.size_bytes} bytes of {extent.path!r} in the version before, "
                    f"which has {'no such file' if parent is None else f'{parent.size_bytes} bytes'}"
                )
            extents.extend(parent.extents)
        else:
            extents.append(extent)
    return replace(entry, extents=tuple(extents))


def _apply(change: Part, before: Tree) -> Tree:
    tree = merge([Part(tuple(before.values())), change])
    try:
        check_tree(tree)
    except CorruptObjectError as error:
        raise PendingDataError(f"the changes do not fit the version before: {error.fact}") from error
    return tree
