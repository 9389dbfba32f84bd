"""version.json: what a pending version, captured and not yet in the store, is about.

Pure. Layout: docs/FORMAT.md section 7; change both in one commit.
"""

from dataclasses import dataclass

from ckptfs.format.fields import check_same, dump_object, load_object, take_hex_id, take_int, take_text
from ckptfs.format.header import FORMAT_VERSION, require_version
from ckptfs.format.note import Note, check_note

_WHAT = "the pending version's version.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingHeader:
    """The content of version.json (FORMAT.md 7)."""

    version: int
    """The number that the version will have in history."""
    commit_id: str
    """32 hex digits, chosen at capture: however often the upload starts over, it commits once."""
    captured_ns: int
    note: Note = None
    files: int
    """Regular files of the whole version."""
    bytes: int
    """The sum of their sizes."""
    boot: str
    """Boot id of the machine at capture."""


def encode_pending(header: PendingHeader) -> bytes:
    """Return the bytes of version.json."""
    names = ("version", "commit_id", "captured_ns", "note", "files", "bytes", "boot")
    data = dump_object({"format": FORMAT_VERSION} | {name: getattr(header, name) for name in names}, _WHAT)
    check_same(decode_pending(data), header, _WHAT)
    return data


def decode_pending(data: bytes) -> PendingHeader:
    """Return the value of version.json.

    Raises:
        UnsupportedFormatError: A newer ckptfs wrote it.
        CorruptObjectError: It is no version.json.
    """
    body = load_object(data, _WHAT)
    require_version(take_int(body, "format", _WHAT), _WHAT)
    return PendingHeader(
        version=take_int(body, "version", _WHAT, low=1),
        commit_id=take_hex_id(body, "commit_id", _WHAT),
        captured_ns=take_int(body, "captured_ns", _WHAT),
        note=check_note(body.get("note"), _WHAT),
        files=take_int(body, "files", _WHAT),
        bytes=take_int(body, "bytes", _WHAT),
        boot=take_text(body, "boot", _WHAT),
    )
