"""Nodes: the kernel's numbers for inodes, and the paths that they have now.

The kernel names an inode by the node id that a lookup gave it, for as long as it remembers the inode; the operations
want paths. A node knows its names as (directory node, name) pairs, so renaming a directory touches one node, and hard
links are one node with several names.

Pure bookkeeping. Invariants:
    D1  a node id is never used for a second inode while the mount lives
    D2  a node is kept while the kernel counts lookups of it, or another node lies below it
    D3  an inode with a name, or that is open, has one node at most; a node whose inode may be gone is found by no
        inode's number
    D4  every change is in the ledger before the kernel can know of it; replayed, they make the same nodes
Thread-safe.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ckptfs.fs.attributes import Attributes
from ckptfs.fs.transport.ledger import Record
from ckptfs.fs.transport.wire import ROOT_NODE

Key = int | tuple[int, bytes]
"""What makes two names the same inode: the inode number; of a control file its directory and name."""


@dataclass(slots=True, eq=False)
class Node:
    """One inode that the kernel knows."""

    id: int
    key: Key
    lookups: int = 0
    """How often the kernel was told of it and has not forgotten it."""
    names: "tuple[Name, ...]" = ()
    kind: int = 0
    """File type bits of its mode, shifted right by 12, as the kernel was last told; 0 if that was by another server."""
    gone: Attributes | None = None
    """Of a directory that was removed, or a fifo: a program may have it open, or be in it."""


Name = tuple[Node, bytes]
"""A directory, and a name in it."""


class Nodes:
    """All nodes of one mount.

    Args:
        note: Writes a record into the ledger.
    """

    def __init__(self, note: Callable[[Record], None] = lambda record: None) -> None:
        self.note = note
        self.root = Node(ROOT_NODE, 0, lookups=1)
        self._by_id: dict[int, Node] = {ROOT_NODE: self.root}
        self._by_key: dict[Key, Node] = {}
        self._by_name: dict[Name, Node] = {}
        self._next = ROOT_NODE + 1
        self._replays = self._make_replays()
        self.untold: list[tuple[int, bytes]] | None = None
        """Names that went or came since the tree began to be replaced, each with the id of its directory: the kernel
        may know others by them. None when it was told of all.
        """
        self.lock = threading.RLock()
        """Held while nodes change; whoever rewrites the ledger holds it too."""

    def get(self, node_id: int) -> Node:
        """Return a node. Raises KeyError for one that the kernel cannot know."""
        return self._by_id[node_id]

    def path(self, node: Node) -> bytes | None:
        """Return a path that a node has now, b"" for the root, None if it has no name any more."""
        parts: list[bytes] = []
        while node is not self.root:
            if not node.names:
                return None
            node, name = node.names[0]
            parts.append(name)
        return b"/".join(reversed(parts))

    def below(self, directory: Node, name: bytes) -> bytes | None:
        """Return the path of a name in a directory, None if the directory has no name any more."""
        above = self.path(directory)
        if above is None:
            return None
        return above + b"/" + name if above else name

    def found(self, directory: Node, name: bytes, key: Key) -> Node:
        """A lookup, or an operation that answers like one, found an inode under a name; count it."""
        with self.lock:
            self.note(("found", directory.id, name, key))
            node = self._by_key.get(key)
            if node is None:
                node = Node(self._next, key)
                self._next += 1
                self._by_id[node.id] = self._by_key[key] = node
            self._put_name(node, directory, name)
            node.lookups += 1
            return node

    def nameless(self, key: Key) -> Node:
        """An inode was made without a name; count it."""
        with self.lock:
            self.note(("nameless", key))
            node = Node(self._next, key, lookups=1)
            self._next += 1
            self._by_id[node.id] = self._by_key[key] = node
            return node

    def forget(self, node_id: int, lookups: int) -> None:
        """The kernel forgets some lookups of a node."""
        with self.lock:
            node = self._by_id.get(node_id)
            if node is None or node is self.root:
                return
            self.note(("forget", node_id, lookups))
            node.lookups -= lookups
            if node.lookups <= 0:
                del self._by_id[node_id]
                self._drop_key(node)
                for pair in node.names:
                    if self._by_name.get(pair) is node:
                        del self._by_name[pair]

    def closed(self, node_id: int) -> None:
        """The last handle of a node is about to be closed: without a name its inode goes, and its number comes back."""
        with self.lock:
            node = self._by_id.get(node_id)
            if node is not None and not node.names and self._by_key.get(node.key) is node:
                self.note(("closed", node_id))
                self._drop_key(node)

    def by_key(self, key: Key) -> Node | None:
        """Return the node of an inode, None if the kernel does not know it."""
        return self._by_key.get(key)

    def named(self, directory: Node, name: bytes) -> Node | None:
        """Return the node that is known to have a name."""
        return self._by_name.get((directory, name))

    def unlinked(self, directory: Node, name: bytes, has_others: bool = False) -> None:
        """A name has gone.

        Args:
            has_others: Its inode is open and has other names, which need not be known: it is to stay one node.
        """
        with self.lock:
            self._doubt(directory, name)
            if directory.id in self._by_id:
                self.note(("unlinked", directory.id, name, has_others))
            else:
                # the kernel has forgotten the directory, and may know a file that was in it
                node = self._by_name.get((directory, name))
                if node is not None and node.id in self._by_id:
                    self.note(("left", node.id, directory.id, name, has_others))
            self._take_name(directory, name, keep_key=has_others)

    def renamed(
        self, directory: Node, name: bytes, new_directory: Node, new_name: bytes, has_others: bool = False
    ) -> None:
        """A name has become another, replacing what had that.

        Args:
            has_others: As for unlinked, of what is replaced.
        """
        with self.lock:
            self.note(("renamed", directory.id, name, new_directory.id, new_name, has_others))
            # the kernel moves what it knows by the name: while it has not been told of all, that may be another
            self._doubt(new_directory, new_name)
            self._take_name(new_directory, new_name, keep_key=has_others)
            node = self._take_name(directory, name, keep_key=True)
            if node is not None:
                self._put_name(node, new_directory, new_name)

    def rekey(self, node: Node, key: Key) -> None:
        """What the kernel knows as one inode is another from now on; the old one's number may come back."""
        with self.lock:
            if node.id not in self._by_id:
                return
            self.note(("rekey", node.id, key))
            self._drop_key(node)
            node.key = key
            self._by_key[key] = node

    def exchanged(self, directory: Node, name: bytes, other_directory: Node, other_name: bytes) -> None:
        """Two names have changed places."""
        with self.lock:
            self.note(("exchanged", directory.id, name, other_directory.id, other_name))
            self._doubt(directory, name)
            self._doubt(other_directory, other_name)
            first = self._take_name(directory, name, keep_key=True)
            second = self._take_name(other_directory, other_name, keep_key=True)
            if first is not None:
                self._put_name(first, other_directory, other_name)
            if second is not None:
                self._put_name(second, directory, name)

    # another tree

    def ids(self) -> list[int]:
        """Return the ids of all nodes."""
        with self.lock:
            return list(self._by_id)

    def replacing(self) -> None:
        """The tree is about to be replaced, without the kernel's knowing."""
        with self.lock:
            self.note(("replacing",))
            self.untold = self.untold or []

    def untold_after(self, count: int) -> list[tuple[int, bytes]]:
        """Return of which names the kernel is still to be told, having been told of so many."""
        with self.lock:
            return (self.untold or [])[count:]

    def told(self, count: int) -> bool:
        """The kernel has been told of so many names; return False if there are more by now."""
        with self.lock:
            if self.untold_after(count):
                return False
            self.note(("told",))
            self.untold = None
            return True

    def doubt(self, directory: Node, name: bytes) -> None:
        """The kernel is to look a name up again that leads where it led."""
        with self.lock:
            self.note(("untold", directory.id, name))
            self._doubt(directory, name)

    def _doubt(self, directory: Node, name: bytes) -> None:
        self._doubt_again(directory.id, name)

    def _doubt_again(self, directory_id: int, name: bytes) -> None:
        if self.untold is not None:
            self.untold.append((directory_id, name))

    # the ledger

    def records(self) -> list[Record]:
        """Return records that make these nodes."""
        with self.lock:
            nodes = dict(self._by_id)
            waiting = list(nodes.values())
            while waiting:
                # the kernel may have forgotten a directory and know an open file that was in it
                for directory, _ in waiting.pop().names:
                    if directory.id not in nodes:
                        nodes[directory.id] = directory
                        waiting.append(directory)
            rows: list[Record] = [
                ("node", node.id, node.key, node.lookups, self._by_key.get(node.key) is node) for node in nodes.values()
            ]
            for node in nodes.values():
                rows += [("name", directory.id, name, node.id) for directory, name in node.names]
            # last, for replaying makes the directories anew that the kernel has forgotten
            rows += [("gone", node_id) for node_id in nodes.keys() - self._by_id.keys()]
            if self.untold is not None:
                rows += [("replacing",), *(("untold", *name) for name in self.untold)]
            return [*rows, ("next", self._next)]

    def replay(self, record: Record) -> bool:
        """Do again what a record says; return False if it is not about nodes."""
        do_again = self._replays.get(record[0])
        if do_again is None:
            return False
        do_again(*record[1:])
        return True

    def _make_replays(self) -> dict[str, Callable[..., object]]:
        """Return what to do for each kind of record; a table, for there may be hundreds of thousands."""
        node = self._by_id
        return {
            "found": lambda directory, name, key: self.found(node[directory], name, key),
            "nameless": self.nameless,
            "forget": self.forget,
            "closed": self.closed,
            "unlinked": lambda directory, *rest: self.unlinked(node[directory], *rest),
            "left": lambda number, *rest: self._left(node[number], *rest),
            "renamed": lambda old, name, new, *rest: self.renamed(node[old], name, node[new], *rest),
            "exchanged": lambda one, name, other, new_name: self.exchanged(node[one], name, node[other], new_name),
            "rekey": lambda number, key: self.rekey(node[number], key),
            "replacing": self.replacing,
            "untold": self._doubt_again,
            "told": self._told_again,
            "node": self._made_again,
            "name": lambda directory, name, number: self._put_name(node[number], node[directory], name),
            "gone": lambda number: self.forget(number, node[number].lookups),
            "next": self._number_from,
        }

    def _left(self, node: Node, directory_id: int, name: bytes, has_others: bool) -> None:
        for pair in node.names:
            if pair[0].id == directory_id and pair[1] == name:
                self._take_name(*pair, keep_key=has_others)

    def _told_again(self) -> None:
        self.untold = None

    def _number_from(self, number: int) -> None:
        self._next = number

    def _made_again(self, node_id: int, key: Key, lookups: int, has_key: bool) -> None:
        if node_id != ROOT_NODE:
            self._by_id[node_id] = Node(node_id, key, lookups)
            if has_key:
                self._by_key[key] = self._by_id[node_id]

    def all_names(self) -> list[tuple[Node, bytes, Node]]:
        """Return (directory, name, node) of every name that is known."""
        with self.lock:
            by_id = self._by_id
            return [
                (directory, name, node) for (directory, name), node in self._by_name.items() if directory.id in by_id
            ]

    def _put_name(self, node: Node, directory: Node, name: bytes) -> None:
        # one object for both: there are as many as files
        pair = (directory, name)
        before = self._by_name.get(pair)
        if before is node:
            return
        if before is not None:
            self._take_name(directory, name)
        self._by_name[pair] = node
        node.names += (pair,)

    def _take_name(self, directory: Node, name: bytes, *, keep_key: bool = False) -> Node | None:
        node = self._by_name.pop((directory, name), None)
        if node is not None:
            node.names = tuple(pair for pair in node.names if not (pair[0] is directory and pair[1] == name))
            if not node.names and not keep_key:
                # its inode number may come back for another file
                self._drop_key(node)
        return node

    def _drop_key(self, node: Node) -> None:
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]
