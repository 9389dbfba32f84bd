"""What the kernel is told without having asked: that files or names are other than it remembers."""

from dataclasses import dataclass

from ckptfs.fs.control import control_of
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import Device
from ckptfs.fs.transport.nodes import Nodes


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

    def tree_replaced(self) -> None:
        """The tree was restored to another version: names may be other inodes, and what the kernel remembers is old."""
        for directory, name, node in self.nodes.all_names():
            path = self.nodes.below(directory, name)
            try:
                same = path is not None and self.operations.attributes(path, wire.KERNEL).ino == node.key
            except OSError:
                same = False
            if not same and (path is None or control_of(path) is None):
                self.nodes.unlinked(directory, name)
            body = wire.INVAL_ENTRY_OUT.pack(directory.id, len(name), 0) + name + b"\0"
            self.device.notify(wire.Notification.INVAL_ENTRY, body)
            self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(node.id, 0, -1))
        self.device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(wire.ROOT_NODE, 0, -1))
