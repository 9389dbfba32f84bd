"""The keys of a store's objects, to and from what they name.

Pure. Layout: docs/FORMAT.md section 1; change both in one commit.
"""

import re
import secrets

from ckptfs.errors import CorruptObjectError

FORMAT_KEY = "format.json"
LEASE_KEY = "lease"
COMMIT_PREFIX = "c/"
SEGMENT_PREFIX = "m/"
PACK_PREFIX = "p/"
DAMAGE_PREFIX = "d/"

MAX_SEQ = (1 << 63) - 1
"""Commit keys hold MAX_SEQ - seq, so that the newest commit is the first of a listing."""
MAX_EPOCH = 10**10 - 1
"""Ten digits, the width of the epoch in a pack's key."""

_COMMIT = re.compile(r"c/([0-9]{20})")
_SEGMENT = re.compile(r"m/[0-9a-f]{32}")
_PACK = re.compile(r"p/([0-9]{10})-([0-9a-f]{32})")
_DAMAGE = re.compile(r"d/([0-9a-f]{64})-([0-9]{10}-[0-9a-f]{32})")
_PART_DAMAGE = re.compile(r"d/(m-[0-9a-f]{32}|c-[0-9]{20})")


def commit_key(seq: int) -> str:
    """Return the key of commit record `seq` (1 <= seq < 2^63)."""
    if not 1 <= seq <= MAX_SEQ:
        raise CorruptObjectError(f"a commit cannot have number {seq}")
    return f"{COMMIT_PREFIX}{MAX_SEQ - seq:020d}"


def commit_seq(key: str) -> int:
    """Return the seq in a commit record's key. Raises CorruptObjectError if it is no such key."""
    match = _COMMIT.fullmatch(key)
    seq = MAX_SEQ - int(match[1]) if match else 0
    if not 1 <= seq <= MAX_SEQ:
        raise CorruptObjectError(f"{key!r} is not the key of a commit record")
    return seq


def new_segment_key(epoch: int) -> str:
    """Return a key that no manifest segment ever had, for a writer of this epoch."""
    return f"{segments_since(epoch)}{secrets.token_hex(11)}"


def segments_since(epoch: int) -> str:
    """Return what the keys of segments of an epoch begin with; those of later epochs sort after it."""
    return f"{SEGMENT_PREFIX}{_digits(epoch)}"


def packs_since(epoch: int) -> str:
    """Return what the keys of packs of an epoch begin with; those of later epochs sort after it."""
    return f"{PACK_PREFIX}{_digits(epoch)}-"


def new_pack_key(epoch: int) -> str:
    """Return a key that no pack ever had, for a writer of this epoch."""
    return pack_key(epoch, secrets.token_bytes(16))


def pack_key(epoch: int, pack_id: bytes) -> str:
    """Return the key of the pack with a 16-byte id (FORMAT.md 4.5)."""
    if len(pack_id) != 16:
        raise CorruptObjectError(f"no pack can have the id {pack_id.hex()!r}")
    return f"{packs_since(epoch)}{pack_id.hex()}"


def split_pack_key(key: str) -> tuple[int, bytes]:
    """Return the epoch and the 16-byte id in a pack's key. Raises CorruptObjectError if it is no such key."""
    match = _PACK.fullmatch(key)
    if match is None:
        raise CorruptObjectError(f"{key!r} is not the key of a pack")
    return int(match[1]), bytes.fromhex(match[2])


def pack_epoch(key: str) -> int:
    """Return the writer's epoch in a pack's key. Raises CorruptObjectError if it is no such key."""
    return split_pack_key(key)[0]


def damage_key(digest: bytes, pack: str) -> str:
    """Return the key of the mark that says that a chunk is damaged in a pack (FORMAT.md 8)."""
    return f"{DAMAGE_PREFIX}{digest.hex()}-{pack.removeprefix(PACK_PREFIX)}"


def split_damage_key(key: str) -> tuple[bytes, str] | None:
    """Return the chunk's hash and the pack in a mark's key, None if it is no such key: a mark is a hint."""
    match = _DAMAGE.fullmatch(key)
    return (bytes.fromhex(match[1]), PACK_PREFIX + match[2]) if match else None


def part_damage_key(holder: str) -> str:
    """Return the key of the mark that says that manifest parts are damaged in a segment or commit record."""
    return DAMAGE_PREFIX + holder.replace("/", "-")


def split_part_damage_key(key: str) -> str | None:
    """Return the key of the segment or commit record in such a mark's key, None if it is none."""
    match = _PART_DAMAGE.fullmatch(key)
    return match[1].replace("-", "/") if match else None


def _digits(epoch: int) -> str:
    if not 0 <= epoch <= MAX_EPOCH:
        raise CorruptObjectError(f"no writer can have epoch {epoch}")
    return f"{epoch:010d}"


def is_segment_key(key: str) -> bool:
    """Tell whether a string is the key of a manifest segment."""
    return _SEGMENT.fullmatch(key) is not None


def is_pack_key(key: str) -> bool:
    """Tell whether a string is the key of a pack."""
    return _PACK.fullmatch(key) is not None
