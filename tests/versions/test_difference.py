"""What differs between two trees is found without reading data."""

from ckptfs.format.manifest import Chunk, Entry, Hole, Kind, Tree
from ckptfs.versions.difference import Change, differences, new_bytes

PACK = "p/0000000001-" + "0" * 32


def chunk(name: str, size_bytes: int) -> Chunk:
    return Chunk(name.encode().ljust(32, b"."), size_bytes, PACK, 16, size_bytes)


def file(path: bytes, *extents: Chunk | Hole, **attributes: object) -> Entry:
    size_bytes = sum(extent.size_bytes for extent in extents)
    return Entry(path=path, kind=Kind.FILE, mode=0o644, size_bytes=size_bytes, extents=extents, **attributes)  # type: ignore[arg-type]


def tree(*entries: Entry) -> Tree:
    return {entry.path: entry for entry in entries}


def test_equal_trees_do_not_differ() -> None:
    before = tree(file(b"a", chunk("x", 10)), Entry(path=b"d", kind=Kind.DIRECTORY, mode=0o755))
    assert list(differences(before, dict(before))) == []


def test_a_new_path_is_added_with_all_its_data_but_not_its_holes() -> None:
    found = list(differences({}, tree(file(b"a", chunk("x", 10), Hole(4096)))))
    assert [(each.path, each.change, each.bytes_changed) for each in found] == [(b"a", Change.ADDED, 10)]


def test_a_path_that_is_gone_is_removed_with_its_size() -> None:
    found = list(differences(tree(file(b"a", chunk("x", 10))), {}))
    assert [(each.change, each.bytes_changed) for each in found] == [(Change.REMOVED, 10)]


def test_only_new_chunks_of_a_changed_file_count() -> None:
    before = tree(file(b"a", chunk("x", 10), chunk("y", 20)))
    after = tree(file(b"a", chunk("x", 10), chunk("z", 20), chunk("y", 20)))
    found = list(differences(before, after))
    assert [(each.change, each.bytes_changed) for each in found] == [(Change.CONTENT, 20)]


def test_a_file_that_became_a_symlink_has_other_content() -> None:
    link = Entry(path=b"a", kind=Kind.SYMLINK, mode=0o777, size_bytes=1, target=b"b")
    assert [each.change for each in differences(tree(file(b"a")), tree(link))] == [Change.CONTENT]


def test_another_mode_or_mtime_is_a_change_of_attributes_alone() -> None:
    before = tree(file(b"a", chunk("x", 10), mtime_ns=1), file(b"b", chunk("x", 10)))
    after = tree(file(b"a", chunk("x", 10), mtime_ns=2), file(b"b", chunk("x", 10), xattrs=((b"user.k", b"v"),)))
    found = list(differences(before, after))
    assert [(each.path, each.change, each.bytes_changed) for each in found] == [
        (b"a", Change.ATTRIBUTES, 0),
        (b"b", Change.ATTRIBUTES, 0),
    ]


def test_hard_links_that_are_the_same_but_for_their_random_id_do_not_differ() -> None:
    before = tree(file(b"a", chunk("x", 10), link_id=5), file(b"b", chunk("x", 10), link_id=5))
    after = tree(file(b"a", chunk("x", 10), link_id=9), file(b"b", chunk("x", 10), link_id=9))
    assert list(differences(before, after)) == []


def test_differences_come_in_path_order() -> None:
    found = differences(tree(file(b"b"), file(b"d")), tree(file(b"a"), file(b"c"), file(b"d")))
    assert [each.path for each in found] == [b"a", b"b", b"c"]


def test_new_data_counts_once_whatever_has_it_and_not_at_all_where_it_was_before() -> None:
    before = tree(file(b"old name", chunk("x", 10)))
    after = tree(
        file(b"a", chunk("x", 10), chunk("y", 20), link_id=5), file(b"b", chunk("x", 10), chunk("y", 20), link_id=5)
    )
    assert new_bytes(before, after) == 20
    assert new_bytes(after, before) == 0
