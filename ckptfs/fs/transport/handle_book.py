"""The open files that the kernel knows, as far as a server that takes over must know them.

Kept by the server beside its own handles, and written into the ledger; replaying the ledger makes the book again.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ckptfs.fs.transport.ledger import Record

_NUMBERS_OF_A_SERVER = 1 << 40


class OpenKind(StrEnum):
    """What an open file is."""

    FILE = "file"
    """Of the live tree."""
    VIEW = "view"
    """Of a version."""
    CONTROL = "control"


@dataclass(slots=True)
class OpenRecord:
    """One open file."""

    node: int
    kind: str
    flags: int
    ino: int
    """Of the backing file; 0 for a control file."""
    backing_id: int
    """0: mediated."""
    unique: int
    """The request that opened it; should the kernel send that again, nobody ever learned of the handle."""
    process: int = 0
    """Of a control file: who opened it."""
    began_ns: int = 0
    shown: bytes = b""
    """Of a control file: what reading it gives."""
    text: bytearray = field(default_factory=bytearray)
    """Of a control file: what was written to it."""
    captures: int = 0
    """Of the save marker: how often this touch has captured."""
    captured: bytes | None = None
    """The text that was captured last."""


class HandleBook:
    """All open files of one connection. Thread-safe.

    Args:
        note: Writes a record into the ledger.
    """

    def __init__(self, note: Callable[[Record], None] = lambda record: None) -> None:
        self.note = note
        self.lock = threading.RLock()
        """Held while the book changes; whoever rewrites the ledger holds it too."""
        self.handles: dict[int, OpenRecord] = {}
        self.intents: dict[int, tuple[int, ...]] = {}
        """Request to what tells, when it comes again, whether it was done (resent.py)."""
        self.first_number = 1
        """From which on the present server numbers what is opened."""
        self.mapped: dict[int, bytes] = {}
        """Inodes that a mapping may change although no handle is open, and a name of each at that time."""

    def opened(self, number: int, record: OpenRecord) -> None:
        """A file is being opened; the kernel does not know yet."""
        with self.lock:
            self.note(("open", number, *_fields(record)))
            self.handles[number] = record

    def renumber(self) -> int:
        """Return the first number for this server: none may come again, and open directories are not written down."""
        with self.lock:
            self.first_number += _NUMBERS_OF_A_SERVER
            self.note(("first", self.first_number))
            return self.first_number

    def closed(self, number: int) -> None:
        """The kernel has closed a file; what it holds may be given back."""
        with self.lock:
            self.note(("close", number))
            self.handles.pop(number, None)

    def wrote(self, number: int, offset_bytes: int, data: bytes) -> None:
        """A control file was written to; an offset of -1 means at its end."""
        with self.lock:
            self.note(("wrote", number, offset_bytes, data))
            self._write(number, offset_bytes, data)

    def resized(self, number: int, size_bytes: int) -> None:
        """A control file was truncated."""
        with self.lock:
            self.note(("resized", number, size_bytes))
            self._resize(number, size_bytes)

    def captured(self, number: int, shown: bytes) -> None:
        """A version was captured with what has been written to a control file so far; reading it gives `shown` now."""
        with self.lock:
            text = bytes(self.handles[number].text)
            self._captured(number, self.handles[number].captures + 1, text, shown)
            self.note(("captured", number, self.handles[number].captures, text, shown))

    def intends(self, unique: int, *values: int) -> None:
        """A request that must not be done twice is about to be done."""
        with self.lock:
            self.note(("intends", unique, *values))
            self.intents[unique] = values

    def answered(self, unique: int) -> None:
        """It will not come again. Not written down: the kernel knows."""
        self.intents.pop(unique, None)

    def may_be_mapped(self, ino: int, path: bytes) -> None:
        """A file may be changed through a mapping from now on."""
        with self.lock:
            if ino not in self.mapped:
                self.note(("mapped", ino, path))
                self.mapped[ino] = path

    def records(self) -> list[Record]:
        """Return records that make this book."""
        with self.lock:
            rows: list[Record] = [("open", number, *_fields(record)) for number, record in self.handles.items()]
            rows += [("wrote", number, 0, bytes(record.text)) for number, record in self.handles.items() if record.text]
            rows += [
                ("captured", number, record.captures, record.captured, record.shown)
                for number, record in self.handles.items()
                if record.captured is not None
            ]
            rows += [("intends", unique, *values) for unique, values in self.intents.items()]
            rows += [("mapped", ino, path) for ino, path in self.mapped.items()]
            return [*rows, ("first", self.first_number)]

    def replay(self, record: Record) -> bool:
        """Do again what a record says; return False if it is not about open files."""
        kind, *rest = record
        match kind, rest:
            case "open", (number, *fields):
                self.handles[number] = OpenRecord(*fields)
            case "close", (number,):
                self.handles.pop(number, None)
            case "wrote", (number, offset_bytes, data):
                self._write(number, offset_bytes, data)
            case "resized", (number, size_bytes):
                self._resize(number, size_bytes)
            case "captured", (number, captures, text, shown):
                self._captured(number, captures, text, shown)
            case "intends", (unique, *values):
                self.intents[unique] = tuple(values)
            case "first", (number,):
                self.first_number = number
            case "mapped", (ino, path):
                self.mapped[ino] = path
            case _:
                return False
        return True

    def _captured(self, number: int, captures: int, text: bytes, shown: bytes) -> None:
        record = self.handles[number]
        record.captures, record.captured, record.shown = captures, text, shown

    def _write(self, number: int, offset_bytes: int, data: bytes) -> None:
        text = self.handles[number].text
        start = len(text) if offset_bytes < 0 else offset_bytes
        text.extend(bytes(max(0, start - len(text))))
        text[start : start + len(data)] = data

    def _resize(self, number: int, size_bytes: int) -> None:
        text = self.handles[number].text
        del text[size_bytes:]
        text.extend(bytes(size_bytes - len(text)))


def _fields(record: OpenRecord) -> tuple[int | str | bytes, ...]:
    return (
        record.node,
        str(record.kind),
        record.flags,
        record.ino,
        record.backing_id,
        record.unique,
        record.process,
        record.began_ns,
        record.shown,
    )
