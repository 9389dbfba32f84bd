"""A control file in an ordinary directory: what programs write to it is taken once, and reading it gives our text.

The file has to be there at all times (os.utime and open without O_CREAT must work), and a program may have it open
while we give it another text. So a new file is exchanged for the old one in one step, and the old one stays open here:
what is written to it afterwards is seen too.

    prepare     a new file under a temporary name
    take        read what programs wrote, and exchange
    put         exchange alone
"""

import errno
import os
import secrets
import stat
from dataclasses import dataclass

from ckptfs.errors import os_error
from ckptfs.fs.leases import NO_WRITER, is_granted
from ckptfs.libc import RENAME_EXCHANGE, renameat2

# a program that opened one before it was exchanged closes it within milliseconds, and an exchange is at least that away
_KEPT = 4
_MOST_BYTES = 1 << 20
# mtimes of ours end with this: by it the next watch knows a file that nobody has touched since
_MS, _SIGNATURE_NS = 1_000_000, 271_828
# as fs/marker.py has it: shutil sets times right after the close, to those of what it copied
_TAIL_NS = 2_000_000_000


@dataclass(slots=True)
class _Placed:
    """A file of ours, under its name or exchanged since."""

    fd: int
    """For reading."""
    ino: int
    text: bytes
    seen: tuple[int, int]
    """Size and mtime that we know of."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The next file, under a temporary name."""

    name: bytes
    fd: int
    """For writing."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What programs did to the file."""

    text: bytes
    """What they wrote, without what was there."""
    touched_ns: int
    """The newest ctime: all that was done by then is in it."""


class MarkerFile:
    """One control file.

    Args:
        root_fd: The directory.
        name: Of the file.
    """

    def __init__(self, root_fd: int, name: bytes) -> None:
        self._root_fd = root_fd
        self._name = name
        self.temporary_prefix = b".ckptfs-%s-" % secrets.token_hex(4).encode()
        """Of the names of the files that are exchanged for it."""
        self._count = 0
        self._kept: list[_Placed] = []
        """Newest last; the last one has the name unless a program put something else there."""
        self._foreign: tuple[int, int, int] | None = None
        """Inode, size and mtime of somebody else's file that was taken."""
        self._text_was_taken = False
        """The last one that programs touched had text in it: it may have been copied there."""

    def put(self, text: bytes) -> None:
        """Let reading it give a text. Raises OSError."""
        self._exchange(self.prepare(), text)

    def renew(self, text: bytes) -> None:
        """Let reading it give a text, if it gives another or is missing. Raises OSError."""
        if self.is_missing() or not self._kept or self._kept[-1].text != text:
            self.put(text)

    def next_name(self) -> bytes:
        """Return the temporary name that `prepare` will use."""
        return b"%s%d.tmp" % (self.temporary_prefix, self._count + 1)

    def prepare(self) -> Prepared:
        """Make the next file. Raises OSError."""
        name = self.next_name()
        self._count += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return Prepared(name, os.open(name, flags, 0o600, dir_fd=self._root_fd))

    def is_touched(self) -> bool:
        """True if a program changed it, or put another file in its place, and that was not taken."""
        if any(self._is_changed(placed) for placed in self._kept):
            return True
        status = self._status()
        if status is None or not self._kept or status.st_ino == self._kept[-1].ino:
            return False
        return (status.st_ino, status.st_size, status.st_mtime_ns) != self._foreign

    def is_missing(self) -> bool:
        """True if it was removed."""
        return self._status() is None

    def is_being_written(self) -> bool:
        """True if a program is known to have it open for writing."""
        fds = [placed.fd for placed in self._kept]
        foreign = self._open_foreign()
        try:
            return any(is_granted(fd, NO_WRITER) is False for fd in [*fds, *([foreign] if foreign >= 0 else [])])
        finally:
            if foreign >= 0:
                os.close(foreign)

    def take(self, prepared: Prepared) -> Taken:
        """Take what programs wrote, and put the prepared file in its place, with the same text. Raises OSError."""
        texts, touched_ns = [], 0
        foreign = self._open_foreign()
        if foreign >= 0:
            status = os.fstat(foreign)
            self._foreign = (status.st_ino, status.st_size, status.st_mtime_ns)
            touched_ns = status.st_ctime_ns
            texts.append(_read(foreign, b""))
            os.close(foreign)
        for placed in reversed(self._kept):
            status = os.fstat(placed.fd)
            touched_ns = max(touched_ns, status.st_ctime_ns)
            if self._is_changed(placed):
                placed.seen = (status.st_size, status.st_mtime_ns)
                texts.append(_read(placed.fd, placed.text))
        self._exchange(prepared, self._kept[-1].text if self._kept else b"")
        text = next((text for text in texts if text), b"")
        self._text_was_taken = bool(text)
        return Taken(text, touched_ns)

    def clock_ns(self) -> int:
        """Return the filesystem's clock when the file was put there."""
        return os.fstat(self._kept[-1].fd).st_ctime_ns

    def forget_tail(self) -> bool:
        """Whether what was done is but the tail of a copy: the times of its source, set by name after the close."""
        changed = [placed for placed in self._kept if self._is_changed(placed)]
        if not self._text_was_taken or not changed or changed != self._kept[-1:]:
            return False
        placed = changed[0]
        status = os.fstat(placed.fd)
        size_bytes, mtime_ns = placed.seen
        is_tail = (
            status.st_size == size_bytes
            and status.st_mtime_ns < mtime_ns
            and status.st_ctime_ns - mtime_ns < _TAIL_NS
            and self._foreign is None
        )
        if is_tail:
            placed.seen = (status.st_size, status.st_mtime_ns)
        return is_tail

    def remove(self) -> None:
        """Take the file away; one that is somebody else's as well."""
        for placed in self._kept:
            os.close(placed.fd)
        self._kept.clear()
        _unlink(self._root_fd, self._name)

    def _exchange(self, prepared: Prepared, text: bytes) -> None:
        status = os.fstat(self._root_fd)
        try:
            _write(prepared.fd, text)
            # whoever may make files in the directory may touch it
            for owner in (status.st_uid, -1):
                try:
                    os.fchown(prepared.fd, owner, status.st_gid)
                except PermissionError:
                    continue  # without CAP_CHOWN it stays ours, if with that group
                break
            os.fchmod(prepared.fd, 0o644 | (status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)))
            written_ns = os.fstat(prepared.fd).st_mtime_ns
            os.utime(prepared.fd, ns=(written_ns, written_ns - written_ns % _MS + _SIGNATURE_NS))
        finally:
            os.close(prepared.fd)
        # opened after that close, so that our own writing does not look like a program's
        fd = os.open(prepared.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        # looked at before it has the name: a program may write to it at once
        placed = os.fstat(fd)
        _exchange_names(self._root_fd, prepared.name, self._name)
        self._kept.append(_Placed(fd, placed.st_ino, text, (placed.st_size, placed.st_mtime_ns)))
        while len(self._kept) > _KEPT:
            os.close(self._kept.pop(0).fd)

    def _is_changed(self, placed: _Placed) -> bool:
        status = os.fstat(placed.fd)
        return (status.st_size, status.st_mtime_ns) != placed.seen

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._name, dir_fd=self._root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _open_foreign(self) -> int:
        """Open the file that has the name, if it is not one of ours; -1 if it is, or cannot be read."""
        status = self._status()
        if status is None or not stat.S_ISREG(status.st_mode):
            return -1
        if self._kept and status.st_ino == self._kept[-1].ino:
            return -1
        try:
            return os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._root_fd)
        except OSError:
            return -1


