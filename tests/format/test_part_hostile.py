"""What a store could hold on purpose: no manifest part makes ckptfs write outside of a mount, crash or fill memory."""

import struct
import tracemalloc
from dataclasses import replace

import pytest

import ckptfs.format.part
from ckptfs.errors import CorruptObjectError
from ckptfs.format.manifest import Chunk, Entry, Extent, Hole, Kind, LocalData, ParentFile, Part
from ckptfs.format.part import decode_part, encode_part
from ckptfs.format.rules import check_tree

PACK = "p/0000000001-" + "0" * 32
CHUNK = Chunk(b"h" * 32, 10, PACK, 16, 22)


def file(path: bytes = b"f", *extents: Extent, **changes: object) -> Entry:
    size = sum(extent.size_bytes for extent in extents)
    entry = Entry(path=path, kind=Kind.FILE, mode=0o644, size_bytes=size, extents=extents)
    return replace(entry, **changes)  # type: ignore[arg-type]


def special(kind: Kind, path: bytes = b"s", **changes: object) -> Entry:
    return replace(Entry(path=path, kind=kind, mode=0o644), **changes)  # type: ignore[arg-type]


BAD_PATHS = [
    b"..", b"../x", b"a/..", b"a/../b", b".", b"./a", b"a/.", b"a/./b", b"/", b"/etc/passwd", b"a/", b"a//b",
    b"\0", b"a\0b", b"a/\0", b"a\0/b", b"\0/..", b"a/\0/b",
]  # fmt: skip
HOSTILE_PARTS = {
    "one path twice": Part((file(b"a"), file(b"a"))),
    "paths not in order": Part((file(b"b"), file(b"a"))),
    "tombstone twice": Part((), (b"a", b"a")),
    "tombstones not in order": Part((), (b"b", b"a")),
    "entry and tombstone of one path": Part((file(b"a"),), (b"a",)),
    "tombstone of the root": Part((), (b"",)),
    "tombstone upwards": Part((), (b"../a",)),
    "root is a file": Part((file(b""),)),
    "root is a symlink": Part((special(Kind.SYMLINK, b"", target=b"/", size_bytes=1),)),
    "extents short of the size": Part((file(b"a", CHUNK, size_bytes=11),)),
    "extents beyond the size": Part((file(b"a", CHUNK, CHUNK, size_bytes=10),)),
    "size without extents": Part((file(b"a", size_bytes=1),)),
    "empty hole": Part((file(b"a", Hole(0)),)),
    "file larger than off_t": Part((file(b"a", Hole(1 << 63)),)),
    "holes larger than off_t": Part((file(b"a", *[Hole((1 << 63) - 1)] * 2),)),
    "mode with a file type": Part((file(b"a", mode=0o100644),)),
    "file with a target": Part((file(b"a", target=b"b"),)),
    "file with a device number": Part((file(b"a", rdev=1),)),
    "directory with a size": Part((special(Kind.DIRECTORY, size_bytes=1),)),
    "directory with extents": Part((special(Kind.DIRECTORY, extents=(Hole(1),)),)),
    "directory with a hard link": Part((special(Kind.DIRECTORY, link_id=1),)),
    "torn directory": Part((special(Kind.DIRECTORY, torn=True),)),
    "fifo with a device number": Part((special(Kind.FIFO, rdev=1),)),
    "socket with a target": Part((special(Kind.SOCKET, target=b"a"),)),
    "symlink to nothing": Part((special(Kind.SYMLINK),)),
    "symlink with a NUL": Part((special(Kind.SYMLINK, target=b"a\0", size_bytes=2),)),
    "symlink of another size": Part((special(Kind.SYMLINK, target=b"a", size_bytes=2),)),
    "xattrs not in order": Part((file(b"a", xattrs=((b"b", b""), (b"a", b""))),)),
    "xattr twice": Part((file(b"a", xattrs=((b"a", b""), (b"a", b""))),)),
    "xattr without a name": Part((file(b"a", xattrs=((b"", b""),)),)),
    "xattr with a NUL": Part((file(b"a", xattrs=((b"a\0", b""),)),)),
    "xattr with too long a name": Part((file(b"a", xattrs=((b"n" * 256, b""),)),)),
    "xattr with too large a value": Part((file(b"a", xattrs=((b"n", bytes(65537)),)),)),
    "symlink to more than any path": Part((special(Kind.SYMLINK, target=b"t" * 4096, size_bytes=4096),)),
    "device number of more than 32 bits": Part((special(Kind.BLOCK, rdev=1 << 32),)),
    "name longer than any": Part((file(b"n" * 256),)),
    "name longer than any below a directory": Part((file(b"d/" + b"n" * 256 + b"/f"),)),
    "tombstone of a name longer than any": Part((), (b"d/" + b"n" * 256,)),
    "hard links that differ": Part((file(b"a", link_id=1), file(b"b", link_id=1, mode=0))),
    "hard links of two kinds": Part((file(b"a", link_id=1), special(Kind.FIFO, b"b", link_id=1, mode=0o644))),
    "chunk before the frames": Part((file(b"a", CHUNK._replace(offset_bytes=15)),)),
    "chunk beyond any pack": Part((file(b"a", CHUNK._replace(offset_bytes=(1 << 30) - 21)),)),
    "frame without a payload": Part((file(b"a", CHUNK._replace(stored_bytes=12)),)),
    "frame far larger than its chunk": Part((file(b"a", CHUNK._replace(stored_bytes=10 + 65548)),)),
    "chunk too large": Part((file(b"a", CHUNK._replace(size_bytes=(64 << 20) + 1, stored_bytes=100)),)),
    "base that is no good": Part((file(b"a", CHUNK._replace(base=CHUNK._replace(offset_bytes=0))),)),
}  # fmt: skip
HOSTILE_LOCAL_PARTS = {
    "two local extents": Part((file(b"a", LocalData(1, 0), LocalData(1, 1)),)),
    "hole and local extent": Part((file(b"a", Hole(1), ParentFile(1, b"b")),)),
    "chunk and local extent": Part((file(b"a", CHUNK, LocalData(1, 0)),)),
    "local extent of nothing": Part((file(b"a", LocalData(0, 0)),)),
    "parent file upwards": Part((file(b"a", ParentFile(1, b"../b")),)),
    "parent file absolute": Part((file(b"a", ParentFile(1, b"/b")),)),
    "parent file is the root": Part((file(b"a", ParentFile(1, b"")),)),
    "parent file with a NUL": Part((file(b"a", ParentFile(1, b"b\0")),)),
}


