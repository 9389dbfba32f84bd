"""Nodes: what path the kernel's node ids mean after names come, go and change."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ckptfs.fs.transport.ledger import Record
from ckptfs.fs.transport.nodes import Node, Nodes


def test_a_renamed_directory_takes_all_paths_below_with_it() -> None:
    nodes = Nodes()
    directory = nodes.found(nodes.root, b"a", 10)
    file = nodes.found(directory, b"f", 11)
    nodes.renamed(nodes.root, b"a", nodes.root, b"b")
    assert nodes.path(file) == b"b/f"
    assert nodes.path(directory) == b"b"


def test_two_names_of_one_inode_are_one_node() -> None:
    nodes = Nodes()
    first = nodes.found(nodes.root, b"a", 10)
    assert nodes.found(nodes.root, b"b", 10) is first
    nodes.unlinked(nodes.root, b"a")
    assert nodes.path(first) == b"b"


def test_an_unlinked_node_has_no_path_and_its_inode_number_is_free() -> None:
    nodes = Nodes()
    old = nodes.found(nodes.root, b"a", 10)
    nodes.unlinked(nodes.root, b"a")
    assert nodes.path(old) is None
    new = nodes.found(nodes.root, b"a", 10)
    assert new is not old
    assert new.id != old.id


def test_an_open_inode_that_has_names_which_nobody_looked_up_stays_one_node_until_it_is_closed() -> None:
    records: list[Record] = []
    nodes = Nodes(records.append)
    open_one, replaced = nodes.found(nodes.root, b"a", 10), nodes.found(nodes.root, b"b", 11)
    nodes.found(nodes.root, b"c", 12)
    nodes.unlinked(nodes.root, b"a", True)
    nodes.renamed(nodes.root, b"c", nodes.root, b"b", True)
    again = Nodes()
    assert all(again.replay(record) for record in records)
    for made in (nodes, again):
        assert made.found(made.root, b"other a", 10).id == open_one.id
        made.closed(replaced.id)
        assert made.found(made.root, b"other b", 11).id != replaced.id


def test_what_happens_to_names_in_a_directory_that_the_kernel_has_forgotten_can_be_replayed() -> None:
    records: list[Record] = []
    nodes = Nodes(records.append)
    directory = nodes.found(nodes.root, b"d", 10)
    stays, left = nodes.found(directory, b"stays", 11), nodes.found(directory, b"left", 12)
    for forgotten in (directory, nodes.found(directory, b"known no more", 13)):
        nodes.forget(forgotten.id, 1)
    nodes.unlinked(directory, b"left")
    nodes.unlinked(directory, b"known no more")
    nodes.rekey(directory, 20)
    again = Nodes()
    assert all(again.replay(record) for record in records)
    assert (again.path(again.get(stays.id)), again.path(again.get(left.id))) == (b"d/stays", None)
    assert (nodes.path(stays), nodes.path(left)) == (b"d/stays", None)


def test_a_node_lives_until_the_kernel_has_forgotten_every_lookup() -> None:
    nodes = Nodes()
    node = nodes.found(nodes.root, b"a", 10)
    nodes.found(nodes.root, b"a", 10)
    nodes.forget(node.id, 1)
    assert nodes.get(node.id) is node
    nodes.forget(node.id, 1)
    assert nodes.found(nodes.root, b"a", 10) is not node


def test_a_rename_over_a_node_takes_its_name() -> None:
    nodes = Nodes()
    old, new = nodes.found(nodes.root, b"old", 10), nodes.found(nodes.root, b"new", 11)
    nodes.renamed(nodes.root, b"old", nodes.root, b"new")
    assert nodes.path(old) == b"new"
    assert nodes.path(new) is None


def test_exchanged_names_change_places() -> None:
    nodes = Nodes()
    first, second = nodes.found(nodes.root, b"a", 10), nodes.found(nodes.root, b"b", 11)
    nodes.exchanged(nodes.root, b"a", nodes.root, b"b")
    assert (nodes.path(first), nodes.path(second)) == (b"b", b"a")


class NodesMachine(RuleBasedStateMachine):
    """Flat names against a dict of name to inode."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = Nodes()
        self.files: dict[bytes, int] = {}
        self.seen: dict[int, Node] = {}
        self.next_ino = 100

    names = st.sampled_from([b"a", b"b", b"c", b"d"])

    @rule(name=names)
    def create(self, name: bytes) -> None:
        if name not in self.files:
            self.files[name] = self.next_ino
            self.next_ino += 1

    @rule(name=names)
    def look_up(self, name: bytes) -> None:
        if name in self.files:
            self.seen[self.files[name]] = self.nodes.found(self.nodes.root, name, self.files[name])

    @rule(name=names)
    def unlink(self, name: bytes) -> None:
        if self.files.pop(name, None) is not None:
            self.nodes.unlinked(self.nodes.root, name)

    @rule(name=names, new=names)
    def rename(self, name: bytes, new: bytes) -> None:
        if name in self.files and self.files[name] != self.files.get(new):
            self.files[new] = self.files.pop(name)
            self.nodes.renamed(self.nodes.root, name, self.nodes.root, new)

    @rule(name=names, new=names)
    def link(self, name: bytes, new: bytes) -> None:
        if name in self.files and new not in self.files:
            self.files[new] = self.files[name]
            self.look_up(new)

    @invariant()
    def every_node_leads_to_its_inode(self) -> None:
        for ino, node in self.seen.items():
            path = self.nodes.path(node)
            if path is not None:
                assert self.files[path] == ino
            else:
                assert ino not in self.files.values() or self.nodes.by_key(ino) is not node


TestNodes = NodesMachine.TestCase


def test_a_file_that_never_had_a_name_leaves_its_inode_number_when_it_is_closed() -> None:
    nodes = Nodes()
    old = nodes.nameless(10)
    nodes.closed(old.id)
    new = nodes.found(nodes.root, b"a", 10)
    assert new is not old
    nodes.closed(new.id)
    assert nodes.by_key(10) is new
