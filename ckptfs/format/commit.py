"""Commit records: the history of a store, one object each, as values; creating one is the only commit point.

Pure. Layout of the bytes: docs/FORMAT.md section 3, coded in format/commit_bytes.py; change both in one commit.

Invariants that one record shows (C1 to C4 there hold between records):
    R1  parent is seq - 1; head, tags and gc are not above seq, and are seq exactly where the record is of that kind
    R2  a record holds no fields of another kind
    R3  the inline parts, in order, are the inline bytes, and each hashes to what its description says
    R4  what a reader takes up is bounded: no more versions than records, no part twice, and of all together no more
        than MAX_PART_BYTES
    R5  a save that revived packs is the newest one that did, and the other way round; pins are of versions there are,
        and none is over
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from ckptfs.format.fields import Range
from ckptfs.format.note import Note

MAX_RECORD_BYTES = 16 << 20
MAX_PART_BYTES = 1 << 30
"""Raw, of one manifest part, and of all of a version together."""

_TAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class CommitKind(StrEnum):
    """What a commit record does to history."""

    SAVE = "save"
    """Makes a version."""
    FENCE = "fence"
    """Shuts every earlier writer out."""
    TAG = "tag"
    """Names versions."""
    GC = "gc"
    """Drops versions and condemns the objects that only they needed."""


PartPlace = Literal["inline", "commit", "segment"]


@dataclass(frozen=True, slots=True)
class PartRef:
    """Where one stored manifest part of a version is (FORMAT.md 3.1)."""

    at: PartPlace
    """In this record's inline bytes, in those of record `seq`, or the whole object `key`."""
    offset: int
    stored_bytes: int
    raw_bytes: int
    entries: int
    tombstones: int
    digest: bytes
    """Hash of the stored bytes."""
    seq: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """One commit record (FORMAT.md 3)."""

    seq: int
    parent: int
    epoch: int
    commit_id: str
    """32 hex digits, chosen before the first attempt to create: tells one's own record from another's."""
    kind: CommitKind
    time_ns: int
    host: str
    pid: int
    version: int
    """The newest version as of this record, 0 if none; a save makes this one."""
    head: int
    """Seq of the save that made `version`, 0 if none."""
    tags: int = 0
    """Seq of the newest tag record, 0 if none."""
    gc: int = 0
    """Seq of the newest gc record, 0 if none."""
    gaps: tuple[Range, ...] = ()
    """Version numbers that were given out and can never be committed."""
    revival: int | None = None
    """Seq of the newest save whose version took packs up again that the version before did not need, 0 if none. None:
    its writer did not say; any version up to this record may have."""
    pins: tuple[Range, ...] = ()
    """[version, base]: a live tree has been restored to a version, on top of a base. The version is not to be dropped
    until there is one above the base."""
    previous: bytes = b""
    """In an encrypted store, the digest of the record before this one, zeros of the first; else empty."""
    digest: bytes = field(default=b"", compare=False, repr=False)
    """The hash that ends the record, where its bytes have been seen; no field of it."""

    captured_ns: int = 0
    note: Note = None
    files: int = 0
    bytes: int = 0
    bytes_added: int = 0
    torn: int = 0
    parts: tuple[PartRef, ...] = ()
    revived: tuple[str, ...] | None = None
    """Keys of the packs that were taken up again, from an older version than the one before. None: not said."""

    tag_map: dict[str, int] = field(default_factory=dict)
    """Every tag and its version."""

    condemned: tuple[str, ...] = ()
    """Keys of packs and segments that no later commit may name."""
    dropped: tuple[Range, ...] = ()
    """All versions dropped so far."""
    swept: int = 0
    """Orphans of all epochs up to this one have been condemned."""


def is_tag_name(name: str) -> bool:
    """Tell whether a string can name a version: no number, not `latest`, and safe as a file name."""
    return _TAG_NAME.fullmatch(name) is not None and not name.isdigit() and name != "latest"
