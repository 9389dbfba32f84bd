"""Golden examples of every object of the store format: known values and the bytes they were first written as.

`python -m tests.data.make_golden` writes those of `format-v1/` that are missing. A file that is there is never written
again: stores out in the world hold such bytes, and every later ckptfs has to read them.
"""

import array
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ckptfs.codec.frame import decode_frame, encode_frame
from ckptfs.codec.zstd import compress, decompress
from ckptfs.crypto.sealing import StoreKey
from ckptfs.crypto.secret import Secret
from ckptfs.format.commit import CommitKind, CommitRecord, PartRef
from ckptfs.format.commit_bytes import decode_commit, encode_commit
from ckptfs.format.header import ENCRYPTED, StoreFormat, decode_format, encode_format
from ckptfs.format.keys import commit_key
from ckptfs.format.lease import LeaseRecord, decode_lease, encode_lease
from ckptfs.format.manifest import Chunk, Entry, Hole, Kind, LocalData, ParentFile, Part
from ckptfs.format.pack import PackBuilder, PackRow, decode_trailer
from ckptfs.format.part import decode_part, encode_part
from ckptfs.format.pending import PendingHeader, decode_pending, encode_pending
from ckptfs.hashing import hash_bytes
from ckptfs.store.sealed import MAGIC, SealedStore
from tests.versions.memory_store import MemoryStore

DIRECTORY = Path(__file__).parent / "format-v1"

_NOW = 1_790_000_000_123_456_789
_PACK = "p/0000000003-000102030405060708090a0b0c0d0e0f"
_OTHER_PACK = "p/9999999999-ffffffffffffffffffffffffffffffff"
_SEGMENT = "m/00112233445566778899aabbccddeeff"
_ID = "0123456789abcdef0123456789abcdef"


class Golden(NamedTuple):
    """One example."""

    name: str
    value: Any
    encode: Callable[[], bytes]
    decode: Callable[[bytes], Any]
    is_reproducible: bool = True
    """False of zstd's bytes, of which another release may make others, and of what is not written any more."""


_BASE = Chunk(bytes(range(32)), 4 << 20, _PACK, 16, 3_900_000)
_DELTA = Chunk(bytes(range(32, 64)), 4 << 20, _OTHER_PACK, 16, 150_000, _BASE)
_SMALL = Chunk(bytes(range(64, 96)), 12, _PACK, 3_900_016, 24)

PART = Part(
    entries=(
        Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755, uid=1000, gid=1000, mtime_ns=_NOW),
        Entry(path=b"console", kind=Kind.CHARACTER, mode=0o620, rdev=(5 << 8) | 1),
        Entry(path=b"disk", kind=Kind.BLOCK, mode=0o660, rdev=(8 << 8) | 1, gid=6),
        Entry(path=b"empty", kind=Kind.FILE, mode=0o644, mtime_ns=-1),
        Entry(
            path=b"model.safetensors",
            kind=Kind.FILE,
            mode=0o6600,
            uid=0xFFFFFFFF,
            mtime_ns=-(1 << 63),
            size_bytes=(8 << 20) + 4096,
            xattrs=((b"user.a", b""), (b"user.b", b"\0\xff")),
            extents=(_BASE, Hole(4096), _DELTA),
            torn=True,
        ),
        Entry(path=b"queue", kind=Kind.FIFO, mode=0o600),
        Entry(path=b"run", kind=Kind.DIRECTORY, mode=0o1777),
        Entry(path=b"run/a\nb\xff", kind=Kind.FILE, mode=0, size_bytes=12, extents=(_SMALL,), link_id=77),
        Entry(path=b"run/hard", kind=Kind.FILE, mode=0, size_bytes=12, extents=(_SMALL,), link_id=77),
        Entry(path=b"run/last", kind=Kind.SYMLINK, mode=0o777, size_bytes=8, target=b"../empty"),
        Entry(path=b"run/socket", kind=Kind.SOCKET, mode=0o777, xattrs=((b"user.c", b"d"),)),
        Entry(path=b"sparse", kind=Kind.FILE, mode=0o644, size_bytes=1 << 50, extents=(Hole(1 << 50),)),
    ),
    tombstones=(b"old", b"old/\xff\xfe"),
)
LOCAL_PART = Part(
    entries=(
        Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=_NOW),
        Entry(path=b"new", kind=Kind.FILE, mode=0o600, size_bytes=9, extents=(LocalData(9, 41),)),
        Entry(path=b"old", kind=Kind.FILE, mode=0o600, size_bytes=12, extents=(_SMALL,)),
        Entry(path=b"renamed", kind=Kind.FILE, mode=0o600, size_bytes=5, extents=(ParentFile(5, b"dir/before"),)),
        Entry(path=b"sparse", kind=Kind.FILE, mode=0o600, size_bytes=7, extents=(Hole(7),)),
    ),
    tombstones=(b"dir/before",),
)

