"""The journal: which paths of the live tree differ from which version, in a file that survives the process.

Records are one letter, a payload and a NUL, appended with one write(2) before the change that they announce:

    V<version> <commit id>   the live tree is this version (0 and an empty id: the empty tree); what follows counts from
    here P<version> <commit id>   a capture is about to become this version
    W<path>                  a file's content may differ
    N<path>                  a name may have come, gone or become another file
    A<path>                  attributes may differ
    S<ino>                   this live file has no data yet
    H<ino>                   this live file has its data, or is gone
    B<boot id>               written by this boot of the machine

Not fsynced: it tells the truth after any death of the process. After a restart of the machine the boot id differs and
the reader trusts nothing but the paths (a path named here may have changed; one not named may have changed too).

Source: the write-ahead rule is the classic one; the P/V pair is resolved by `read_journal`'s caller, who knows which
captures exist.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class JournalState:
    """What a journal says."""

    version: int = 0
    commit_id: str = ""
    boot: str = ""
    intended: tuple[int, str] | None = None
    """A capture that was about to appear and of which nothing more is known."""
    content: set[bytes] = field(default_factory=set)
    names: set[bytes] = field(default_factory=set)
    attributes: set[bytes] = field(default_factory=set)
    stubs: set[int] = field(default_factory=set)
    """Inode numbers of live files without data."""

    @property
    def is_dirty(self) -> bool:
        """True if anything may differ from the version."""
        return bool(self.content or self.names or self.attributes)

    def _start_version(self, version: int, commit_id: str) -> None:
        self.version, self.commit_id, self.intended = version, commit_id, None
        self.content.clear()
        self.names.clear()
        self.attributes.clear()

    def adopt_intended(self) -> None:
        """The intended capture did appear: the live tree is that version."""
        if self.intended is not None:
            self._start_version(*self.intended)


def read_journal(path: Path) -> JournalState | None:
    """Return what a journal says, or None if there is none. An unfinished last record is left out."""
    try:
        records = path.read_bytes().split(b"\0")[:-1]
    except FileNotFoundError:
        return None
    state = JournalState()
    for record in records:
        kind, payload = record[:1], record[1:]
        if kind == b"W":
            state.content.add(payload)
        elif kind == b"N":
            state.names.add(payload)
        elif kind == b"A":
            state.attributes.add(payload)
        elif kind == b"S":
            state.stubs.add(int(payload))
        elif kind == b"H":
            state.stubs.discard(int(payload))
        elif kind == b"B":
            state.boot = payload.decode()
        elif kind in (b"V", b"P"):
            number, _, commit_id = payload.decode().partition(" ")
            if kind == b"V":
                state._start_version(int(number), commit_id)
            else:
                state.intended = (int(number), commit_id)
    return state


class Journal:
    """The open journal of a mount; used by several threads (O_APPEND makes each record whole)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def rewrite(self, version: int, commit_id: str, boot: str, stubs: set[int]) -> None:
        """Start over: the live tree is this version, with these files still without data."""
        temporary = self._path.with_suffix(".tmp")
        records = [b"B" + boot.encode(), b"V%d %s" % (version, commit_id.encode()), *(b"S%d" % ino for ino in stubs)]
        temporary.write_bytes(b"".join(record + b"\0" for record in records))
        temporary.rename(self._path)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def content(self, path: bytes) -> None:
        """A file's content is about to change."""
        os.write(self._fd, b"W" + path + b"\0")

    def name(self, path: bytes) -> None:
        """A name is about to come, go or become another file."""
        os.write(self._fd, b"N" + path + b"\0")

    def attributes(self, path: bytes) -> None:
        """Attributes are about to change."""
        os.write(self._fd, b"A" + path + b"\0")

    def hydrated(self, ino: int) -> None:
        """A file has got its data, or is going away."""
        os.write(self._fd, b"H%d\0" % ino)

    def intend(self, version: int, commit_id: str) -> None:
        """A capture is about to appear under pending/."""
        os.write(self._fd, b"P%d %s\0" % (version, commit_id.encode()))

    def captured(self, version: int, commit_id: str) -> None:
        """The capture has appeared; the live tree is that version."""
        os.write(self._fd, b"V%d %s\0" % (version, commit_id.encode()))

    def size_bytes(self) -> int:
        """Its size: the caller rewrites one that has grown."""
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)
