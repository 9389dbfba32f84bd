"""What local disk keeps of a store: what was read or put, and nothing that the store has let go."""

from pathlib import Path

from ckptfs.format.keys import commit_key
from ckptfs.store.caching import CachingStore
from tests.versions.memory_store import MemoryStore

SEGMENTS = [f"m/{epoch:010d}{'ab' * 11}" for epoch in range(1, 6)]


def test_what_was_put_is_read_from_local_disk(tmp_path: Path) -> None:
    behind = MemoryStore()
    store = CachingStore(behind, tmp_path)
    store.put(SEGMENTS[0], b"segment")
    store.put("lease", b"lease")
    behind.requests.clear()
    assert store.get(SEGMENTS[0]) == b"segment"
    assert behind.requests == []
    assert store.get("lease") == b"lease"
    assert behind.requests == [("get", "lease")]


def test_segments_that_the_store_has_no_more_go_and_nothing_else(tmp_path: Path) -> None:
    behind = MemoryStore()
    store = CachingStore(behind, tmp_path)
    for key in (*SEGMENTS, commit_key(1)):
        store.put(key, key.encode())
    for gone in (SEGMENTS[0], SEGMENTS[3]):
        behind.delete(gone)
    # half of one, of a process that was killed
    (tmp_path / f"{SEGMENTS[1].replace('/', '_')}.4121.tmp").write_bytes(b"half")
    store.drop_deleted()
    left = [SEGMENTS[1], SEGMENTS[2], SEGMENTS[4], commit_key(1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(key.replace("/", "_") for key in left)
    behind.requests.clear()
    assert [store.get(key) for key in left] == [key.encode() for key in left]
    assert behind.requests == []


def test_where_no_segment_is_kept_the_store_is_not_asked(tmp_path: Path) -> None:
    behind = MemoryStore()
    store = CachingStore(behind, tmp_path)
    store.put(commit_key(1), b"record")
    behind.requests.clear()
    store.drop_deleted()
    assert behind.requests == []
