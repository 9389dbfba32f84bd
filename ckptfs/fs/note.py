"""The note of a version: what the text written to the save marker means."""

import json
import math
import re
from typing import Any

from ckptfs.errors import CorruptObjectError
from ckptfs.format.note import Note, check_note

_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(\S*)")


def parse_note(text: bytes) -> Note:
    """Return a JSON object or `key=value` words as a dict, any other text as a message, and no text as None.

    Values of `key=value` are numbers, booleans or null where they read as JSON ones, else strings. NaN and infinities,
    which JSON has not but training has, become strings. Bytes that are not UTF-8 are kept visibly (backslash escapes).
    """
    message = text.decode("utf-8", "backslashreplace").strip().strip("\0")
    if not message:
        return None
    note = _metadata(message)
    try:
        json.dumps(note, ensure_ascii=False).encode()
        return check_note(note, "the note")
    except (CorruptObjectError, UnicodeEncodeError, RecursionError):
        # nested deeper, or with larger numbers, than a commit record holds; or no text: half of a surrogate pair
        return message


def _metadata(message: str) -> Note:
    if message.startswith("{"):
        value = _load(message)
        return value if isinstance(value, dict) else message
    words = [_WORD.fullmatch(word) for word in message.split()]
    if not all(words):
        return message
    return {match[1]: _scalar(match[2]) for match in words if match}


def _scalar(text: str) -> Any:
    value = _load(text)
    return text if isinstance(value, (dict, list)) or (value is None and text != "null") else value


def _load(text: str) -> Any:
    """Return a JSON value; None if it is none."""
    try:
        return json.loads(text, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text
