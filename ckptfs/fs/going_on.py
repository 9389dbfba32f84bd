"""Taking over a live tree from a process that was killed: from the journal and the newest captured version to what it
knew of its files.

The journal says which paths may differ, and no more; where that is not enough, a file counts as changed, which costs
reading it at the next save and no bytes in the store.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ckptfs.capture.changes import Origin
from ckptfs.capture.journal import JournalState
from ckptfs.capture.real_paths import RealPaths
from ckptfs.errors import CacheError
from ckptfs.format.manifest import Entry, Kind, Tree
from ckptfs.fs.hydration.hydrator import Stub
from ckptfs.fs.recovery import Taken


@dataclass(slots=True)
class Known:
    """What there is to know of a live tree besides the tree."""

    content: set[int] = field(default_factory=set)
    """Inodes whose bytes may differ from the version."""
    origins: dict[int, Origin] = field(default_factory=dict)
    """Where the bytes of an inode without data are, if not under its path in the version."""
    links: dict[int, list[bytes]] = field(default_factory=dict)
    """Inodes with several names, and the names."""
    link_ids: dict[int, int] = field(default_factory=dict)
    stubs: list[Stub] = field(default_factory=list)


def know_again(taken: Taken, state: JournalState, restored: Tree | None, root_fd: int) -> Known:
    """Return what a journal and the version before it say of the live tree.

    Args:
        restored: The tree that the live one was restored to since.

    Raises:
        CacheError: They do not fit together.
    """
    if state.intended == (taken.version, taken.commit_id):
        state.adopt_intended()
    if (state.version, state.commit_id) != (taken.version, taken.commit_id):
        raise CacheError(f"the live tree is on top of version {state.version}, and the newest is {taken.version}")
    tree, known = taken.target.tree, Known()
    changed = state.content | state.names
    dirty = changed | state.attributes
    names: dict[int, list[bytes]] = {}
    missing, made = set(state.stubs), set(state.stubs)
    for path, status in _files(tree, dirty, bool(state.stubs), root_fd):
        ino = status.st_ino
        names.setdefault(ino, []).append(path)
        entry = tree.get(path)
        if entry is not None and entry.link_id and path not in changed:
            known.link_ids[ino] = entry.link_id
        if path in state.names and ino not in made and _is_made_without_data(status, _entry(restored, path)):
            made.add(ino)
            missing.add(ino)
        if ino in missing:
            missing.discard(ino)
            known.stubs.append(_stub(path, status, tree, state, restored))
            if path in dirty or restored is not None:
                # the version may know it by another of its names
                known.origins[ino] = known.stubs[-1].entry.extents
        elif path in changed and ino not in state.stubs and stat.S_ISREG(status.st_mode):
            known.content.add(ino)
    known.content -= made
    known.links = {ino: paths for ino, paths in names.items() if len(paths) > 1}
    return known


def _files(tree: Tree, dirty: set[bytes], has_stubs: bool, root_fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield every name that is not a directory's and of which there may be something to know."""
    clean = [path for path, entry in tree.items() if (entry.link_id or has_stubs) and path not in dirty]
    real_paths = RealPaths(root_fd)
    for path in [*clean, *sorted(dirty)]:
        try:
            status = real_paths.lstat(path)
        except OSError:
            continue  # a name that has gone: the change set knows that
        if not stat.S_ISDIR(status.st_mode):
            yield path, status


def _is_made_without_data(status: os.stat_result, entry: Entry | None) -> bool:
    """True of a file as a restore makes it: one that was killed before the journal said that it has no data yet.

    It is checked before it is used, as every stub of another process.
    """
    if entry is None or entry.kind is not Kind.FILE or not entry.size_bytes or not stat.S_ISREG(status.st_mode):
        return False
    return not status.st_blocks and (status.st_size, status.st_mtime_ns) == (entry.size_bytes, entry.mtime_ns)


def _stub(path: bytes, status: os.stat_result, tree: Tree, state: JournalState, restored: Tree | None) -> Stub:
    origin = state.moved.get(status.st_ino, path)
    entry = _entry(restored, origin) or _entry(tree, origin)
    if entry is None or entry.size_bytes != status.st_size:
        raise CacheError(f"{os.fsdecode(path)!r} has no data yet, and nothing says where they are")
    mtime_ns = status.st_mtime_ns if path in state.attributes else entry.mtime_ns
    return Stub(status.st_ino, path, entry, mtime_ns, suspect=True)


def _entry(tree: Tree | None, path: bytes) -> Entry | None:
    return tree.get(path) if tree is not None else None