INLINE = b"these stand for one zstd frame" + b"and these for another"
SAVE = CommitRecord(
    seq=42,
    parent=41,
    epoch=3,
    commit_id=_ID,
    kind=CommitKind.SAVE,
    time_ns=_NOW,
    host="gpu-07",
    pid=4121,
    version=40,
    head=42,
    tags=17,
    gc=30,
    gaps=((2, 3), (9, 9)),
    captured_ns=_NOW - 1,
    note={"step": 100, "loss": 0.125, "tags": ["ä", None, True]},
    files=212,
    bytes=54_358_179_840,
    bytes_added=371_098_112,
    torn=1,
    parts=(
        PartRef("segment", 0, 900_000, 8 << 20, 50_000, 0, bytes(range(32)), key=_SEGMENT),
        PartRef("commit", 30, 812, 1530, 12, 1, bytes(range(32, 64)), seq=40),
        PartRef("inline", 0, 30, 100, 1, 0, hash_bytes(INLINE[:30])),
        PartRef("inline", 30, 21, 90, 0, 2, hash_bytes(INLINE[30:])),
    ),
)
FENCE = CommitRecord(
    seq=1,
    parent=0,
    epoch=1,
    commit_id=_ID,
    kind=CommitKind.FENCE,
    time_ns=_NOW,
    host="\udcff",
    pid=1,
    version=0,
    head=0,
)
TAG = CommitRecord(
    seq=43,
    parent=42,
    epoch=3,
    commit_id=_ID,
    kind=CommitKind.TAG,
    time_ns=_NOW,
    host="laptop",
    pid=7,
    version=40,
    head=42,
    tags=43,
    gc=30,
    tag_map={"best": 4, "v1.0-rc_2": 40},
)
GC = CommitRecord(
    seq=44,
    parent=43,
    epoch=3,
    commit_id=_ID,
    kind=CommitKind.GC,
    time_ns=_NOW,
    host="laptop",
    pid=8,
    version=40,
    head=42,
    tags=43,
    gc=44,
    condemned=(_PACK, _SEGMENT),
    dropped=((1, 1), (5, 39)),
)
# as they are since versions can be pruned
SAVE_REVIVING = replace(SAVE, revival=SAVE.seq, revived=(_PACK, _OTHER_PACK))
TAG_PINNING = replace(TAG, revival=42, pins=((4, 40), (38, 41)))
GC_SWEEPING = replace(GC, revival=0, swept=2)
PENDING = PendingHeader(
    version=41, commit_id=_ID, captured_ns=_NOW, note="before the long run", files=212, bytes=54_358_179_840, boot="b"
)
LEASE = LeaseRecord(
    epoch=3,
    counter=17,
    held=True,
    host="gpu-07",
    pid=4121,
    lease_s=30.0,
    machine="5f0f6ff5-7f0c-4c0e-9c1e-0d8b2f7a4a11",
    lock="/var/cache/ckptfs/ab12/lock",
    lock_id="2049:131",
)
STORE_FORMAT = StoreFormat(store_id=_ID, time_ns=_NOW)
_KEY = StoreKey(Secret(b"correct horse battery staple\n"), bytes.fromhex(_ID))
ENCRYPTED_FORMAT = StoreFormat(features=(ENCRYPTED,), store_id=_ID, time_ns=_NOW, key_check=_KEY.check.hex())
CHAINED = replace(TAG, previous=bytes(range(32)))
_COMMIT_KEY = commit_key(CHAINED.seq)
_SALT = bytes(range(16, 32))


def _floats(count: int) -> "array.array[float]":
    """Numbers as weights have them, the same on every machine: the cubes of a linear congruence's values."""
    values = array.array("f")
    state = 1
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        values.append(((state >> 40) / (1 << 24) - 0.5) ** 3)
    return values


def _bf16(values: "array.array[float]") -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


_TEXT = b"step 100 loss 0.125\n" * 100
_NOISE = hash_bytes(b"noise")
_LINES = b"".join(b"%d %s\n" % (step, hash_bytes(b"%d" % step).hex().encode()) for step in range(50))
_FLOATS = _floats(6000)
_WEIGHTS = _FLOATS.tobytes()
_LATER = array.array("f", (value * (1 + step % 97 * 1e-5) for step, value in enumerate(_FLOATS))).tobytes()
_DECAYED = array.array("f", (value * 0.9 for value in _FLOATS)).tobytes()
ROWS = [
    PackRow(hash_bytes(_NOISE), 16, 12 + len(_NOISE), len(_NOISE)),
    PackRow(hash_bytes(_NOISE[:5]), 28 + len(_NOISE), 17, 5),
]


