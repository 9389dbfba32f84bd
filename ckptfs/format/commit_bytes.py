"""Commit records as bytes: encoded, and decoded only if they show what a record must.

Pure. Layout: docs/FORMAT.md section 3; change both in one commit. R1 to R5 are in commit.py.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import (
    MAX_PART_BYTES,
    MAX_RECORD_BYTES,
    CommitKind,
    CommitRecord,
    PartPlace,
    PartRef,
    is_tag_name,
)
from ckptfs.format.fields import (
    Range,
    check_int,
    check_same,
    dump_object,
    load_object,
    take_hex_id,
    take_int,
    take_list,
    take_ranges,
    take_text,
)
from ckptfs.format.header import FORMAT_VERSION, require_version
from ckptfs.format.keys import MAX_EPOCH, is_pack_key, is_segment_key
from ckptfs.format.note import check_note
from ckptfs.hashing import HASH_BYTES, hash_bytes

_MAGIC = b"ckptfsC1"
_HEADER = struct.Struct("<8sHHII")
"""magic, format version, reserved, body_bytes, inline_bytes"""
_HASH = re.compile(r"[0-9a-f]{64}")

_COMMON = (
    "seq",
    "parent",
    "epoch",
    "commit_id",
    "kind",
    "time_ns",
    "host",
    "pid",
    "version",
    "head",
    "tags",
    "gc",
    "gaps",
)
_ADDED = {
    CommitKind.SAVE: ("captured_ns", "note", "files", "bytes", "bytes_added", "torn"),
    CommitKind.FENCE: (),
    CommitKind.TAG: ("tag_map",),
    CommitKind.GC: ("condemned", "dropped"),
}
"""Fields that are written as they are; a save's parts are not."""
_OPTIONAL: dict[str, object] = {"revival": None, "pins": ()}
_OPTIONAL_OF_KIND: dict[CommitKind, dict[str, object]] = {
    CommitKind.SAVE: {"revived": None},
    CommitKind.GC: {"swept": 0},
}
"""Fields that records of older writers lack, and what is then so."""


def encode_commit(record: CommitRecord, inline: bytes = b"") -> bytes:
    """Return the bytes of a commit record.

    Args:
        record: Its value.
        inline: The stored bytes of its inline parts, one after another.

    Raises:
        CorruptObjectError: A reader would refuse the record, or read another one.
    """
    what = f"commit record {record.seq}"
    body: dict[str, Any] = {name: getattr(record, name) for name in _COMMON + _ADDED[record.kind]}
    optional = _OPTIONAL | (_OPTIONAL_OF_KIND.get(record.kind) or {})
    body |= {name: value for name, unsaid in optional.items() if (value := getattr(record, name)) != unsaid}
    if record.kind is CommitKind.SAVE:
        body["parts"] = [_part_body(part) for part in record.parts]
    if record.previous:
        body["previous"] = record.previous.hex()
    text = dump_object(body, what)
    if len(text) + len(inline) > MAX_RECORD_BYTES:
        raise CorruptObjectError(f"{what} would have {len(text) + len(inline)} bytes, above {MAX_RECORD_BYTES}")
    hashed = b"".join((_HEADER.pack(_MAGIC, FORMAT_VERSION, 0, len(text), len(inline)), text, inline))
    data = hashed + hash_bytes(hashed)
    check_same(decode_commit(data, seq=record.seq)[0], record, what)
    return data


def decode_commit(data: bytes, *, seq: int) -> tuple[CommitRecord, bytes]:
    """Return a commit record and its inline bytes.

    Args:
        data: The whole object.
        seq: The number in its key.

    Raises:
        UnsupportedFormatError: A newer ckptfs wrote it.
        CorruptObjectError: The bytes are not commit record `seq`.
    """
    what = f"commit record {seq}"
    body_data, inline = _split(data, what)
    body = load_object(body_data, what)
    return replace(_record(body, seq, inline, what), digest=commit_digest(data)), inline


def commit_digest(data: bytes) -> bytes:
    """Return what the next record of an encrypted store names this one by: the hash that ends it."""
    return data[-HASH_BYTES:]


