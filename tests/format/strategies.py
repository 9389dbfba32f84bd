"""Hypothesis strategies for manifest parts: whatever a filesystem can hold."""

from dataclasses import replace

from hypothesis import strategies as st

from ckptfs.format.keys import pack_key
from ckptfs.format.manifest import Chunk, Entry, Extent, Hole, Kind, LocalData, ParentFile, Part

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
MODES = st.integers(0, 0o7777)
HASHES = st.binary(min_size=32, max_size=32)

_COMPONENT_BYTES = st.sampled_from([byte for byte in range(1, 256) if byte != ord("/")])
COMPONENTS = (
    st.lists(_COMPONENT_BYTES, min_size=1, max_size=5).map(bytes).filter(lambda name: name not in (b".", b".."))
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=3).map(b"/".join)
TARGETS = st.lists(st.integers(1, 255), min_size=1, max_size=9).map(bytes)
XATTRS = st.dictionaries(TARGETS, st.binary(max_size=9), max_size=3).map(lambda xattrs: tuple(sorted(xattrs.items())))


@st.composite
def chunks(draw: st.DrawFn, *, with_base: bool = True) -> Chunk:
    size = draw(st.one_of(st.integers(1, 9), st.integers(1, 64 << 20)))
    stored = draw(st.integers(13, size + 12 + 65535))
    offset = draw(st.integers(16, (1 << 30) - stored))
    pack = pack_key(draw(st.integers(0, 9_999_999_999)), draw(st.sampled_from([bytes(16), bytes(range(16))])))
    base = draw(st.none() | chunks(with_base=False)) if with_base else None
    return Chunk(draw(HASHES), size, pack, offset, stored, base)


HOLES = st.builds(Hole, st.integers(1, 1 << 40))
STORED_EXTENTS = st.lists(st.one_of(chunks(), HOLES), max_size=4).map(tuple)
LOCAL_EXTENTS = st.one_of(
    STORED_EXTENTS,
    st.tuples(st.builds(LocalData, st.integers(1, (1 << 63) - 1), U64)),
    st.tuples(st.builds(ParentFile, st.integers(1, (1 << 63) - 1), PATHS)),
)


def _sized(entry: Entry, extents: tuple[Extent, ...]) -> Entry:
    return replace(entry, extents=extents, size_bytes=sum(extent.size_bytes for extent in extents))


@st.composite
def entries(draw: st.DrawFn, path: bytes, *, local: bool) -> Entry:
    kind = draw(st.sampled_from(list(Kind))) if path else Kind.DIRECTORY
    entry = Entry(
        path=path,
        kind=kind,
        mode=draw(MODES),
        uid=draw(U32),
        gid=draw(U32),
        mtime_ns=draw(I64),
        link_id=0 if kind is Kind.DIRECTORY else draw(st.just(0) | U64),
        rdev=draw(U32) if kind in (Kind.CHARACTER, Kind.BLOCK) else 0,
        xattrs=draw(XATTRS),
        torn=kind is Kind.FILE and draw(st.booleans()),
    )
    if kind is Kind.FILE:
        return _sized(entry, draw(LOCAL_EXTENTS if local else STORED_EXTENTS))
    if kind is Kind.SYMLINK:
        target = draw(TARGETS)
        return replace(entry, target=target, size_bytes=len(target))
    return entry


@st.composite
def parts(draw: st.DrawFn, *, local: bool = False) -> Part:
    paths = sorted(draw(st.sets(PATHS | st.just(b""), max_size=6)))
    found = {path: draw(entries(path, local=local)) for path in paths}
    linked = [entry for entry in found.values() if entry.link_id]
    if linked:
        # two names of one inode, where two random ids would never meet
        original = draw(st.sampled_from(linked))
        path = draw(PATHS.filter(lambda path: path not in found))
        found[path] = replace(original, path=path)
    by_id = {entry.link_id: entry for entry in reversed(found.values()) if entry.link_id}
    kept = [entry if not entry.link_id else replace(by_id[entry.link_id], path=entry.path) for entry in found.values()]
    tombstones = draw(st.sets(PATHS.filter(lambda path: path not in found), max_size=3))
    return Part(tuple(sorted(kept, key=lambda entry: entry.path)), tuple(sorted(tombstones)))
