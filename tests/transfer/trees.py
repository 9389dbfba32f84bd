"""Real trees for the tests: making them, capturing them as pending versions, and comparing them."""

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptfs.cache.pending import PendingVersion, close_pending, write_pending
from ckptfs.format.manifest import Entry, Extent, Kind, LocalData, Part
from ckptfs.format.pending import PendingHeader
from ckptfs.store.base import Store
from ckptfs.versions.leasing import Holder
from ckptfs.versions.writer import Writer

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}
HOLDER = Holder(host="here", pid=1, machine="m", lock="/nowhere", lock_id="0:0")


def acquire(store: Store, *, retry_budget_s: float = 0.5) -> Writer:
    return Writer.acquire(store, HOLDER, takeover=True, retry_budget_s=retry_budget_s)


def walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield all relative paths of a tree, sorted bytewise, the root as b""."""
    found = {b"": os.lstat(root)}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            full = os.path.join(directory, name)
            found[os.path.relpath(full, root)] = os.lstat(full)
    yield from sorted(found.items())


def xattrs(full: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = os.listxattr(full, follow_symlinks=False)
    return tuple(sorted((os.fsencode(n), os.getxattr(full, n, follow_symlinks=False)) for n in names))


def entry_of(root: bytes, path: bytes, status: os.stat_result, extents: tuple[Extent, ...] = ()) -> Entry:
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    full = os.path.join(root, path)
    target = os.readlink(full) if kind is Kind.SYMLINK else b""
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size_bytes=status.st_size if kind is Kind.FILE else len(target),
        link_id=status.st_ino if status.st_nlink > 1 and kind is not Kind.DIRECTORY else 0,
        rdev=status.st_rdev if kind in (Kind.CHARACTER, Kind.BLOCK) else 0,
        target=target,
        xattrs=xattrs(full),
        extents=extents,
    )


def capture(
    root: Path, pending_root: Path, version: int, *, gone: tuple[bytes, ...] = (), note: Any = None
) -> PendingVersion:
    """Make all of a real tree a pending version; `gone` are paths of the version before that it has no more."""
    source = os.fsencode(root)
    draft = pending_root / f"draft-{secrets.token_hex(4)}"
    (draft / "data").mkdir(parents=True)
    indexes: dict[int, int] = {}
    entries = []
    for path, status in walk(source):
        extents: tuple[Extent, ...] = ()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            if status.st_ino not in indexes:
                indexes[status.st_ino] = len(indexes)
                os.link(os.path.join(source, path), draft / "data" / str(indexes[status.st_ino]))
            extents = (LocalData(status.st_size, indexes[status.st_ino]),)
        entries.append((path, status, extents))
    # linking raises the link count, so it is taken from the walk before
    part = Part(tuple(entry_of(source, *row) for row in entries), gone)
    return write_part(pending_root, version, part, draft, note=note)


def write_part(
    pending_root: Path, version: int, part: Part, draft: Path | None = None, *, note: Any = None
) -> PendingVersion:
    """Make a part a pending, closed version; its data files are in the draft already."""
    if draft is None:
        draft = pending_root / f"draft-{secrets.token_hex(4)}"
        (draft / "data").mkdir(parents=True)
    files = [entry for entry in part.entries if entry.kind is Kind.FILE]
    header = PendingHeader(
        version=version,
        commit_id=secrets.token_hex(16),
        captured_ns=1,
        note=note,
        files=len(files),
        bytes=sum(entry.size_bytes for entry in files),
        boot="b",
    )
    return close_pending(write_pending(draft, pending_root, 1, header, part))


def directory(path: bytes = b"", mode: int = 0o755) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=mode, uid=os.geteuid(), gid=os.getegid())


def data_ranges(full: bytes, size: int) -> list[tuple[int, int]]:
    ranges = []
    fd = os.open(full, os.O_RDONLY)
    try:
        end = 0
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                # no data from here to the end
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            ranges.append((start, end))
    finally:
        os.close(fd)
    return ranges


def snapshot(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return all that two equal trees have in common: attributes, data, holes, xattrs and which names are one inode."""
    source = os.fsencode(root)
    rows = list(walk(source))
    names: dict[int, list[bytes]] = {}
    for path, status in rows:
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault(status.st_ino, []).append(path)
    found: dict[bytes, tuple[Any, ...]] = {}
    for path, status in rows:
        full = os.path.join(source, path)
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            with open(full, "rb") as file:
                content = (file.read(), data_ranges(full, status.st_size))
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(full)
        fields = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev)
        found[path] = (*fields, content, xattrs(full), tuple(names.get(status.st_ino, ())))
    return found
