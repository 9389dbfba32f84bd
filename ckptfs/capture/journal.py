"""The journal: which paths of the live tree differ from which version, in a file that survives the process.

Records are one letter, a payload, the CRC-32 of both in 8 hex digits and a NUL, appended with one write(2) before the
change that they announce:

    V<version> <commit id>   the live tree is this version (0 and no id: the empty tree); what follows counts from here
    P<version> <commit id>   a capture is about to become this version
    W<path>                  a file's content may differ
    N<path>                  a name may have come, gone or become another file
    A<path>                  attributes may differ
    M<ino> <path>            a file without data has left, or shares, the path that the version knows it by
    R<version>               the live tree was restored to this version, on top of the one that V names
    S<ino>                   this live file has no data yet
    H<ino>                   this live file has its data, or is gone
    B<boot id>               written by this boot of the machine

Not fsynced: it tells the truth after any death of the process. After a restart of the machine the boot id differs and
the reader trusts nothing but the paths (a path named here may have changed; one not named may have changed too).

Source: the write-ahead rule is the classic one; the P/V pair is resolved by `read_journal`'s caller, who knows which
captures exist.
"""

import ctypes
import errno
import logging
import os
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ckptfs.errors import os_error

# 8 MiB: 100,000 changed paths of 80 bytes; reading it back when mounting takes 0.1 s
_COMPACT_BYTES = 8 << 20
# 1 MiB: 10,000 files can be deleted on a full disk, which makes room again
_RESERVE_BYTES = 1 << 20
_FALLOC_FL_KEEP_SIZE = 1
_CHECK_BYTES = 8

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


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
    moved: dict[int, bytes] = field(default_factory=dict)
    """Of those, inode number to the path in the version."""
    restored: int | None = None
    """The version that the live tree was restored to since."""

    @property
    def is_dirty(self) -> bool:
        """True if anything may differ from the version."""
        return bool(self.content or self.names or self.attributes)

    def _start_version(self, version: int, commit_id: str) -> None:
        self.version, self.commit_id, self.intended = version, commit_id, None
        self.content.clear()
        self.names.clear()
        self.attributes.clear()
        self.moved.clear()
        self.restored = None

    def adopt_intended(self) -> None:
        """The intended capture did appear: the live tree is that version."""
        if self.intended is not None:
            self._start_version(*self.intended)


def read_journal(path: Path) -> JournalState | None:
    """Return what a journal says, or None if there is none, or a damaged one. An unfinished last record is left out."""
    try:
        records = path.read_bytes().split(b"\0")[:-1]
    except FileNotFoundError:
        return None
    state = JournalState()
    for checked in records:
        record = checked[:-_CHECK_BYTES]
        if with_checksums(record + b"\0") != checked + b"\0":
            log.warning("took no notice of a damaged journal path=%s record=%r", path, checked[:200])
            return None
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
        elif kind == b"M":
            ino, _, origin = payload.partition(b" ")
            state.moved[int(ino)] = origin
        elif kind == b"R":
            state.restored = int(payload)
            state.moved.clear()
        elif kind == b"B":
            state.boot = payload.decode()
        elif kind in (b"V", b"P"):
            number, _, commit_id = payload.decode().partition(" ")
            if kind == b"V":
                state._start_version(int(number), commit_id)
            else:
                state.intended = (int(number), commit_id)
    return state


def with_checksums(text: bytes) -> bytes:
    """Return records as they are stored, given the same without checksums."""
    return b"".join(b"%s%08x\0" % (record, zlib.crc32(record)) for record in text.split(b"\0")[:-1])


