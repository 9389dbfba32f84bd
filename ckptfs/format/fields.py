"""Typed fields of the JSON objects of the format.

Pure. A reader ignores keys that it does not know and trusts none that it does: every field is taken through a function
here, which raises CorruptObjectError and nothing else. `what` names the object in its message.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from ckptfs.errors import CorruptObjectError
from ckptfs.hashing import hash_bytes

MAX_INT = (1 << 63) - 1
"""No count, size, time or number of the format exceeds a signed 64-bit integer."""
MAX_DEPTH = 100
"""Nesting of a JSON object. Python's own parser gives up near 1,000, at a depth that depends on its caller."""

Range = tuple[int, int]
"""A closed range of version numbers."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_CHECK = b',"check":"'
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_Item = TypeVar("_Item")


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object from its UTF-8 text."""
    try:
        # decoded first: json.loads of bytes would also take UTF-16 and UTF-32
        body = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptObjectError(f"{what} is not JSON: {error}") from error
    if type(body) is not dict:
        raise CorruptObjectError(f"{what} is not a JSON object")
    check_json(body, what)
    return body


def dump_object(body: dict[str, Any], what: str) -> bytes:
    """Return a JSON object as ASCII text, which also keeps lone surrogates (undecodable host names and paths)."""
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptObjectError(f"{what} cannot be written as JSON: {error}") from error


def with_check(data: bytes) -> bytes:
    """Return the text of an object with one key more, the last: `check`, the hash of all bytes before it."""
    return _with_check_after(data.removesuffix(b"}"))


def verify_check(body: dict[str, Any], data: bytes, what: str) -> None:
    """Raise if an object's text is not what its check says; one that an older ckptfs wrote has none."""
    if "check" in body and data != _with_check_after(data.rpartition(_CHECK)[0]):
        raise CorruptObjectError(f"{what} does not match its check")


def _with_check_after(text: bytes) -> bytes:
    return text + _CHECK + hash_bytes(text).hex().encode() + b'"}'


def check_same(decoded: "DataclassInstance", value: "DataclassInstance", what: str) -> None:
    """Raise unless what was encoded reads back as the value: the one validation serves both directions."""
    if decoded != value:
        names = [item.name for item in fields(value) if getattr(decoded, item.name) != getattr(value, item.name)]
        raise CorruptObjectError(f"{what} would not read back as it is: {', '.join(names)}")


def check_json(value: object, what: str) -> None:
    """Raise unless a value is made of JSON's types, finite, with string keys, nested at most MAX_DEPTH deep."""
    level = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if depth == MAX_DEPTH and isinstance(item, dict | list):
                raise CorruptObjectError(f"{what} nests more than {MAX_DEPTH} deep")
            if isinstance(item, dict):
                if not all(type(key) is str for key in item):
                    raise CorruptObjectError(f"{what} has a JSON key that is no string")
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise CorruptObjectError(f"{what} has the number {item}, which JSON lacks")
            elif item is not None and not isinstance(item, str | int):
                raise CorruptObjectError(f"{what} has a {type(item).__name__}, which JSON lacks")
        level = below


def take_int(body: dict[str, Any], key: str, what: str, *, low: int = 0, high: int = MAX_INT) -> int:
    """Return an integer field in [low, high]."""
    return check_int(body.get(key), f"{what}: {key}", low=low, high=high)


def check_int(value: object, what: str, *, low: int = 0, high: int = MAX_INT) -> int:
    """Return an integer in [low, high]; JSON's true and false are none."""
    if type(value) is not int or not low <= value <= high:
        raise CorruptObjectError(f"{what} is {_shown(value)}, not an integer from {low} to {high}")
    return value


def take_text(body: dict[str, Any], key: str, what: str) -> str:
    """Return a string field."""
    value = body.get(key)
    if type(value) is not str:
        raise CorruptObjectError(f"{what}: {key} is {_shown(value)}, not a string")
    return value


def take_hex_id(body: dict[str, Any], key: str, what: str) -> str:
    """Return a field of 32 lower-case hex digits."""
    value = take_text(body, key, what)
    if _HEX_ID.fullmatch(value) is None:
        raise CorruptObjectError(f"{what}: {key} is {_shown(value)}, not 32 hex digits")
    return value


def take_list(body: dict[str, Any], key: str, what: str, item: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
    """Return a list field, each item as `item(value, what)` returns it."""
    value = body.get(key)
    if type(value) is not list:
        raise CorruptObjectError(f"{what}: {key} is {_shown(value)}, not a list")
    return tuple(item(each, f"{what}: {key}") for each in value)


def take_ranges(body: dict[str, Any], key: str, what: str) -> tuple[Range, ...]:
    """Return closed ranges of numbers from 1, ascending and disjoint."""
    ranges = take_list(body, key, what, _range)
    last = 0
    for low, high in ranges:
        if not last < low <= high:
            raise CorruptObjectError(f"{what}: {key} holds [{low}, {high}] after {last}: not ascending")
        last = high
    return ranges


def _range(value: object, what: str) -> Range:
    if type(value) is not list or len(value) != 2:
        raise CorruptObjectError(f"{what} holds {_shown(value)}, not a pair of integers")
    return check_int(value[0], what, low=1), check_int(value[1], what, low=1)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _shown(value: object) -> str:
    """A hostile value for a message, kept to a line: an integer may have a million digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
