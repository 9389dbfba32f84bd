"""Reading the manifest of one version: fetching its parts, checking them, merging them (FORMAT.md 3.1)."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ckptfs.codec.zstd import decompress
from ckptfs.errors import CorruptObjectError, NotFoundError, UnsupportedFormatError
from ckptfs.format.commit import CommitRecord, PartRef
from ckptfs.format.keys import commit_key
from ckptfs.format.manifest import Part
from ckptfs.format.part import decode_part
from ckptfs.hashing import hash_bytes
from ckptfs.store.base import Store
from ckptfs.versions.decoded import read_decoded
from ckptfs.versions.naming import naming

_WORKERS = 8
"""Parts fetched at once. A manifest of 1 TB in 4 MiB chunks has 2 segments; one of a million files about 20."""

InlineBytes = Callable[[int], bytes]
"""Returns the inline bytes of the record of a seq."""


def load_parts(
    store: Store, record: CommitRecord, inline_bytes: InlineBytes, known: Mapping[bytes, Part]
) -> list[Part]:
    """Return the parts of a save record in order, each hashed and decoded.

    One GET for each part that is neither known nor in a record at hand.

    Args:
        inline_bytes: Returns those of a record.
        known: Parts at hand, by the hash of their stored bytes.

    Raises:
        CorruptObjectError: A part is missing, is not what its hash says, or does not decode; names its object.
    """

    def load(ref: PartRef) -> Part:
        if (part := known.get(ref.digest)) is not None:
            return part
        if ref.at == "segment":
            try:
                return read_decoded(store, ref.key, lambda stored: _decode(ref, stored), most_bytes=ref.stored_bytes)
            except NotFoundError as error:
                raise CorruptObjectError(f"{ref.key} is missing; commit {record.seq} names it") from error
        holder = _holder(record, ref)
        inline = inline_bytes(holder)
        with naming(commit_key(holder)):
            return _decode(ref, inline[ref.offset : ref.offset + ref.stored_bytes])

    if len(record.parts) <= 1:
        return [load(ref) for ref in record.parts]
    with ThreadPoolExecutor(min(_WORKERS, len(record.parts)), thread_name_prefix="manifest") as executor:
        return list(executor.map(load, record.parts))


def holders(record: CommitRecord) -> set[str]:
    """Return the keys of the objects in which the parts of a save record are."""
    return {_holder_key(record, ref) for ref in record.parts}


def damaged_holders(store: Store, record: CommitRecord, inline_bytes: InlineBytes) -> set[str]:
    """Return the keys of those in which a part cannot be read. Arguments as of load_parts.

    Raises:
        StoreError: The store cannot be asked.
    """

    def is_damaged(ref: PartRef) -> bool:
        try:
            load_parts(store, replace(record, parts=(ref,)), inline_bytes, {})
        except (CorruptObjectError, UnsupportedFormatError):
            return True
        return False

    return {_holder_key(record, ref) for ref in record.parts if is_damaged(ref)}


def _holder_key(record: CommitRecord, ref: PartRef) -> str:
    return ref.key if ref.at == "segment" else commit_key(_holder(record, ref))


def _holder(record: CommitRecord, ref: PartRef) -> int:
    """Return the seq of the record whose inline bytes hold a part that is no segment."""
    return record.seq if ref.at == "inline" else ref.seq


def _decode(ref: PartRef, stored: bytes) -> Part:
    if len(stored) != ref.stored_bytes:
        raise CorruptObjectError(f"a manifest part has {len(stored)} bytes, expected {ref.stored_bytes}")
    digest = hash_bytes(stored)
    if digest != ref.digest:
        raise CorruptObjectError(f"a manifest part hashes to {digest.hex()}, expected {ref.digest.hex()}")
    # hashed first: the decompressor sees only bytes that a ckptfs wrote, and never makes more than was promised
    raw = decompress(stored, max_bytes=ref.raw_bytes)
    if len(raw) != ref.raw_bytes:
        raise CorruptObjectError(f"a manifest part has {len(raw)} bytes raw, expected {ref.raw_bytes}")
    part = decode_part(raw)
    if (len(part.entries), len(part.tombstones)) != (ref.entries, ref.tombstones):
        raise CorruptObjectError(
            f"a manifest part has {len(part.entries)} entries and {len(part.tombstones)} tombstones, "
            f"expected {ref.entries} and {ref.tombstones}"
        )
    return part
