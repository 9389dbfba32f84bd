"""The note of a version: what the text written to the save marker means."""

import json
import re
from typing import Any

from ckptfs.format.pending import Note

_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(\S*)")


def parse_note(text: bytes) -> Note:
    """Return a JSON object or `key=value` words as a dict, any other text as a message, and no text as None.

    Values of `key=value` are numbers, booleans or null where they read as JSON ones, else strings. Bytes that are not UTF-8 are kept
    visibly (backslash escapes).
    """
    message = text.decode("utf-8", "backslashreplace").strip().strip("\0")
    if not message:
        return None
    if message.startswith("{"):
        try:
            value = json.loads(message, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return message
        return value if isinstance(value, dict) else message
    words = [_WORD.fullmatch(word) for word in message.split()]
    if all(words):
        return {match[1]: _scalar(match[2]) for match in words if match}
    return message


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, (dict, list)) else value


def _refuse(constant: str) -> None:
    # NaN and Infinity are not JSON: another language could not read them back
    raise ValueError(constant)
