"""Paths of nodes: what the operations call what the kernel knows by number, and how the kernel is told of a name."""

import errno
import stat

from ckptfs.capture.gate import Gate
from ckptfs.errors import os_error
from ckptfs.fs.attributes import Attributes
from ckptfs.fs.control import below_versions, control_of
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.nodes import Key, Node, Nodes
from ckptfs.fs.transport.wire import Reply, Request

MAY_HAVE_MOVED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
"""What a path gives that is not a node's any more."""
# Only we change the tree, so what the kernel knows stays true; an hour rather than for ever, to be forgiving
_LONG_S = 3600
# 10 ms: open(2) of a control file looks it up and then asks for its attributes, which it has just been told
_MOMENT_NS = 10_000_000


class Paths:
    """The paths of one mount. Thread-safe."""

    def __init__(self, operations: Operations, nodes: Nodes) -> None:
        self._operations = operations
        self._nodes = nodes
        self.names = Gate()
        """Entered while a path is in use; closed while names go or change, for the nodes follow after the operation."""

    def path(self, node_id: int) -> bytes:
        """Return a node's path. Raises OSError (ESTALE) if it has none any more."""
        path = self._nodes.path(self._nodes.get(node_id))
        if path is None:
            raise os_error(errno.ESTALE)
        return path

    def below(self, directory: Node, name: bytes) -> bytes:
        """Return the path of a name in a directory. Raises OSError (ENOENT) if the directory has none any more."""
        path = self._nodes.below(directory, name)
        if path is None:
            raise os_error(errno.ENOENT)
        return path

    def is_of_versions(self, node_id: int) -> bool:
        """True if a node is `.versions` or below it."""
        path = self._nodes.path(self._nodes.get(node_id))
        return path is not None and below_versions(path) is not None

    def now(self, node: Node) -> tuple[bytes | None, int]:
        """Return a node's path, and the era in which it is: for what may wait, while names change."""
        with self.names:
            return self._nodes.path(node), self._operations.era

    def has_moved(self, node: Node, path: bytes, era: int) -> bool:
        """True if a path of an era is not a node's any more, or the error that it gave was that of another era."""
        with self.names:
            return self._nodes.path(node) != path or self._operations.era != era

    def look_up(self, request: Request, directory: Node, name: bytes) -> Reply:
        """Answer with what a name in a directory leads to."""
        path = self.below(directory, name)
        return (self.entry(directory, name, path, self._operations.attributes(path, request.caller)),)

    def entry(self, directory: Node, name: bytes, path: bytes, attributes: Attributes) -> bytes:
        """Return ENTRY_OUT of a name that was found; its node counts that the kernel is told."""
        key: Key = attributes.ino if control_of(path) is None or b".versions" in path else (directory.id, name)
        node = self._nodes.found(directory, name, key)
        node.kind = stat.S_IFMT(attributes.mode) >> 12
        remembered_s = valid_s(path)
        head = wire.ENTRY_OUT.pack(node.id, 0, remembered_s, remembered_s, 0, 0 if remembered_s else _MOMENT_NS)
        return head + wire.encode_attributes(node.id, attributes)


def valid_s(path: bytes) -> int:
    """Return how long the kernel may remember a path and its attributes."""
    below = below_versions(path)
    if below is not None:
        # what a version holds never changes; which versions and tags there are does
        return _LONG_S if b"/" in below else 0
    return 0 if control_of(path) is not None else _LONG_S
