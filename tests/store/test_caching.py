"""What local disk keeps of a store: what was read or put, up to a bound, and nothing that the store has let go."""

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


def test_the_records_of_the_oldest_commits_make_room_for_others(tmp_path: Path) -> None:
    behind = MemoryStore()
    for seq in range(1, 101):
        behind.create(commit_key(seq), b"record")
    # a file takes 4 KiB of disk, however small
    store = CachingStore(behind, tmp_path, most_record_bytes=16 * 4096)
    store.put(SEGMENTS[0], b"segment")
    for seq in range(1, 101):
        store.get(commit_key(seq))
        assert len(list(tmp_path.glob("c_*"))) <= 18
    behind.requests.clear()
    assert [store.get(commit_key(seq)) for seq in range(85, 101)] == [b"record"] * 16
    assert store.get(SEGMENTS[0]) == b"segment"
    assert behind.requests == []
    assert store.get(commit_key(1)) == b"record"
    assert behind.requests == [("get", commit_key(1))]


def test_records_that_an_earlier_process_left_make_room_too(tmp_path: Path) -> None:
    behind = MemoryStore()
    generous = CachingStore(behind, tmp_path)
    for seq in range(1, 101):
        generous.put(commit_key(seq), b"record")
    CachingStore(behind, tmp_path, most_record_bytes=16 * 4096).drop_deleted()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        commit_key(seq).replace("/", "_") for seq in range(100, 84, -1)
    ]