def _split(data: bytes, what: str) -> tuple[bytes, bytes]:
    if not _HEADER.size + HASH_BYTES <= len(data) <= MAX_RECORD_BYTES:
        raise CorruptObjectError(f"{what} has {len(data)} bytes")
    magic, version, _, body_bytes, inline_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptObjectError(f"{what} begins with {magic!r}, not {_MAGIC!r}")
    # the hash before the version: a flipped bit is damage, not a newer format
    end = len(data) - HASH_BYTES
    if hash_bytes(memoryview(data)[:end]) != data[end:]:
        raise CorruptObjectError(f"{what} does not hash to what it says")
    require_version(version, what)
    inline_start = _HEADER.size + body_bytes
    if inline_start + inline_bytes != end:
        raise CorruptObjectError(f"{what} has {end} bytes of content, not {inline_start + inline_bytes}")
    return data[_HEADER.size : inline_start], data[inline_start:end]


def _record(body: dict[str, Any], seq: int, inline: bytes, what: str) -> CommitRecord:
    if take_int(body, "seq", what) != seq or take_int(body, "parent", what) != seq - 1:
        raise CorruptObjectError(f"{what} says seq {body['seq']} and parent {body.get('parent')}")
    kind = _kind(body, what)
    if kind is not CommitKind.SAVE and inline:
        raise CorruptObjectError(f"{what} is no save, but has inline parts")
    version = take_int(body, "version", what)
    record = CommitRecord(
        seq=seq,
        parent=seq - 1,
        # each fence is a record of its own, so that there are at most as many fences as records
        epoch=take_int(body, "epoch", what, low=int(kind is CommitKind.FENCE), high=min(seq, MAX_EPOCH)),
        commit_id=take_hex_id(body, "commit_id", what),
        kind=kind,
        time_ns=take_int(body, "time_ns", what),
        host=take_text(body, "host", what),
        pid=take_int(body, "pid", what),
        version=version,
        head=_newest(body, "head", seq, kind is CommitKind.SAVE, what),
        tags=_newest(body, "tags", seq, kind is CommitKind.TAG, what),
        gc=_newest(body, "gc", seq, kind is CommitKind.GC, what),
        gaps=take_ranges(body, "gaps", what),
        revival=take_int(body, "revival", what, high=seq) if "revival" in body else None,
        pins=take_list(body, "pins", what, _pin(version)) if "pins" in body else (),
        previous=_hash(body, "previous", what) if "previous" in body else b"",
        **_added(body, kind, seq, version, inline, what),
    )
    if (record.version == 0) != (record.head == 0):
        raise CorruptObjectError(f"{what} has newest version {record.version} made by record {record.head}")
    if (record.revival == seq) != bool(record.revived):
        raise CorruptObjectError(f"{what} has revival {record.revival}, and revived {len(record.revived or ())} packs")
    if record.version - sum(high - low + 1 for low, high in record.gaps if high < record.version) > seq:
        raise CorruptObjectError(f"{what} has newest version {record.version}: more than there are records")
    if any(low <= record.version <= high for low, high in record.gaps):
        raise CorruptObjectError(f"{what} has version {record.version}, which its gaps exclude")
    return record


def _hash(body: dict[str, Any], key: str, what: str) -> bytes:
    text = take_text(body, key, what)
    if _HASH.fullmatch(text) is None:
        raise CorruptObjectError(f"{what}: {key} is {text[:80]!r}, and no hash")
    return bytes.fromhex(text)


def _kind(body: dict[str, Any], what: str) -> CommitKind:
    text = take_text(body, "kind", what)
    try:
        return CommitKind(text)
    except ValueError as error:
        raise CorruptObjectError(f"{what} has kind {text[:80]!r}") from error


def _newest(body: dict[str, Any], key: str, seq: int, is_this: bool, what: str) -> int:
    """The seq of the newest record of a kind (R1)."""
    return take_int(body, key, what, low=seq if is_this else 0, high=seq if is_this else seq - 1)


def _added(body: dict[str, Any], kind: CommitKind, seq: int, version: int, inline: bytes, what: str) -> dict[str, Any]:
    """The fields that only records of this kind have."""
    if kind is CommitKind.SAVE:
        return {
            "captured_ns": take_int(body, "captured_ns", what),
            "note": check_note(body.get("note"), what),
            "files": take_int(body, "files", what),
            "bytes": take_int(body, "bytes", what),
            "bytes_added": take_int(body, "bytes_added", what),
            "torn": take_int(body, "torn", what),
            "parts": _parts(body, seq, inline, what),
            "revived": take_list(body, "revived", what, _pack_key) if "revived" in body else None,
        }
    if kind is CommitKind.TAG:
        return {"tag_map": _tag_map(body, version, what)}
    if kind is CommitKind.GC:
        dropped = take_ranges(body, "dropped", what)
        if dropped and dropped[-1][1] > version:
            raise CorruptObjectError(f"{what} drops version {dropped[-1][1]}, and the newest is {version}")
        return {
            "condemned": take_list(body, "condemned", what, _condemned_key),
            "dropped": dropped,
            "swept": take_int(body, "swept", what, high=MAX_EPOCH) if "swept" in body else 0,
        }
    return {}


