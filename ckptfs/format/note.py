"""Notes: what a person or a program says about a version.

Pure. Part of commit records and pending versions: docs/FORMAT.md section 3.
"""

from typing import Any

from ckptfs.errors import CorruptObjectError
from ckptfs.format.fields import check_json

Note = dict[str, Any] | str | None
"""Metadata (a JSON object), a message, or nothing. JSON has no NaN and no infinity."""


def check_note(note: object, what: str) -> Note:
    """Return a value that is a note. Raises CorruptObjectError if it is none."""
    if note is None or isinstance(note, str):
        return note
    if not isinstance(note, dict):
        raise CorruptObjectError(f"{what}: note is a {type(note).__name__}, not an object, a string or null")
    check_json(note, f"{what}: note")
    return note