def _pack() -> bytes:
    builder = PackBuilder()
    for plain in (_NOISE, _NOISE[:5]):
        builder.add(encode_frame(plain), hash_bytes(plain), len(plain))
    return builder.finish()


def _commit(name: str, record: CommitRecord, inline: bytes = b"") -> Golden:
    return Golden(
        f"commit-{name}.bin",
        (record, inline),
        lambda: encode_commit(record, inline),
        lambda data: decode_commit(data, seq=record.seq),
    )


def _sealed(name: str, key: str, plain: Callable[[], bytes]) -> Golden:
    """An object as it lies in an encrypted store."""
    salt, header = (bytes.fromhex(key[-32:]), b"") if key.startswith("p/") else (_SALT, MAGIC + _SALT)

    def decode(data: bytes) -> bytes:
        behind = MemoryStore()
        behind.objects[key] = data
        return SealedStore(behind, _KEY).get(key)

    return Golden(f"sealed-{name}.bin", plain(), lambda: _KEY.cipher(key, salt).seal(plain(), header), decode)


def _frame(name: str, plain: bytes, *, base: bytes | None = None, is_reproducible: bool = False) -> Golden:
    return Golden(
        f"frame-{name}.bin",
        plain,
        lambda: encode_frame(plain, base=None if base is None else (hash_bytes(base), base)),
        lambda data: decode_frame(data, size_bytes=len(plain), digest=hash_bytes(plain), base=base),
        is_reproducible,
    )


GOLDEN = (
    # as they were written before format.json and leases had a check
    Golden("format.json", STORE_FORMAT, lambda: encode_format(STORE_FORMAT), decode_format, is_reproducible=False),
    Golden("format-checked.json", STORE_FORMAT, lambda: encode_format(STORE_FORMAT), decode_format),
    Golden("lease.json", LEASE, lambda: encode_lease(LEASE), decode_lease, is_reproducible=False),
    Golden("lease-checked.json", LEASE, lambda: encode_lease(LEASE), decode_lease),
    Golden("version.json", PENDING, lambda: encode_pending(PENDING), decode_pending),
    _commit("save", SAVE, INLINE),
    _commit("fence", FENCE),
    _commit("tag", TAG),
    _commit("gc", GC),
    _commit("chained", CHAINED),
    _commit("save-reviving", SAVE_REVIVING, INLINE),
    _commit("tag-pinning", TAG_PINNING),
    _commit("gc-sweeping", GC_SWEEPING),
    Golden(
        "format-encrypted.json",
        ENCRYPTED_FORMAT,
        lambda: encode_format(ENCRYPTED_FORMAT),
        decode_format,
        is_reproducible=False,
    ),
    Golden("format-encrypted-checked.json", ENCRYPTED_FORMAT, lambda: encode_format(ENCRYPTED_FORMAT), decode_format),
    _sealed("commit", _COMMIT_KEY, lambda: encode_commit(CHAINED)),
    _sealed("pack", _PACK, lambda: bytes(range(256)) * 300),
    _sealed("segment", _SEGMENT, lambda: b""),
    Golden("part.bin", PART, lambda: encode_part(PART), decode_part),
    Golden(
        "part-local.bin",
        LOCAL_PART,
        lambda: encode_part(LOCAL_PART, local=True),
        lambda data: decode_part(data, local=True),
    ),
    Golden(
        "part-stored.bin",
        PART,
        lambda: compress(encode_part(PART)),
        lambda data: decode_part(decompress(data, max_bytes=1 << 20)),
        is_reproducible=False,
    ),
    _frame("raw", _NOISE, is_reproducible=True),
    _frame("zstd", _TEXT),
    _frame("blocks-fp32", _WEIGHTS),
    _frame("blocks-bf16", _bf16(_floats(8000))),
    _frame("blocks-fp64", array.array("d", _floats(4000)).tobytes()),
    _frame("blocks-unaligned", b"x" + _WEIGHTS + b"yz"),
    _frame("blocks-base", _LATER, base=_WEIGHTS),
    _frame("blocks-ratio", _DECAYED, base=_WEIGHTS),
    _frame("blocks-same", _NOISE * 200, base=_NOISE * 200),
    _frame("prefix", b"a header\n" + _LINES + b"grown", base=_LINES),
    Golden("pack.bin", ROWS, _pack, decode_trailer),
)


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for golden in GOLDEN:
        path = DIRECTORY / golden.name
        if not path.exists():
            path.write_bytes(golden.encode())


if __name__ == "__main__":
    main()
