"""Following a tree that became another version: which nodes keep their names, and what the kernel is told."""

import errno
import os
import stat
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest

from ckptfs.fs.attributes import Attributes
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.ledger import Record
from ckptfs.fs.transport.nodes import Nodes
from ckptfs.fs.transport.notices import Notices

FILE, DIRECTORY, FIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO


@dataclass
class Tree:
    """What the operations show: paths with inode numbers and kinds."""

    files: dict[bytes, tuple[int, int]]

    def attributes(self, path: bytes, caller: object = None) -> Attributes:
        """What one looks like."""
        try:
            ino, kind = self.files[path]
        except KeyError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        return Attributes(
            ino=ino, mode=kind | 0o644, nlink=1, uid=0, gid=0, size_bytes=1, atime_ns=0, mtime_ns=0, ctime_ns=0
        )


@dataclass
class Kernel:
    """Takes down what it is told."""

    names: list[tuple[int, bytes]] = field(default_factory=list)
    inodes: list[int] = field(default_factory=list)

    def notify(self, code: wire.Notification, body: bytes) -> bool:
        """Be told."""
        if code == wire.Notification.INVAL_ENTRY:
            self.names.append((wire.INVAL_ENTRY_OUT.unpack_from(body)[0], body[wire.INVAL_ENTRY_OUT.size : -1]))
        else:
            self.inodes.append(struct.unpack_from("=Q", body)[0])
        return True


class Scene:
    """Nodes of everything in a tree."""

    def __init__(self, files: dict[bytes, tuple[int, int]]) -> None:
        self.records: list[Record] = []
        self.tree, self.kernel = Tree(files), Kernel()
        self.nodes = Nodes(self.records.append)
        made: Any = Notices(operations=self.tree, nodes=self.nodes, device=self.kernel)  # type: ignore[arg-type]
        self.notices: Notices = made
        self.node = {b"": self.nodes.root}
        for path, (ino, kind) in sorted(files.items()):
            above, _, name = path.rpartition(b"/")
            self.node[path] = self.nodes.found(self.node[above], name, ino)
            self.node[path].kind = kind >> 12

    def becomes(self, files: dict[bytes, tuple[int, int]], paths: set[bytes]) -> None:
        """The tree is another, and nodes follow."""
        before = Tree(self.tree.files)
        self.tree.files = files
        self.nodes.replacing()
        self.notices.follow(paths, before.attributes)

    def paths(self) -> dict[bytes, bytes | None]:
        """What every node was called, and is now."""
        return {path: self.nodes.path(node) for path, node in self.node.items() if path}


def test_a_file_that_got_the_number_of_the_one_before_is_another() -> None:
    scene = Scene({b"a": (10, FILE), b"b": (11, FILE)})
    scene.becomes({b"a": (10, FILE), b"b": (11, FILE)}, {b"a"})
    assert scene.paths() == {b"a": None, b"b": b"b"}
    assert scene.nodes.found(scene.nodes.root, b"a", 10) is not scene.node[b"a"]


def test_a_file_that_got_the_number_of_another_that_went_is_not_taken_for_it() -> None:
    scene = Scene({b"a": (10, FILE), b"b": (11, FILE)})
    scene.becomes({b"b": (10, FILE)}, {b"a", b"b"})
    assert scene.paths() == {b"a": None, b"b": None}
    assert scene.nodes.by_key(10) is None


def test_a_directory_that_is_in_both_stays_and_one_that_went_is_empty_with_all_below() -> None:
    files = {b"stays": (10, DIRECTORY), b"stays/a": (11, FILE), b"goes": (12, DIRECTORY), b"goes/a": (13, FILE)}
    scene = Scene(files)
    scene.becomes({b"stays": (20, DIRECTORY), b"stays/a": (21, FILE)}, set(files))
    assert scene.paths() == {b"stays": b"stays", b"stays/a": None, b"goes": None, b"goes/a": None}
    assert scene.node[b"stays"].key == 20
    assert scene.node[b"goes"].gone is not None
    scene.notices.tell()
    # what is below first, and nothing of what stays
    assert scene.kernel.names == [(scene.node[b"stays"].id, b"a"), (scene.node[b"goes"].id, b"a"), (1, b"goes")]
    assert set(scene.kernel.inodes) >= {node.id for node in scene.node.values()}


def test_a_fifo_that_went_while_it_may_be_open_is_one_without_a_name() -> None:
    scene = Scene({b"fifo": (10, FIFO)})
    scene.becomes({}, {b"fifo"})
    gone = scene.node[b"fifo"].gone
    assert gone is not None
    assert (stat.S_IFMT(gone.mode), gone.nlink) == (FIFO, 0)


def test_what_is_renamed_before_the_kernel_was_told_is_told_of_by_its_new_name() -> None:
    scene = Scene({b"a": (10, FILE)})
    scene.becomes({b"a": (11, FILE)}, {b"a"})
    scene.nodes.renamed(scene.nodes.root, b"a", scene.nodes.root, b"b")
    scene.notices.tell()
    assert scene.kernel.names == [(1, b"a"), (1, b"b")]
    assert scene.nodes.untold is None


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_server_that_takes_over_knows_of_which_names_the_kernel_was_not_told(rewritten: bool) -> None:
    scene = Scene({b"a": (10, FILE), b"b": (11, FILE)})
    scene.becomes({b"a": (20, FILE), b"b": (11, FILE)}, {b"a"})
    again = Nodes()
    assert all(again.replay(record) for record in (scene.nodes.records() if rewritten else scene.records))
    assert again.untold == [(1, b"a")]
    scene.notices.tell()
    again = Nodes()
    assert all(again.replay(record) for record in (scene.nodes.records() if rewritten else scene.records))
    assert again.untold is None


def test_names_of_old_versions_and_control_files_are_not_looked_for_in_the_tree() -> None:
    scene = Scene({b".versions": (10, DIRECTORY), b".versions/1": (11, DIRECTORY), b".save": (12, FILE)})
    scene.tree.files = {}
    scene.nodes.replacing()
    scene.notices.follow(None, None)
    assert scene.paths() == {path: path for path in (b".versions", b".versions/1", b".save")}
