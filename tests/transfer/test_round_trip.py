"""Whatever a tree holds, capturing, uploading and restoring it gives the same tree."""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfs.store.file import FileStore
from ckptfs.transfer.restore import IncompleteRestoreError, restore
from ckptfs.transfer.upload import VersionUploader
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import open_history
from tests.transfer.trees import acquire, capture, snapshot

PAGE = 4096


@dataclass(frozen=True)
class Node:
    """One thing to make; `parent` and `link_to` pick one of those made before."""

    kind: str
    name: bytes
    parent: int
    link_to: int
    mode: int
    mtime_ns: int
    pieces: Sequence[tuple[bool, int, int]]
    """Of a file: (is data, length, seed)."""
    xattrs: dict[bytes, bytes]
    owner: tuple[int, int]


names = (
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: raw.replace(b"/", b"-").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b".."))
) | st.sampled_from([b"a", b"a-b", b"a.b", b"\xff\xfe", b"-rf", b" ", b"x\ny", b"n" * 255])
pieces = st.lists(
    st.tuples(st.booleans(), st.sampled_from([1, 100, PAGE, 3 * PAGE, 65 * PAGE, (4 << 20) + 7]), st.integers(0, 3)),
    max_size=4,
)
nodes = st.builds(
    Node,
    kind=st.sampled_from(["file"] * 6 + ["directory"] * 4 + ["link", "link", "symlink", "fifo", "socket", "device"]),
    name=names,
    parent=st.integers(0, 1000),
    link_to=st.integers(0, 1000),
    mode=st.sampled_from([0o644, 0o600, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o7777]),
    mtime_ns=st.integers(-(10**9), 2**32 * 10**9),
    pieces=pieces,
    xattrs=st.dictionaries(
        st.sampled_from([b"user.a", b"user.\xc3\xa9", b"user.b.c"]), st.binary(max_size=50), max_size=2
    ),
    owner=st.sampled_from([(0, 0), (1234, 5678)]),
)


def make(root: bytes, tree: Sequence[Node]) -> None:
    """Make a real tree; a name that is taken is skipped."""
    directories, files, made = [root], [], []
    for node in tree:
        path = os.path.join(directories[node.parent % len(directories)], node.name)
        if os.path.lexists(path):
            continue
        if node.kind == "file":
            write(path, node.pieces)
            files.append(path)
        elif node.kind == "directory":
            os.mkdir(path)
            directories.append(path)
        elif node.kind == "link" and files:
            os.link(files[node.link_to % len(files)], path)
            continue
        elif node.kind == "symlink":
            os.symlink(b"../" + node.name, path)
        elif node.kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        elif node.kind == "device" and os.geteuid() == 0:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            os.mkfifo(path)
        made.append((path, node))
    # the deepest first, so that a directory's time is not changed by what is made in it
    for path, node in reversed(made):
        if os.geteuid() == 0:
            os.chown(path, *node.owner, follow_symlinks=False)
        if node.kind in ("file", "directory"):
            for name, value in node.xattrs.items():
                os.setxattr(path, name, value)
        if node.kind != "symlink":
            os.chmod(path, node.mode)
        os.utime(path, ns=(0, node.mtime_ns), follow_symlinks=False)


def write(path: bytes, pieces: Sequence[tuple[bool, int, int]]) -> None:
    with open(path, "wb") as file:
        for is_data, size, seed in pieces:
            if is_data:
                file.write((b"%d" % seed) * size)
            else:
                file.seek(size, os.SEEK_CUR)
        file.truncate(max(file.tell(), os.fstat(file.fileno()).st_size))


@given(versions=st.lists(st.lists(nodes, min_size=6, max_size=20), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_version_is_restored_as_it_was_captured(versions: list[list[Node]]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        (root / "store").mkdir()
        (root / "pending").mkdir()
        store = FileStore(root / "store")
        writer = acquire(store)
        uploader = VersionUploader(store, writer, writer.history)
        captured: list[dict[bytes, tuple[Any, ...]]] = []
        for number, tree in enumerate(versions, 1):
            source = root / f"source-{number}"
            source.mkdir()
            make(os.fsencode(source), tree)
            captured.append(snapshot(source))
            gone = tuple(sorted(captured[-2].keys() - captured[-1].keys())) if number > 1 else ()
            uploader.upload(capture(source, root / "pending", number, gone=gone))
        history = open_history(store)
        assert verify(history, store, read_data=True) == []
        for number, expected in enumerate(captured, 1):
            target = root / f"target-{number}"
            restore(history, store, history.resolve(number), target)
            assert snapshot(target) == expected
        check_restore_over(root, captured)
    finally:
        shutil.rmtree(root)


def check_restore_over(root: Path, captured: list[dict[bytes, tuple[Any, ...]]]) -> None:
    """The newest version replaces what another one left, and no temporary name stays."""
    store = FileStore(root / "store")
    history = open_history(store)
    oldest, newest = captured[0], captured[-1]
    full = {path.rpartition(b"/")[0] for path in oldest}
    is_in_the_way = any(path in full and not stat.S_ISDIR(row[0]) for path, row in newest.items())
    if is_in_the_way:
        with pytest.raises(IncompleteRestoreError, match="Directory not empty"):
            restore(history, store, history.resolve("latest"), root / "target-1")
    else:
        restore(history, store, history.resolve("latest"), root / "target-1")
        over = snapshot(root / "target-1")
        assert {path: over[path] for path in newest} == newest
    # what is called as temporary files are may be the version's own
    assert not snapshot(root / "target-1").keys() - oldest.keys() - newest.keys()


def test_a_bound_socket_is_restored_as_a_socket(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "pending").mkdir()
    (tmp_path / "source").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "source" / "s"))
        store = FileStore(tmp_path / "store")
        writer = acquire(store)
        VersionUploader(store, writer, writer.history).upload(capture(tmp_path / "source", tmp_path / "pending", 1))
    restore(writer.history, store, writer.history.resolve(1), tmp_path / "target")
    assert stat.S_ISSOCK(os.lstat(tmp_path / "target" / "s").st_mode)
