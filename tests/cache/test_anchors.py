"""Anchors on local disk: handed out only when right, kept while they are needed and there is room."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptfs.cache.anchors import MAX_USES, MIN_ANCHOR_BYTES, AnchorCache, read_anchor
from ckptfs.codec.frame import encode_frame
from ckptfs.errors import ChunkCorruptError
from ckptfs.format.keys import new_pack_key
from ckptfs.format.manifest import Chunk
from ckptfs.format.pack import PackBuilder
from ckptfs.hashing import hash_bytes

KIB = 1 << 10
PLENTY = 1 << 40


class Pack:
    """A pack with some chunks, of which the odd ones say that they are encoded against the first."""

    def __init__(self, *plains: bytes) -> None:
        builder = PackBuilder()
        self.key = new_pack_key(1)
        self.chunks: list[Chunk] = []
        for index, plain in enumerate(plains):
            frame, digest = encode_frame(plain), hash_bytes(plain)
            base = self.chunks[0] if index % 2 else None
            offset = builder.add(frame, digest, len(plain))
            self.chunks.append(Chunk(digest, len(plain), self.key, offset, len(frame), base))
        self.body = builder.finish()

    def keep(self, cache: AnchorCache) -> None:
        cache.keep(self.key, self.body, self.chunks)


@pytest.fixture
def cache(tmp_path: Path) -> AnchorCache:
    return AnchorCache(tmp_path, PLENTY)


def read(cache: AnchorCache, chunk: Chunk) -> bytes | None:
    """Read an anchor as an encoder and its process do together."""
    place = cache.place(chunk)
    if place is None:
        return None
    try:
        return read_anchor(place)
    except (OSError, ChunkCorruptError) as error:
        cache.reject(chunk, str(error))
        return None


def used_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def test_an_anchor_comes_back_also_after_a_restart(cache: AnchorCache, tmp_path: Path) -> None:
    plain = os.urandom(100 * KIB)
    pack = Pack(plain)
    pack.keep(cache)
    assert read(cache, pack.chunks[0]) == plain
    assert read(AnchorCache(tmp_path, PLENTY), pack.chunks[0]) == plain


def test_what_was_never_kept_is_not_here(cache: AnchorCache) -> None:
    assert read(cache, Pack(os.urandom(100 * KIB)).chunks[0]) is None


def test_only_frames_that_can_be_anchors_take_room(cache: AnchorCache, tmp_path: Path) -> None:
    first, against_it, small, also, last = (
        os.urandom(size) for size in (64 * KIB, 512 * KIB, MIN_ANCHOR_BYTES - 1, 512 * KIB, 64 * KIB)
    )
    pack = Pack(first, against_it, small, also, last)
    pack.keep(cache)
    assert (read(cache, pack.chunks[0]), read(cache, pack.chunks[4])) == (first, last)
    assert used_bytes(tmp_path) < 160 * KIB


def test_a_pack_without_anchors_is_not_kept(cache: AnchorCache, tmp_path: Path) -> None:
    Pack(b"small", os.urandom(100 * KIB)).keep(cache)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_anchor_is_not_handed_out_and_is_removed(cache: AnchorCache, tmp_path: Path, damage: str) -> None:
    pack = Pack(os.urandom(100 * KIB))
    pack.keep(cache)
    (path,) = tmp_path.iterdir()
    if damage == "flipped":
        body = bytearray(path.read_bytes())
        body[50_000] ^= 1
        path.write_bytes(body)
    elif damage == "cut":
        os.truncate(path, 50_000)
    else:
        path.unlink()
    assert read(cache, pack.chunks[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_what_the_newest_version_does_not_need_is_removed(cache: AnchorCache, tmp_path: Path) -> None:
    packs = [Pack(os.urandom(32 * KIB)) for _ in range(3)]
    for pack in packs:
        pack.keep(cache)
    cache.advance({packs[1].key, new_pack_key(7)}, set())
    assert [read(cache, pack.chunks[0]) is not None for pack in packs] == [False, True, False]
    assert len(list(tmp_path.iterdir())) == 1


def test_after_8_versions_an_anchor_is_used_no_more_restarts_or_not(tmp_path: Path) -> None:
    pack = Pack(os.urandom(32 * KIB))
    pack.keep(AnchorCache(tmp_path, PLENTY))
    for _ in range(MAX_USES):
        cache = AnchorCache(tmp_path, PLENTY)
        assert read(cache, pack.chunks[0]) is not None
        cache.advance({pack.key}, {pack.key})
    assert read(cache, pack.chunks[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_does_not_use_an_anchor_does_not_count(cache: AnchorCache) -> None:
    pack = Pack(os.urandom(32 * KIB))
    pack.keep(cache)
    for _ in range(2 * MAX_USES):
        cache.advance({pack.key}, set())
    assert read(cache, pack.chunks[0]) is not None


def test_what_is_kept_stays_when_there_is_no_room_for_more(tmp_path: Path) -> None:
    cache = AnchorCache(tmp_path, 150 * KIB)
    packs = [Pack(os.urandom(64 * KIB)) for _ in range(4)]
    for pack in packs:
        pack.keep(cache)
    assert [read(cache, pack.chunks[0]) is not None for pack in packs] == [True, True, False, False]
    assert used_bytes(tmp_path) <= 150 * KIB


def test_no_more_is_kept_than_is_left_free_and_the_oldest_is_given_back_when_the_disk_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = AnchorCache(tmp_path, PLENTY)
    packs = [Pack(os.urandom(64 * KIB)) for _ in range(4)]
    for number, pack in enumerate(packs[:3]):
        pack.keep(cache)
        # a clock with coarse ticks may give all three the same time
        os.utime(next(path for path in tmp_path.iterdir() if path.name in f"{pack.key}.0"), (number, number))
    cache = AnchorCache(tmp_path, PLENTY)
    free = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    packs[3].keep(cache)
    assert [read(cache, pack.chunks[0]) is not None for pack in packs] == [False, False, True, False]


def test_a_full_disk_is_no_error_and_leaves_nothing_behind(
    cache: AnchorCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    pack = Pack(os.urandom(64 * KIB))
    pack.keep(cache)
    monkeypatch.undo()
    assert read(cache, pack.chunks[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_died_while_it_wrote_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{new_pack_key(1).removeprefix('p/')}.tmp").write_bytes(b"half")
    AnchorCache(tmp_path, PLENTY)
    assert list(tmp_path.iterdir()) == []
