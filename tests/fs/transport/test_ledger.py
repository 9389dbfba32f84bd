"""The ledger: what a server that takes over finds, whenever the one before it was killed."""

import os

from hypothesis import given
from hypothesis import strategies as st

from ckptfs.fs.transport.handle_book import HandleBook, OpenKind, OpenRecord
from ckptfs.fs.transport.ledger import Ledger, Record
from ckptfs.fs.transport.nodes import Node, Nodes

_opened: list[Ledger] = []


def open_ledger() -> Ledger:
    """Return a new ledger; only the newest stays open."""
    while _opened:
        _opened.pop().close()
    _opened.append(Ledger())
    return _opened[0]


RECORDS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=50), st.integers(-5, 1 << 64)), max_size=20)


@given(RECORDS)
def test_it_gives_back_what_was_appended(records: list[Record]) -> None:
    ledger = open_ledger()
    for record in records:
        ledger.append(record)
    assert ledger.records() == records


@given(RECORDS, RECORDS, RECORDS)
def test_a_rewrite_replaces_what_was_there(before: list[Record], now: list[Record], after: list[Record]) -> None:
    ledger = open_ledger()
    for record in before:
        ledger.append(record)
    ledger.rewrite(now)
    for record in after:
        ledger.append(record)
    assert ledger.records() == now + after


@given(RECORDS, st.integers(0, 2000))
def test_a_record_that_was_being_written_is_left_out(records: list[Record], cut: int) -> None:
    ledger = open_ledger()
    ends = [os.fstat(_active(ledger)).st_size]
    for record in records:
        ledger.append(record)
        ends.append(os.fstat(_active(ledger)).st_size)
    size = max(ends[0], ends[-1] - cut)
    os.ftruncate(_active(ledger), size)
    whole = sum(end <= size for end in ends[1:])
    assert ledger.records() == records[:whole]
    ledger.append(("after",))
    assert ledger.records() == [*records[:whole], ("after",)]


def test_a_rewrite_that_was_not_finished_changes_nothing() -> None:
    ledger = open_ledger()
    ledger.append(("kept", 1))
    other = next(fd for fd in ledger._fds if fd != _active(ledger))
    os.ftruncate(other, 0)
    os.pwrite(other, bytes(8) + b"half a rewrite", 0)
    assert ledger.records() == [("kept", 1)]


def test_it_grows_long_with_records_and_short_with_a_rewrite() -> None:
    ledger = open_ledger()
    while not ledger.is_long:
        ledger.append(("found", 1, b"x" * 10_000, 5))
    ledger.rewrite([("node", 1)])
    assert not ledger.is_long
    assert ledger.records() == [("node", 1)]


def test_without_memory_nobody_can_take_over() -> None:
    ledger = open_ledger()
    assert ledger.is_usable
    ledger.give_up("out of memory")
    ledger.append(("more",))
    ledger.rewrite([])
    assert not ledger.is_usable


NAMES = st.sampled_from([b"a", b"b", b"c"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["found", "forget", "unlinked", "renamed", "exchanged", "rekey", "nameless", "closed", "rewrite"]
        ),
        st.integers(0, 5), NAMES, st.integers(0, 5), NAMES, st.integers(10, 18),
    ),
    max_size=60,
)  # fmt: skip


@given(STEPS)
def test_nodes_that_are_made_again_are_the_same(steps: list[tuple[str, int, bytes, int, bytes, int]]) -> None:
    ledger = open_ledger()
    nodes = Nodes(ledger.append)
    for step in steps:
        if step[0] == "rewrite":
            ledger.rewrite(nodes.records())
        else:
            _do(nodes, *step)
    again = Nodes()
    for record in ledger.records():
        assert again.replay(record)
    assert _seen(again) == _seen(nodes)
    assert again.nameless(99).id == nodes.nameless(99).id


def _do(nodes: Nodes, kind: str, one: int, name: bytes, other: int, other_name: bytes, key: int) -> None:
    known: list[Node] = [nodes.root, *(node for node in nodes._by_id.values() if node is not nodes.root)]
    directory, other_directory = known[one % len(known)], known[other % len(known)]
    match kind:
        case "found":
            if not _is_below(directory, key):
                nodes.found(directory, name, key)
        case "forget":
            nodes.forget(directory.id, 1)
        case "unlinked":
            nodes.unlinked(directory, name)
        case "renamed" if directory is other_directory:
            nodes.renamed(directory, name, directory, other_name)
        case "exchanged" if directory is other_directory and name != other_name:
            nodes.exchanged(directory, name, directory, other_name)
        case "rekey" if directory is not nodes.root and nodes.by_key(key) is None:
            nodes.rekey(directory, key)
        case "nameless" if nodes.by_key(key) is None:
            nodes.nameless(key)
        case "closed":
            nodes.closed(directory.id)


def _is_below(directory: Node, key: int) -> bool:
    """True if an inode is a directory or above it: the kernel never finds a loop."""
    return directory.key == key or any(_is_below(above, key) for above, _ in directory.names)


def _seen(nodes: Nodes) -> object:
    rows = {node.id: (node.key, node.lookups, nodes.path(node)) for node in nodes._by_id.values()}
    keys = {key: node.id for key, node in nodes._by_key.items()}
    names = {(directory.id, name): node.id for (directory, name), node in nodes._by_name.items()}
    return rows, keys, names


def test_a_book_that_is_made_again_is_the_same() -> None:
    ledger = open_ledger()
    book = HandleBook(ledger.append)
    book.opened(1, OpenRecord(5, OpenKind.FILE, os.O_RDWR, 77, 3, 100))
    book.opened(2, OpenRecord(6, OpenKind.CONTROL, os.O_WRONLY, 0, 0, 102, process=9, began_ns=8, shown=b"{}"))
    book.wrote(2, 3, b"abc")
    book.wrote(2, -1, b"def")
    book.resized(2, 7)
    book.captured(2, b"{1}")
    book.wrote(2, 0, b"later")
    book.intends(104, 12, 1)
    book.may_be_mapped(77, b"path")
    book.opened(3, OpenRecord(7, OpenKind.VIEW, os.O_RDONLY, 1 << 62, 0, 106))
    book.closed(3)
    first = book.renumber()
    for _ in range(2):
        again = HandleBook()
        for record in ledger.records():
            assert again.replay(record)
        assert again.handles == book.handles
        assert (again.intents, again.mapped, again.first_number) == ({104: (12, 1)}, {77: b"path"}, first)
        assert (again.handles[2].captured, again.handles[2].shown) == (b"\0\0\0abcd", b"{1}")
        assert again.handles[2].text == b"laterbcd"[:5] + b"cd"
        ledger.rewrite(book.records())


def _active(ledger: Ledger) -> int:
    return ledger._fds[ledger._side]
