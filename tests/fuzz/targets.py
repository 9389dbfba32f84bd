"""The decoders that are fuzzed: each must refuse or understand bytes that somebody else may have written.

A target's `run` takes any bytes. It returns True if they were understood, False if they were refused as they should be;
whatever else happens is a failure: another exception, a value that does not read back as it was written, or a result of
another size than was asked for. `repair` makes mutated bytes consistent again (hashes, compression), so that mutations
reach what lies behind that check.
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ckptfs.cache.high_water import _parse as parse_mark
from ckptfs.codec.frame import HEADER as FRAME_HEADER
from ckptfs.codec.frame import decode_frame
from ckptfs.codec.zstd import compress, decompress
from ckptfs.crypto.sealing import BLOCK_BYTES, StoreKey
from ckptfs.crypto.secret import Secret
from ckptfs.errors import CkptfsError, CorruptObjectError, UnsupportedFormatError
from ckptfs.format.commit_bytes import decode_commit, encode_commit
from ckptfs.format.header import decode_format, encode_format
from ckptfs.format.keys import commit_key
from ckptfs.format.lease import decode_lease, encode_lease
from ckptfs.format.manifest import merge
from ckptfs.format.pack import decode_trailer
from ckptfs.format.part import decode_part, encode_part
from ckptfs.format.pending import decode_pending, encode_pending
from ckptfs.format.rules import check_tree
from ckptfs.hashing import hash_bytes
from ckptfs.store.sealed import MAGIC, SealedStore
from tests.versions.memory_store import MemoryStore

GOLDEN = Path(__file__).parents[1] / "data" / "format-v1"
CORPUS = Path(__file__).parent / "corpus"
SEQ = 43
"""Of the commit records: that of the golden `commit-tag.bin`; others are given it before they are read."""

_COMMIT_HEADER = struct.Struct("<8sHHII")
_FOOTER_BYTES = 48
_ROW_BYTES = 44
_MOST_PLAIN_BYTES = 1 << 20
_KEY = StoreKey(Secret(b"fuzz"), bytes(16))
_PACK = "p/0000000003-000102030405060708090a0b0c0d0e0f"
_BASE = b"".join(struct.pack("<f", (number % 97) * 0.5 - 3) for number in range(4000))


class WrongError(Exception):
    """A decoder understood what it should not have, or otherwise."""


def _same(one: object, other: object) -> None:
    if one != other:
        raise WrongError("what was decoded does not read back as it was written")


def _format(data: bytes) -> None:
    value = decode_format(data)
    _same(decode_format(encode_format(value)), value)


def _lease(data: bytes) -> None:
    value = decode_lease(data)
    _same(decode_lease(encode_lease(value)), value)


def _pending(data: bytes) -> None:
    value = decode_pending(data)
    _same(decode_pending(encode_pending(value)), value)


def _commit(data: bytes) -> None:
    record, inline = decode_commit(data, seq=SEQ)
    _same(decode_commit(encode_commit(record, inline), seq=SEQ), (record, inline))


def _part(data: bytes, *, local: bool = False) -> None:
    part = decode_part(data, local=local)
    _same(decode_part(encode_part(part, local=local), local=local), part)
    for entry in part.entries:
        names = entry.path.split(b"/") if entry.path else []
        if any(name in (b"", b".", b"..") or b"\0" in name or len(name) > 255 for name in names):
            raise WrongError(f"a path that leads elsewhere: {entry.path!r}")
    if not local:
        check_tree(merge([part]))


def _local_part(data: bytes) -> None:
    _part(data, local=True)


def _stored_part(data: bytes) -> None:
    _part(decompress(data, max_bytes=_MOST_PLAIN_BYTES))


def _trailer(data: bytes) -> None:
    end = 16
    for row in decode_trailer(data):
        if row.offset_bytes != end:
            raise WrongError("frames that overlap")
        end += row.stored_bytes


def _frame(data: bytes, base: bytes | None = None) -> None:
    """A frame whose own header says how much it holds, as the manifest would; hashes are what they turn out to be."""
    if len(data) < FRAME_HEADER.size:
        size_bytes = 1
    else:
        size_bytes = min(FRAME_HEADER.unpack_from(data)[3], _MOST_PLAIN_BYTES)
    try:
        decode_frame(data, size_bytes=size_bytes, digest=bytes(32), base=base)
    except CorruptObjectError as error:
        # past everything but the hash: it was decoded, to what it said
        if f"its {size_bytes} bytes hash to" not in error.fact:
            raise


def _based_frame(data: bytes) -> None:
    _frame(data, _BASE)


def _sealed(data: bytes) -> None:
    behind = MemoryStore()
    store = SealedStore(behind, _KEY)
    for name in (commit_key(SEQ), _PACK):
        behind.objects[name] = data
        try:
            plain = store.get(name)
        except CorruptObjectError:
            continue
        if len(plain) > len(data):
            raise WrongError("more came out than was put in")
        return
    for offset in (0, BLOCK_BYTES - 1):
        store.get_range(_PACK, offset, 2, may_end=True)


def _mark(data: bytes) -> None:
    if not 0 <= parse_mark(data).seq < 10**20:
        raise WrongError("a mark of no number")
    if parse_mark(data).seq == 0:
        raise CorruptObjectError("no mark")


def _as_it_is(data: bytes) -> bytes:
    return data


def _repair_commit(data: bytes) -> bytes:
    """Give a record lengths, a seq and a hash that fit."""
    if len(data) < _COMMIT_HEADER.size + 32:
        return data
    magic, version, reserved, body_bytes, inline_bytes = _COMMIT_HEADER.unpack_from(data)
    content = data[_COMMIT_HEADER.size : -32]
    if body_bytes + inline_bytes != len(content):
        body_bytes = min(body_bytes, len(content))
        inline_bytes = len(content) - body_bytes
    text, inline = content[:body_bytes], content[body_bytes:]
    try:
        body = json.loads(text)
        if isinstance(body, dict):
            body |= {"seq": SEQ, "parent": SEQ - 1}
            text = json.dumps(body).encode()
    except ValueError:
        pass
    hashed = _COMMIT_HEADER.pack(magic, version, reserved, len(text), len(inline)) + text + inline
    return hashed + hash_bytes(hashed)


def _repair_trailer(data: bytes) -> bytes:
    if len(data) < _FOOTER_BYTES:
        return data
    (count,) = struct.unpack_from("<I", data, len(data) - _FOOTER_BYTES)
    rows = data[: len(data) - _FOOTER_BYTES][-count * _ROW_BYTES :] if 0 < count < 10_000 else b""
    footer = data[len(data) - _FOOTER_BYTES :]
    return data[: len(data) - _FOOTER_BYTES] + footer[:8] + hash_bytes(rows) + footer[40:]


def _repair_stored(data: bytes) -> bytes:
    """Compress what a mutation has left of what was compressed, or what was not."""
    try:
        return compress(decompress(data, max_bytes=_MOST_PLAIN_BYTES))
    except CkptfsError:
        return compress(data[:_MOST_PLAIN_BYTES])


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    decode: Callable[[bytes], None]
    golden: Sequence[str] = ()
    """Examples of tests/data."""
    repair: Callable[[bytes], bytes] = _as_it_is
    written: Sequence[bytes] = ()
    """Further examples."""

    def run(self, data: bytes) -> bool:
        """Feed it; see the module."""
        try:
            self.decode(data)
        except (CorruptObjectError, UnsupportedFormatError):
            return False
        return True

    def seeds(self, name: str) -> list[bytes]:
        """Return what mutations begin with: examples, and what earlier runs found worth keeping."""
        kept = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
        return (
            [(GOLDEN / file).read_bytes() for file in self.golden]
            + list(self.written)
            + [path.read_bytes() for path in kept]
        )


_FRAMES = ("raw", "zstd", "blocks-fp32", "blocks-bf16", "blocks-fp64", "blocks-unaligned")
TARGETS = {
    "format": Target(_format, ("format.json", "format-encrypted.json")),
    "lease": Target(_lease, ("lease.json",)),
    "pending": Target(_pending, ("version.json",)),
    "commit": Target(
        _commit,
        [f"commit-{kind}.bin" for kind in ("save", "fence", "tag", "gc", "chained")],
        _repair_commit,
    ),
    "part": Target(_part, ("part.bin",)),
    "part-local": Target(_local_part, ("part-local.bin",)),
    "part-stored": Target(_stored_part, ("part-stored.bin",), _repair_stored),
    "trailer": Target(_trailer, ("pack.bin",), _repair_trailer),
    "frame": Target(_frame, [f"frame-{name}.bin" for name in _FRAMES]),
    "frame-based": Target(
        _based_frame, [f"frame-{name}.bin" for name in ("blocks-base", "blocks-ratio", "blocks-same", "prefix")]
    ),
    "sealed": Target(
        _sealed,
        written=(
            MAGIC + bytes(16) + _KEY.cipher(commit_key(SEQ), bytes(16)).seal(b"x" * 300),
            _KEY.cipher(_PACK, bytes.fromhex(_PACK[-32:])).seal(bytes(BLOCK_BYTES + 9)),
        ),
    ),
    "mark": Target(_mark, written=(b"%020d %s\n" % (7, b"0a" * 32),)),
}