class Journal:
    """The open journal of a mount; used by several threads.

    A record is whole or not there: every method raises OSError (ENOSPC) when there is no room for its record, and the
    change that it announces is then not made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._boot = ""
        self._stubs: set[int] = set()
        self._moved: set[int] = set()
        """Of those, the ones that `moved` has written down since."""
        self._compacted_bytes = 0
        self._reserved_bytes = 0
        self._end_bytes = 0
        """Where the last record ended that this object wrote."""

    def rewrite(self, version: int, commit_id: str, boot: str, stubs: Iterable[int]) -> None:
        """Start over: the live tree is this version, with these files still without data."""
        with self._lock:
            self._boot, self._stubs = boot, set(stubs)
            self._compact(version, commit_id)

    def go_on(self, boot: str, stubs: Iterable[int]) -> None:
        """Append to what a process before this one wrote."""
        with self._lock:
            self._boot, self._stubs = boot, set(stubs)
            end = os.fstat(self._fd).st_size
            if end and os.pread(self._fd, 1, end - 1) != b"\0":
                # it was killed while it wrote its last record
                text = os.pread(self._fd, end, 0)
                os.ftruncate(self._fd, text.rfind(b"\0") + 1)

    def _compact(self, version: int, commit_id: str) -> None:
        head = [b"B" + self._boot.encode(), b"V%d %s" % (version, commit_id.encode())]
        text = b"".join(record + b"\0" for record in (*head, *(b"S%d" % ino for ino in self._stubs)))
        text = with_checksums(text)
        temporary = self._path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, text)
            temporary.rename(self._path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._compacted_bytes = self._reserved_bytes = self._end_bytes = len(text)
        self._reserve(len(text))

    def _append(self, record: bytes) -> None:
        with self._lock:
            self._end_bytes = _write(self._fd, with_checksums(record))
            self._reserve(self._end_bytes)

    def _reserve(self, end_bytes: int) -> None:
        """Have room for records ahead of those that are there."""
        if end_bytes + _RESERVE_BYTES // 2 > self._reserved_bytes:
            _libc.fallocate(self._fd, _FALLOC_FL_KEEP_SIZE, end_bytes, _RESERVE_BYTES)
            # tried once for each half of it: on a full disk, or where it is not supported, it is no matter
            self._reserved_bytes = end_bytes + _RESERVE_BYTES

    def content(self, path: bytes) -> None:
        """A file's content is about to change."""
        self._append(b"W" + path + b"\0")

    def name(self, path: bytes) -> None:
        """A name is about to come, go or become another file."""
        self._append(b"N" + path + b"\0")

    def attributes(self, path: bytes) -> None:
        """Attributes are about to change."""
        self._append(b"A" + path + b"\0")

    def moved(self, ino: int, origin: bytes) -> None:
        """A file is about to leave, or share, the path by which the version knows it."""
        if ino in self._stubs and ino not in self._moved:
            self._append(b"M%d %s\0" % (ino, origin))
            self._moved.add(ino)

    def restored(self, version: int) -> None:
        """The live tree is about to become another version; every path that differs has been named."""
        self._append(b"R%d\0" % version)
        self._moved.clear()

    def stubs(self, inodes: Iterable[int]) -> None:
        """Files without data have been made (by a restore)."""
        new = set(inodes)
        self._append(b"".join(b"S%d\0" % ino for ino in new))
        self._stubs |= new

    def hydrated(self, ino: int) -> None:
        """A file has got its data, or is going away."""
        self._append(b"H%d\0" % ino)
        self._stubs.discard(ino)

    def intend(self, version: int, commit_id: str) -> None:
        """A capture is about to appear under pending/."""
        self._append(b"P%d %s\0" % (version, commit_id.encode()))

    def captured(self, version: int, commit_id: str) -> None:
        """The capture has appeared; the live tree is that version. Called with the gate closed."""
        self._append(b"V%d %s\0" % (version, commit_id.encode()))
        self._moved.clear()
        with self._lock:
            # twice what was left of it last time: a mount with many stubs is not to write them at every capture
            if self._end_bytes > _COMPACT_BYTES + 2 * self._compacted_bytes:
                try:
                    self._compact(version, commit_id)
                except OSError:
                    return  # as good as before, only longer

    def withdrawn(
        self,
        version: int,
        commit_id: str,
        *,
        restored: int | None,
        content: Iterable[bytes],
        names: Iterable[bytes],
        moved: Iterable[tuple[int, bytes]],
    ) -> None:
        """A capture has been undone; the live tree is the version before it, with these changes."""
        records = [b"V%d %s" % (version, commit_id.encode())]
        records += [b"R%d" % restored] if restored is not None else []
        records += [*(b"W" + path for path in content), *(b"N" + path for path in names)]
        records += [b"M%d %s" % (ino, path) for ino, path in moved if ino in self._stubs]
        self._append(b"".join(record + b"\0" for record in records))

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)


def _write(fd: int, data: bytes) -> int:
    """Append all of the data, or nothing; return where it ends. Raises OSError."""
    written = os.write(fd, data)
    end = os.lseek(fd, 0, os.SEEK_CUR)
    if written != len(data):
        # the next record would run into this half of one
        os.ftruncate(fd, end - written)
        raise os_error(errno.ENOSPC)
    return end
