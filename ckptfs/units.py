"""Sizes and durations as people write and read them."""

import re

_SIZE_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION_SUFFIXES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Return the bytes meant by `10G`, `512 MiB`, `1.5g` or a bare number (binary multiples).

    Raises:
        ValueError: It is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size (examples: 512M, 20GiB)")
    return int(float(match[1]) * _SIZE_SUFFIXES[match[2]])


def parse_duration(text: str) -> float:
    """Return the seconds meant by `30`, `30s`, `500ms`, `5m`, `2h` or `1d`.

    Raises:
        ValueError: It is not a duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a duration (examples: 30s, 5m)")
    return float(match[1]) * _DURATION_SUFFIXES[match[2]]


def format_size(size_bytes: int) -> str:
    """Return a size for people: three digits and a binary unit (`1.50 GiB`, `712 B`)."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        # 999.5 would round to the four digits 1000
        if value < 999.5 or unit == "PiB":
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
