"""The names under which things are made in a directory before they get their own, and how a later run knows them.

    .ckptfs-<8 hex digits>-<number>.tmp

The digits are those of a run, or, of a file that is worth going on with, those of what it is to become.
"""

import re

from ckptfs.format.manifest import Chunk, Entry
from ckptfs.hashing import hash_bytes

PREFIX = b".ckptfs-"
_TOKEN_BYTES = 4
_NAME = re.compile(rb"\.ckptfs-([0-9a-f]{8})-[0-9]+\.tmp")


def temporary_name(token: bytes, number: int) -> bytes:
    """Return a name, given 8 hex digits and a number that this run has not used."""
    return PREFIX + b"%s-%d.tmp" % (token, number)


def token_of(name: bytes) -> bytes | None:
    """Return the 8 hex digits of a temporary name, None of any other."""
    found = _NAME.fullmatch(name) if name.startswith(PREFIX) else None
    return found[1] if found is not None else None


def content_token(entry: Entry) -> bytes:
    """Return the digits of a file that is to become an entry's: the same for the same name and content."""
    chunks = b"".join(extent.hash for extent in entry.extents if isinstance(extent, Chunk))
    return hash_bytes(entry.path.rpartition(b"/")[2] + b"\0" + chunks)[:_TOKEN_BYTES].hex().encode()
