"""What the kernel is told without having asked: that files or names are other than it remembers."""

import stat
from collections.abc import Container, Iterable
from dataclasses import dataclass

from ckptfs.fs.attributes import Attributes, Look
from ckptfs.fs.control import below_versions, control_of
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import Device
from ckptfs.fs.transport.nodes import Node, Nodes

# programs may have them open, or be in them, without our having a handle; a symlink is not opened
_HAVE_NO_HANDLE = {stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}


@dataclass(slots=True, kw_only=True)
class Notices:
    """Tells it. Not from a thread whose answers are needed for that: the kernel may have pages to write first."""

    operations: Operations
    nodes: Nodes
    device: Device

    def flush_mapped(self, ino: int) -> None:
        """Have the kernel write back what programs changed in mappings of a mediated file; returns when it is done."""
        node = self.nodes.by_key(ino)
        if node is not None:
            body = wire.INVAL_INODE_OUT.pack(node.id, 0, 0)
            self.device.notify(wire.Notification.INVAL_INODE, body)

    # the tree is another version

    def follow(self, paths: Container[bytes] | None, before: Look | None) -> None:
        """Have no node a name any more that leads to another inode. Called while nobody uses a name.

        Args:
            paths: That lead to other inodes, or to none, but for directories that are in both versions: these stay what
                they are for programs that have them open or are in them. None if it is not known which do; then
                directories stay only if they are the same.
            before: Looks into the version that was shown, at what went of it.
        """
        names = [(self.nodes.below(above, name), above, name, node) for above, name, node in self.nodes.all_names()]
        going = self._going([(path, node) for path, _, _, node in names if path is not None], paths, before)
        # what is deepest first: the kernel forgets what is in a directory together with that
        for path, directory, name, node in sorted(names, key=lambda each: each[0] or b"", reverse=True):
            # of what stays the kernel keeps the name: a program in that directory has to find where it is
            if path is None or (path in going and control_of(path) is None):
                self._leave(node, directory, name, _look(before, path))
            elif path in going:
                self.nodes.doubt(directory, name)

    def tell(self) -> None:
        """Have the kernel forget what it knows by names that lead to something else, and all attributes.

        Not while names are closed: the kernel waits for requests about names that are under way.
        """
        told, is_first = 0, True
        while is_first or not self.nodes.told(told):
            for directory_id, name in self.nodes.untold_after(told):
                body = wire.INVAL_ENTRY_OUT.pack(directory_id, len(name), 0) + name + b"\0"
                self.device.notify(wire.Notification.INVAL_ENTRY, body)
                told += 1
            if is_first:
                for node_id in self.nodes.ids():
                    body = wire.INVAL_INODE_OUT.pack(node_id, 0, -1)
                    self.device.notify(wire.Notification.INVAL_INODE, body)
            is_first = False

    def _going(
        self, names: Iterable[tuple[bytes, Node]], paths: Container[bytes] | None, before: Look | None
    ) -> set[bytes]:
        """Return the paths that do not lead any more to what the kernel knows by them, with all that is below them."""
        going: set[bytes] = set()
        for path, node in sorted(names, key=lambda each: each[0]):
            if path.rpartition(b"/")[0] in going:
                going.add(path)
            elif below_versions(path) is not None or control_of(path) is not None:
                continue  # no part of the tree
            elif (paths is None or path in paths) and not self._stays(node, path, before, is_known=paths is not None):
                going.add(path)
        return going

    def _stays(self, node: Node, path: bytes, before: Look | None, *, is_known: bool) -> bool:
        """True if a path leads to what the kernel knows by it; a directory is made to.

        Args:
            is_known: That what is no directory is another file, even if the number of one that went has come back.
        """
        now = _look(lambda path: self.operations.attributes(path, wire.KERNEL), path)
        if now is None or node.kind not in (0, stat.S_IFMT(now.mode) >> 12):
            return False  # also if the number has come back: for the kernel, an inode that changes its kind is damage
        if not stat.S_ISDIR(now.mode):
            return now.ino == node.key and not is_known
        if now.ino == node.key:
            return True
        was = _look(before, path)
        if was is None or not stat.S_ISDIR(was.mode) or self.nodes.by_key(now.ino):
            return False
        self.nodes.rekey(node, now.ino)
        return True

    def _leave(self, node: Node, directory: Node, name: bytes, was: Attributes | None) -> None:
        """A name does not lead to a node any more. A directory is empty from now on for whoever has it open."""
        self.nodes.unlinked(directory, name)
        if was is not None and stat.S_IFMT(was.mode) in _HAVE_NO_HANDLE and not node.names:
            nlink = 0 if stat.S_ISDIR(was.mode) else was.nlink - 1
            node.gone = was._replace(nlink=nlink, size_bytes=0)


def _look(look: Look | None, path: bytes | None) -> Attributes | None:
    """Return a path's attributes, None if they cannot be had."""
    try:
        return look(path) if look is not None and path is not None else None
    except OSError:
        return None
