"""What commands print on stdout: JSON documents for programs, tables for people."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def print_json(document: Any) -> None:
    """Print one JSON document. Bytes of paths that are no UTF-8 appear as lone surrogates."""
    click.echo(json.dumps(document, indent=2))


def rfc3339(time_ns: int) -> str:
    """Return a time for programs: `2026-11-23T21:24:28.123456Z`."""
    time = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def local_time(time_ns: int) -> str:
    """Return a time for people, in their time zone: `2026-11-23 21:24:28`."""
    time = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str | bytes) -> str:
    """Return text that cannot steer a terminal: whatever is not printable becomes an escape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def note_text(note: Any) -> str:
    """Return a note on one line: metadata as `key=value` words, a message as it is."""
    if note is None:
        return ""
    if isinstance(note, dict):
        return printable(" ".join(f"{key}={_scalar(value)}" for key, value in note.items()))
    return printable(" ".join(str(note).split()))


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns.

    Args:
        header: n column titles.
        rows: Each n cells, of printable text.
        right: Columns aligned to the right.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