def bytes_of(part: Part, monkeypatch: pytest.MonkeyPatch, *, local: bool) -> bytes:
    """What a writer without rules makes of a part."""
    with monkeypatch.context() as patch:
        patch.setattr(ckptfs.format.part, "check_part", lambda part, *, local: None)
        patch.setattr(ckptfs.format.part, "check_chunk", lambda chunk: None)
        return encode_part(part, local=local)


def assert_refused(part: Part, monkeypatch: pytest.MonkeyPatch, *, local: bool = False) -> None:
    data = bytes_of(part, monkeypatch, local=local)
    with pytest.raises(CorruptObjectError):
        decode_part(data, local=local)
    with pytest.raises(CorruptObjectError):
        encode_part(part, local=local)


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_a_part_that_breaks_a_rule_is_neither_read_nor_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(HOSTILE_PARTS[name], monkeypatch)


@pytest.mark.parametrize("name", HOSTILE_LOCAL_PARTS)
def test_a_local_part_that_breaks_a_rule_is_neither_read_nor_written(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(HOSTILE_LOCAL_PARTS[name], monkeypatch, local=True)


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_out_of_the_mount_is_neither_read_nor_written(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(Part((file(path),)), monkeypatch)
    assert_refused(Part((special(Kind.DIRECTORY, b""), file(path), file(b"\xff"))), monkeypatch)
    assert_refused(Part((), (path,)), monkeypatch)


def test_what_is_as_long_as_it_may_be_is_kept() -> None:
    xattrs = ((b"n" * 255, bytes(65536)),)
    part = Part(
        (
            special(Kind.BLOCK, b"device", rdev=(1 << 32) - 1),
            special(Kind.SYMLINK, b"link", target=b"t" * 4095, size_bytes=4095),
            file(b"n" * 255, xattrs=xattrs),
            file(b"/".join([b"n" * 255] * 255)),
        )
    )
    assert decode_part(encode_part(part)) == part


@pytest.mark.parametrize("path", [b"...", b".a", b"..a", b"a..", b"a/...", b"a/.b", b" ", b"\n", b"a\\..\\b", b"\xff"])
def test_a_name_that_only_looks_odd_is_kept(path: bytes) -> None:
    part = Part((file(path),), (path + b"x",))
    assert decode_part(encode_part(part)) == part


@pytest.mark.parametrize(
    "extent", [LocalData(1, 0), ParentFile(1, b"a"), CHUNK._replace(pack="../lease"), CHUNK._replace(hash=b"short")]
)
def test_an_extent_that_a_store_cannot_hold_is_not_written(extent: Extent) -> None:
    with pytest.raises(CorruptObjectError):
        encode_part(Part((file(b"a", extent),)))


def test_a_base_with_a_base_is_not_written() -> None:
    deep = CHUNK._replace(base=CHUNK._replace(hash=b"i" * 32, base=CHUNK._replace(hash=b"j" * 32)))
    with pytest.raises(CorruptObjectError, match="base"):
        encode_part(Part((file(b"a", deep),)))


@pytest.mark.parametrize(
    "changes",
    [{"uid": 1 << 32}, {"gid": -1}, {"mtime_ns": 1 << 63}, {"link_id": 1 << 64}, {"mode": -1}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_value_that_does_not_fit_its_field_is_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptObjectError):
        encode_part(Part((file(b"a", **changes),)))


@pytest.mark.parametrize("part", [Part((file(b"p" * 65536),)), Part((), (b"p" * 65536,))])
def test_a_path_that_does_not_fit_its_field_is_not_written(part: Part) -> None:
    with pytest.raises(CorruptObjectError):
        encode_part(part)


# From here on parts are laid out by hand, with the offsets and sizes of docs/FORMAT.md section 4 as numbers.


def raw_entry(path: bytes = b"f", *, kind: int = 1, flags: int = 0, size: int = 10, extents: int = 1) -> bytes:
    return struct.pack("<HBBIIIqQQQIHH", len(path), kind, flags, 0, 0, 0, 0, size, 0, 0, extents, 0, 0)


def raw_chunk(*, pack: int = 0, size: int = 10, base: int = 0xFFFFFFFF, name: bytes = b"h" * 32) -> bytes:
    return struct.pack("<32s5I", name, pack, 16, 22, size, base)


def raw_part(
    *,
    entries: bytes = b"",
    extents: bytes = b"",
    chunks: bytes = b"",
    packs: bytes = b"",
    local_rows: bytes = b"",
    heap: bytes = b"",
    flags: int = 0,
) -> bytes:
    counts = (len(entries) // 56, 0, len(extents) // 12, len(chunks) // 52, len(packs) // 21, 0)
    header = struct.pack("<8sHHIIIIIIQ", b"ckptfsM1", 1, flags, *counts, len(heap))
    return header + entries + extents + chunks + packs + local_rows + heap


RAW_PACK = (1).to_bytes(5, "little") + bytes(16)


def test_the_layout_is_that_of_the_document() -> None:
    data = raw_part(
        entries=raw_entry(), extents=struct.pack("<QI", 10, 0), chunks=raw_chunk(), packs=RAW_PACK, heap=b"f"
    )
    part = Part((file(b"f", CHUNK, mode=0),))
    assert decode_part(data) == part
    assert encode_part(part) == data


@pytest.mark.parametrize(
    "data",
    [
        raw_part(entries=raw_entry(), extents=struct.pack("<QI", 10, 1), chunks=raw_chunk(), packs=RAW_PACK, heap=b"f"),
        raw_part(entries=raw_entry(), extents=struct.pack("<QI", 10, 0), heap=b"f"),
        raw_part(entries=raw_entry(), extents=struct.pack("<QI", 10, 0xFFFFFFFE), heap=b"f"),
        raw_part(entries=raw_entry(), extents=struct.pack("<QI", 10, 0xFFFFFFFD), heap=b"f"),
        raw_part(entries=raw_entry(), extents=struct.pack("<QI", 10, 0), chunks=raw_chunk(), heap=b"f"),
        raw_part(
            entries=raw_entry(size=9), extents=struct.pack("<QI", 9, 0), chunks=raw_chunk(), packs=RAW_PACK, heap=b"f"
        ),
        raw_part(chunks=raw_chunk(pack=1), packs=RAW_PACK),
        raw_part(chunks=raw_chunk(base=0), packs=RAW_PACK),
        raw_part(chunks=raw_chunk(base=1), packs=RAW_PACK),
        raw_part(chunks=raw_chunk(base=1) + raw_chunk(base=0), packs=RAW_PACK),
        raw_part(packs=b"\xff" * 5 + bytes(16)),
        raw_part(entries=raw_entry(kind=0, size=0, extents=0), heap=b"f"),
        raw_part(entries=raw_entry(kind=8, size=0, extents=0), heap=b"f"),
        raw_part(entries=raw_entry(flags=2, size=0, extents=0), heap=b"f"),
        raw_part(entries=raw_entry(extents=2), extents=struct.pack("<QI", 10, 0xFFFFFFFF), heap=b"f"),
        raw_part(entries=raw_entry(size=0, extents=0), extents=struct.pack("<QI", 10, 0xFFFFFFFF), heap=b"f"),
        raw_part(entries=raw_entry(size=0, extents=0), heap=b"ff"),
        raw_part(entries=raw_entry(size=0, extents=0), heap=b""),
        raw_part(flags=2),
        b"",
        b"ckptfsC1" + raw_part()[8:],
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_a_part_whose_tables_contradict_each_other_is_refused(data: bytes, local: bool) -> None:
    with pytest.raises(CorruptObjectError):
        decode_part(data, local=local)


@pytest.mark.parametrize("parent_bytes", [2, 4, 1 << 63, (1 << 64) - 1])
def test_a_parent_path_that_is_not_in_the_heap_is_refused(parent_bytes: int) -> None:
    extent = struct.pack("<QI", 10, 0xFFFFFFFD)

    def with_path_of(size: int) -> bytes:
        return raw_part(entries=raw_entry(), extents=extent, local_rows=struct.pack("<Q", size), heap=b"fold", flags=1)

    assert decode_part(with_path_of(3), local=True).entries[0].extents == (ParentFile(10, b"old"),)
    with pytest.raises(CorruptObjectError):
        decode_part(with_path_of(parent_bytes), local=True)


@pytest.mark.parametrize("field", range(7))
@pytest.mark.parametrize("local", [False, True])
def test_a_huge_count_is_refused_without_taking_memory(field: int, local: bool) -> None:
    numbers = [0] * 7
    numbers[field] = 0xFFFFFFFF if field < 6 else (1 << 64) - 1
    data = struct.pack("<8sHHIIIIIIQ", b"ckptfsM1", 1, int(local), *numbers) + bytes(1000)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError):
            decode_part(data, local=local)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_an_entry_that_claims_many_extents_takes_no_memory_for_them() -> None:
    data = raw_part(entries=raw_entry(extents=0xFFFFFFFF) * 100, heap=b"f" * 100)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError):
            decode_part(data)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


ROOT = special(Kind.DIRECTORY, b"")


@pytest.mark.parametrize(
    "entries",
    [
        (file(b"a"),),
        (ROOT, file(b"a/b")),
        (ROOT, file(b"a"), file(b"a/b")),
        (ROOT, special(Kind.SYMLINK, b"a", target=b"/etc", size_bytes=4), file(b"a/passwd")),
        (ROOT, file(b"a", link_id=5), file(b"b", link_id=5, uid=1)),
    ],
)
def test_a_version_that_is_no_tree_is_refused(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(CorruptObjectError):
        check_tree({entry.path: entry for entry in entries})


def test_a_version_that_is_a_tree_passes() -> None:
    entries = (ROOT, special(Kind.DIRECTORY, b"a"), file(b"a/b", link_id=5), file(b"a/c", link_id=5), file(b"z"))
    check_tree({entry.path: entry for entry in entries})
    with pytest.raises(CorruptObjectError):
        check_tree({entry.path: entry for entry in entries if entry.path != b"a"})