def _tag_map(body: dict[str, Any], version: int, what: str) -> dict[str, int]:
    tag_map = body.get("tag_map")
    if type(tag_map) is not dict:
        raise CorruptObjectError(f"{what}: tag_map is not an object")
    for name, tagged in tag_map.items():
        # names become file names of `.versions/`
        if not is_tag_name(name):
            raise CorruptObjectError(f"{what}: {name[:120]!r} cannot be a tag")
        check_int(tagged, f"{what}: tag {name}", low=1, high=version)
    return tag_map


def _pin(newest: int) -> Callable[[object, str], Range]:
    def take(value: object, what: str) -> Range:
        if type(value) is not list or len(value) != 2:
            raise CorruptObjectError(f"{what} holds something other than pairs of versions")
        return check_int(value[0], what, low=1, high=newest), check_int(value[1], what, low=newest)

    return take


def _pack_key(value: object, what: str) -> str:
    if type(value) is not str or not is_pack_key(value):
        raise CorruptObjectError(f"{what} holds something other than keys of packs")
    return value


def _condemned_key(value: object, what: str) -> str:
    # whatever is named here is deleted: never a commit record
    if type(value) is not str or not (is_pack_key(value) or is_segment_key(value)):
        raise CorruptObjectError(f"{what} holds something other than keys of packs and segments")
    return value


def _part_body(part: PartRef) -> dict[str, Any]:
    body: dict[str, Any] = {"at": part.at}
    if part.at == "commit":
        body["seq"] = part.seq
    if part.at == "segment":
        body["key"] = part.key
    for name in ("offset", "stored_bytes", "raw_bytes", "entries", "tombstones"):
        body[name] = getattr(part, name)
    body["hash"] = part.digest.hex()
    return body


def _parts(body: dict[str, Any], seq: int, inline: bytes, what: str) -> tuple[PartRef, ...]:
    parts = take_list(body, "parts", what, _part(seq))
    if parts and parts[0].tombstones:
        raise CorruptObjectError(f"{what}: the first part has tombstones, and nothing to remove")
    if sum(part.raw_bytes for part in parts) > MAX_PART_BYTES:
        raise CorruptObjectError(f"{what} has a manifest of more than {MAX_PART_BYTES} bytes")
    if len({(part.at, part.seq, part.key, part.offset) for part in parts}) < len(parts):
        raise CorruptObjectError(f"{what} has one part twice")
    position = 0
    for part in parts:
        if part.at != "inline":
            continue
        stored = memoryview(inline)[position : position + part.stored_bytes]
        if part.offset != position or len(stored) != part.stored_bytes or hash_bytes(stored) != part.digest:
            raise CorruptObjectError(f"{what}: the inline part at {position} is not the one described")
        position += part.stored_bytes
    if position != len(inline):
        raise CorruptObjectError(f"{what} has {len(inline)} inline bytes, and {position} in its parts")
    return parts


def _part(own_seq: int) -> Callable[[object, str], PartRef]:
    def take(value: object, what: str) -> PartRef:
        if type(value) is not dict:
            raise CorruptObjectError(f"{what} holds something other than an object")
        at: PartPlace | None = next((place for place in get_args(PartPlace) if place == value.get("at")), None)
        if at is None:
            raise CorruptObjectError(f"{what} names a place that does not exist")
        key = take_text(value, "key", what) if at == "segment" else ""
        if at == "segment" and not is_segment_key(key):
            raise CorruptObjectError(f"{what} holds {key[:80]!r}, which is no segment's key")
        return PartRef(
            at=at,
            offset=take_int(value, "offset", what, high=0 if at == "segment" else MAX_RECORD_BYTES),
            stored_bytes=take_int(value, "stored_bytes", what, low=1, high=MAX_PART_BYTES),
            raw_bytes=take_int(value, "raw_bytes", what, low=1, high=MAX_PART_BYTES),
            entries=take_int(value, "entries", what),
            tombstones=take_int(value, "tombstones", what),
            digest=_hash(value, "hash", what),
            seq=take_int(value, "seq", what, low=1, high=own_seq - 1) if at == "commit" else 0,
            key=key,
        )

    return take
