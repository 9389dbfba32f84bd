"""A tree of real files as values: two can be compared name by name, byte by byte, attribute by attribute."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Node(NamedTuple):
    """One name of a tree."""

    kind: str
    """What ls shows first: - d l p s c b."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    content: bytes
    """A file's bytes, a symlink's target."""
    xattrs: tuple[tuple[str, bytes], ...]
    links: frozenset[bytes]
    """All names of its inode, if it has several."""
    rdev: int


Snapshot = dict[bytes, Node]
"""Path relative to the root (b"" for itself) to what is there."""


def snapshot(root: Path, *, reads: bool = True, skips: Callable[[bytes], bool] = lambda _: False) -> Snapshot:
    """Return what a directory holds.

    Args:
        reads: False leaves files closed: their content is empty in what is returned.
        skips: True of a path that is left out, as it changes meanwhile.
    """
    top = os.fsencode(root)
    paths = [path for path in _walk(top) if not skips(path)]
    statuses = {path: os.lstat(os.path.join(top, path) if path else top) for path in paths}
    names: dict[int, set[bytes]] = {}
    for path, status in statuses.items():
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault(status.st_ino, set()).add(path)
    for path, status in statuses.items():
        if not stat.S_ISDIR(status.st_mode):
            found = len(names[status.st_ino])
            assert found == status.st_nlink, f"{path!r} has {found} names and says {status.st_nlink}"
    return {path: _node(top, path, status, names.get(status.st_ino, set()), reads) for path, status in statuses.items()}


def without_content(tree: Snapshot) -> Snapshot:
    """Return a tree as a snapshot that reads nothing would have it."""
    return {path: node._replace(content=b"") if node.kind == "-" else node for path, node in tree.items()}


def differences(expected: Mapping[bytes, Node], actual: Mapping[bytes, Node]) -> list[str]:
    """Return what differs, a line each, short enough to read."""
    lines = [f"missing {path!r}" for path in sorted(expected.keys() - actual.keys())]
    lines += [f"unexpected {path!r}" for path in sorted(actual.keys() - expected.keys())]
    for path in sorted(expected.keys() & actual.keys()):
        for name, old, new in zip(Node._fields, expected[path], actual[path], strict=True):
            if old != new:
                lines.append(f"{path!r}: {name} should be {_short(old)}, is {_short(new)}")
    return lines


def assert_same(expected: Mapping[bytes, Node], actual: Mapping[bytes, Node], what: str) -> None:
    """Fail, naming what differs."""
    found = differences(expected, actual)
    assert not found, f"{what}:\n" + "\n".join(found[:20])


def holes(path: Path | bytes) -> list[tuple[int, int]]:
    """Return the [start, end) ranges of a file of a local filesystem that hold no data."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size, position, found = os.fstat(fd).st_size, 0, []
        while position < size:
            start = os.lseek(fd, position, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                position = os.lseek(fd, start, os.SEEK_DATA)
            except OSError:
                position = size
            found.append((start, position))
        return found
    finally:
        os.close(fd)


def _walk(top: bytes) -> Iterator[bytes]:
    yield b""
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(os.path.join(top, directory) if directory else top) as entries:
            for entry in entries:
                path = directory + b"/" + entry.name if directory else entry.name
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _node(top: bytes, path: bytes, status: os.stat_result, links: set[bytes], reads: bool) -> Node:
    full = os.path.join(top, path) if path else top
    content, size = b"", 0
    if stat.S_ISREG(status.st_mode):
        size = status.st_size
        if reads:
            with open(full, "rb") as file:
                content = file.read()
            assert len(content) == size, f"{path!r} says {size} bytes and gives {len(content)}"
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(full)
    xattrs = [
        (name, os.getxattr(full, name, follow_symlinks=False)) for name in os.listxattr(full, follow_symlinks=False)
    ]
    return Node(
        kind=stat.filemode(status.st_mode)[0],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size_bytes=size,
        content=content,
        xattrs=tuple(sorted((name, value) for name, value in xattrs if name.startswith("user."))),
        links=frozenset(links) if len(links) > 1 else frozenset(),
        rdev=status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0,
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)})"
