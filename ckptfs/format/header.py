"""format.json: what a reader must understand to read a store.

Pure. Layout: docs/FORMAT.md section 2; change both in one commit.
"""

from dataclasses import dataclass

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.format.fields import (
    check_same,
    dump_object,
    load_object,
    take_hex_id,
    take_int,
    take_list,
    take_text,
    verify_check,
    with_check,
)

FORMAT_NAME = "ckptfs"
FORMAT_VERSION = 1
"""Of every object of a store, and of pending versions."""
ENCRYPTED = "encrypted-1"
"""Feature: every object but format.json is sealed (FORMAT.md 9)."""
KNOWN_FEATURES = frozenset({ENCRYPTED})

MAX_SMALL_BYTES = 64 << 10
"""Of format.json and of the lease: what a reader takes of them, some hundred bytes being usual."""

_WHAT = "format.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFormat:
    """The content of format.json (FORMAT.md 2)."""

    version: int = FORMAT_VERSION
    features: tuple[str, ...] = ()
    """What a reader must understand."""
    store_id: str
    """Random, 32 hex digits."""
    time_ns: int
    key_check: str = ""
    """32 hex digits, by which the right key is known; of an encrypted store only."""

    @property
    def is_encrypted(self) -> bool:
        """True if a key is needed."""
        return ENCRYPTED in self.features


def require_version(version: int, what: str) -> None:
    """Raise unless this ckptfs reads objects of a format version.

    Raises:
        UnsupportedFormatError: The version is above FORMAT_VERSION.
        CorruptObjectError: There never was such a version.
    """
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(f"{what} has format version {version}; this ckptfs reads up to {FORMAT_VERSION}")
    if version < 1:
        raise CorruptObjectError(f"{what} has format version {version}, which does not exist")


def encode_format(store_format: StoreFormat) -> bytes:
    """Return the bytes of format.json. The same value gives the same bytes."""
    body = {
        "format": FORMAT_NAME,
        "version": store_format.version,
        "features": list(store_format.features),
        "store_id": store_format.store_id,
        "time_ns": store_format.time_ns,
    }
    if store_format.is_encrypted:
        body["key_check"] = store_format.key_check
    data = with_check(dump_object(body, _WHAT))
    check_same(decode_format(data), store_format, _WHAT)
    return data


def decode_format(data: bytes) -> StoreFormat:
    """Return the value of format.json.

    Raises:
        UnsupportedFormatError: A newer ckptfs wrote the store, or it needs a feature that this one lacks.
        CorruptObjectError: It is not the format.json of a ckptfs store.
    """
    body = load_object(data, _WHAT)
    if body.get("format") != FORMAT_NAME:
        raise CorruptObjectError(f"{_WHAT} is not that of a ckptfs store")
    # version and features first: the rest may mean something else to a newer ckptfs
    version = take_int(body, "version", _WHAT)
    require_version(version, _WHAT)
    features = take_list(body, "features", _WHAT, _feature)
    unknown = sorted(set(features) - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedFormatError(f"the store needs features that this ckptfs lacks: {', '.join(unknown)[:200]}")
    verify_check(body, data, _WHAT)
    return StoreFormat(
        version=version,
        features=features,
        store_id=take_hex_id(body, "store_id", _WHAT),
        time_ns=take_int(body, "time_ns", _WHAT),
        key_check=take_hex_id(body, "key_check", _WHAT) if ENCRYPTED in features else "",
    )


def _feature(value: object, what: str) -> str:
    return take_text({"feature": value}, "feature", what)
