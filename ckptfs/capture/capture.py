"""The capture: one moment of the live tree becomes a pending version.

Runs with the gate closed. It walks the change set, never the tree; it links files, and copies only those that may
change although the gate is closed. Cost: one lstat, one listxattr and at most one link(2) for each changed path.

Invariants:
    K1  when capture() returned, `pending/<version>.<generation>.open` is complete and the journal says so
    K2  when it raised, live tree, change set and earlier captures are as before
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.cache.pending import PendingVersion, close_pending, discard_pending, write_pending
from ckptfs.cache.spares import Spares
from ckptfs.capture.changes import Changes, ChangeSet, LinkGroups
from ckptfs.capture.draft import Draft
from ckptfs.capture.guards import Guards, Slot
from ckptfs.capture.sizes import NOT_A_FILE, Sizes
from ckptfs.format.manifest import Kind, Part
from ckptfs.format.note import Note
from ckptfs.format.pending import PendingHeader

Undo = dict[bytes, int | None]


@dataclass(slots=True)
class Captured:
    """One capture that this mount made and that is not known to be durable."""

    pending: PendingVersion
    slot: Slot
    changes: ChangeSet
    undo: Undo
    """What `Capturer.sizes` held before, for the paths that changed."""
    changed_bytes: int
    """Sum of the sizes of the files that had changed."""
    kept_bytes: int
    """Local disk that it keeps, shared with the live tree or not."""
    torn: int
    """Files that may hold a mixture of moments."""
    looks: dict[int, os.stat_result]
    """What the inodes looked like that may have changed since; see Draft.looks."""
    lost: set[bytes]
    """Paths that it has not because what they were in went meanwhile; see Draft.lost."""
    before: tuple[int, str]
    """Number and commit id of the version before it."""


@dataclass(slots=True)
class Capturer:
    """Captures of one live tree.

    Args:
        root_fd: The live tree's root directory.
        pending_root: Where pending versions go.
        spares: Where they are begun.
        changes: The change set, shared with the operations.
        links: The names of inodes with several.
        guards: Told about every inode that a pending version shares.
        sizes: Of the newest captured version.
        version: The newest captured version's number.
        commit_id: Its commit id.
        boot: The machine's boot id.
        mtime_ns: Returns the mtime of a file that looks so.
    """

    root_fd: int
    pending_root: Path
    spares: Spares
    changes: Changes
    links: LinkGroups
    guards: Guards
    sizes: Sizes
    version: int
    commit_id: str
    boot: str
    mtime_ns: Callable[[os.stat_result], int]
    link_ids: dict[int, int] = field(default_factory=dict)
    """Inode to the link id that the versions know it by."""

    def capture(
        self,
        note: Note,
        *,
        torn: Iterable[int] = (),
        unseen: Container[int] = frozenset(),
        mapped: Container[int] = frozenset(),
        names_move: bool = False,
        replace: Captured | None = None,
    ) -> Captured:
        """Make the live tree of this moment a version.

        Args:
            note: What the save marker's text meant.
            torn: Inodes that may hold a mixture of moments; said in their entries.
            unseen: Inodes that may change although the gate is closed; they are copied.
            mapped: Those of them that stores into a mapping may change.
            names_move: There is no gate: names may come and go, too.
            replace: The newest capture, whose touch still goes on: it is taken again, under the same number.

        Raises:
            OSError: No room or no inode left (ENOSPC), or the disk is failing.
        """
        changes = self.changes.current
        if replace is not None:
            changes = changes.after(replace.changes)
            replace.undo = self._swap(replace.undo)
        version = self.version if replace is not None else self.version + 1
        generation = replace.pending.generation + 1 if replace is not None else 1
        draft = Draft(
            self.root_fd,
            self.spares.take_draft(),
            changes,
            self.sizes.by_path,
            self.links,
            self.link_ids,
            unseen,
            mapped,
            set(torn),
            self.changes.times,
            self.mtime_ns,
            names_move,
        )
        try:
            pending, undo = self._write(draft, version, generation, note)
        except BaseException:
            if replace is not None:
                replace.undo = self._swap(replace.undo)
            shutil.rmtree(draft.directory, ignore_errors=True)
            raise
        return self._captured(draft, pending, undo, replace)

    def _captured(self, draft: Draft, pending: PendingVersion, undo: Undo, replace: Captured | None) -> Captured:
        """The draft is the newest version now, in the place of another if it replaces one."""
        before = replace.before if replace is not None else (self.version, self.commit_id)
        self.changes.take()
        self.version, self.commit_id = pending.version, pending.header.commit_id
        slot = Slot(pending.directory)
        if replace is not None:
            self.guards.release(replace.slot)
            discard_pending(replace.pending)
        for ino, index, size_bytes in draft.shared:
            self.guards.add(ino, slot, index, size_bytes)
        return Captured(
            pending,
            slot,
            draft.changes,
            undo,
            draft.changed_bytes,
            draft.kept_bytes,
            len(draft.torn),
            draft.looks,
            draft.lost,
            before,
        )

    def _write(self, draft: Draft, version: int, generation: int, note: Note) -> tuple[PendingVersion, Undo]:
        """Make a draft a pending version, and `sizes` its; return what undoes the latter, too.

        If it raises, `sizes` are as before, and what is left of the draft is the caller's to remove.
        """
        part = draft.describe()
        undo = self._resize(part)
        try:
            header = self._header(version, note)
            self.changes.journal.intend(version, header.commit_id)
            pending = write_pending(draft.directory, self.pending_root, generation, header, part)
            self._say_captured(pending)
        except BaseException:
            self._swap(undo)
            raise
        return pending, undo

    def _say_captured(self, pending: PendingVersion) -> None:
        try:
            self.changes.journal.captured(pending.version, pending.header.commit_id)
        except BaseException:
            discard_pending(pending)
            raise

    def withdraw(self, captured: Captured) -> None:
        """Undo the newest capture, whose touch goes on: it never was. Called with the gate closed.

        Raises:
            OSError: No room in the journal; nothing has changed.
        """
        self.changes.put_back(captured.changes, *captured.before)
        self._swap(captured.undo)
        self.version, self.commit_id = captured.before
        self.guards.release(captured.slot)
        discard_pending(captured.pending)

    def close(self, captured: Captured) -> None:
        """The touch has ended: hand the version to the upload process."""
        with captured.slot.lock:
            captured.pending = close_pending(captured.pending)
            captured.slot.directory = captured.pending.directory
        self.spares.refill()

    def _header(self, version: int, note: Note) -> PendingHeader:
        return PendingHeader(
            version=version,
            commit_id=secrets.token_hex(16),
            captured_ns=time.time_ns(),
            note=note,
            files=self.sizes.files,
            bytes=self.sizes.total_bytes,
            boot=self.boot,
        )

    def _resize(self, part: Part) -> Undo:
        """Bring `sizes` to the part's version; return what undoes it."""
        undo: Undo = {}
        for path in part.tombstones:
            undo[path] = self.sizes.replace(path, None)
        for entry in part.entries:
            size = entry.size_bytes if entry.kind is Kind.FILE else NOT_A_FILE
            undo[entry.path] = self.sizes.replace(entry.path, size)
        return undo

    def _swap(self, undo: Undo) -> Undo:
        """Undo a change of `sizes`; return what does it again."""
        return {path: self.sizes.replace(path, size) for path, size in undo.items()}