def is_signed(status: os.stat_result) -> bool:
    """True if a file is as a watch put it there; False also on a filesystem whose times are coarse."""
    return status.st_mtime_ns % _MS == _SIGNATURE_NS


def replace_text(root_fd: int, name: bytes, text: bytes) -> None:
    """Give a control file that nobody writes to a text, in one step. Raises OSError."""
    temporary = b".ckptfs-%s-0.tmp" % secrets.token_hex(4).encode()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root_fd)
    try:
        _write(fd, text)
        os.fchmod(fd, 0o644)
        os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    except OSError:
        _unlink(root_fd, temporary)
        raise
    finally:
        os.close(fd)


def take_file(root_fd: int, path: bytes) -> Taken | None:
    """Take what programs wrote to a marker that we did not put there, and the file with it; None if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
    except OSError:
        if not _unlink(root_fd, path):
            return None
        return Taken(b"", 0)  # nothing that can be read, but a name of the marker all the same
    try:
        text = _read(fd, b"")
        if not _unlink(root_fd, path):
            return None
        return Taken(text, os.fstat(fd).st_ctime_ns)
    finally:
        os.close(fd)


def _write(fd: int, text: bytes) -> None:
    if os.write(fd, text) != len(text):
        raise os_error(errno.ENOSPC)


def _read(fd: int, before: bytes) -> bytes:
    """Return a file's text; what was appended to ours, if ours is still there."""
    text = os.pread(fd, _MOST_BYTES, 0)
    return text[len(before) :] if before and text.startswith(before) else text


def _exchange_names(root_fd: int, temporary: bytes, name: bytes) -> None:
    try:
        renameat2(root_fd, temporary, root_fd, name, RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENOSYS):
            # it is not there now, or the filesystem cannot exchange
            os.rename(temporary, name, src_dir_fd=root_fd, dst_dir_fd=root_fd)
            return
        _unlink(root_fd, temporary)
        raise
    _unlink(root_fd, temporary)


def _unlink(root_fd: int, name: bytes) -> bool:
    """Remove a name, directories too if they are empty; False if there is none."""
    try:
        os.unlink(name, dir_fd=root_fd)
    except FileNotFoundError:
        return False
    except OSError:
        return False
    return True
