"""What the kernel is told without having asked: that files or names are other than it remembers."""

import stat
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
        names = [
            (self.nodes.below(directory, name) or b"", directory, name) for directory, name, _ in self.nodes.all_names()
        ]
        # sorted, a directory comes before what is in it, whose path goes with it
        for path, directory, name in sorted(names, key=lambda each: each[0]):
            node = self.nodes.named(directory, name)
            if node is None:
                continue
            if not self._stays(node, self.nodes.below(directory, name), before):
                if control_of(path) is None:
                    self._leave(node, directory, name, _look(before, path))
                # of what stays the kernel keeps the name: a program in that directory has to find where it is
                body = wire.INVAL_ENTRY_OUT.pack(directory.id, len(name), 0) + name + b"\0"
                self.device.notify(wire.Notification.INVAL_ENTRY, body)
            self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(node.id, 0, -1))
        self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(wire.ROOT_NODE, 0, -1))

    def _stays(self, node: Node, path: bytes | None, before: Look | None) -> bool:
        """True if a path still leads to what the kernel knows by it."""
        if path is None:
            return False
        now = _look(lambda path: self.operations.attributes(path, wire.KERNEL), path)
        if now is None or now.ino == node.key:
            return now is not None
        was = _look(before, path)
        if was is None or not (stat.S_ISDIR(was.mode) and stat.S_ISDIR(now.mode)) or self.nodes.by_key(now.ino):
            return False
        self.nodes.rekey(node, now.ino)
        return True

    def _leave(self, node: Node, directory: Node, name: bytes, was: Attributes | None) -> None:
        """A name does not lead to a node any more. A directory is empty from now on for whoever has it open."""
        self.nodes.unlinked(directory, name)
        if was is not None and stat.S_ISDIR(was.mode) and not node.names:
            node.gone = was._replace(nlink=0, size_bytes=0)


def _look(look: Look | None, path: bytes) -> Attributes | None:
    """Return a path's attributes, None if they cannot be had."""
    try:
        return look(path) if look is not None else None
    except OSError:
        return None
