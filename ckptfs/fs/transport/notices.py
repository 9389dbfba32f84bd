"""What the kernel is told without having asked: that files or names are other than it remembers."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from ckptfs.fs.attributes import Attributes, Look
from ckptfs.fs.control import control_of
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import Device
from ckptfs.fs.transport.nodes import Node, Nodes


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

    def tree_replaced(self, before: Look | None = None) -> None:
        """The tree has become another version: names may be other inodes, and what the kernel remembers is old.

        Args:
            before: Looks into the version that was shown, where no inode is in two of them. A directory that is in both
                stays what it is for programs that have it open or are in it.
        """
        names = [(self.nodes.below(above, name), above, name, node) for above, name, node in self.nodes.all_names()]
        going = self._going([(path, node) for path, _, _, node in names if path is not None], before)
        # what is deepest first: the kernel forgets what is in a directory together with that
        for path, directory, name, node in sorted(names, key=lambda each: each[0] or b"", reverse=True):
            if path is None or path in going:
                if path is None or control_of(path) is None:
                    self._leave(node, directory, name, _look(before, path))
                # of what stays the kernel keeps the name: a program in that directory has to find where it is
                body = wire.INVAL_ENTRY_OUT.pack(directory.id, len(name), 0) + name + b"\0"
                self.device.notify(wire.Notification.INVAL_ENTRY, body)
            self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(node.id, 0, -1))
        self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(wire.ROOT_NODE, 0, -1))

    def _going(self, names: Iterable[tuple[bytes, Node]], before: Look | None) -> set[bytes]:
        """Return the paths that do not lead any more to what the kernel knows by them, with all that is below them."""
        going: set[bytes] = set()
        for path, node in sorted(names, key=lambda each: each[0]):
            if path.rpartition(b"/")[0] in going or not self._stays(node, path, before):
                going.add(path)
        return going

    def _stays(self, node: Node, path: bytes, before: Look | None) -> bool:
        """True if a path leads to what the kernel knows by it; a directory is made to."""
        now = _look(lambda path: self.operations.attributes(path, wire.KERNEL), path)
        if now is None or node.kind not in (0, stat.S_IFMT(now.mode) >> 12):
            return False  # also if the number has come back: for the kernel, an inode that changes its kind is damage
        if now.ino == node.key:
            return True
        was = _look(before, path)
        if was is None or not (stat.S_ISDIR(was.mode) and stat.S_ISDIR(now.mode)) or self.nodes.by_key(now.ino):
            return False
        self.nodes.rekey(node, now.ino)
        return True

    def _leave(self, node: Node, directory: Node, name: bytes, was: Attributes | None) -> None:
        """A name does not lead to a node any more. A directory is empty from now on for whoever has it open."""
        if self.nodes.named(directory, name) is not node:
            return  # it has been looked up meanwhile
        self.nodes.unlinked(directory, name)
        if was is not None and stat.S_ISDIR(was.mode) and not node.names:
            node.gone = was._replace(nlink=0, size_bytes=0)


def _look(look: Look | None, path: bytes | None) -> Attributes | None:
    """Return a path's attributes, None if they cannot be had."""
    try:
        return look(path) if look is not None and path is not None else None
    except OSError:
        return None
