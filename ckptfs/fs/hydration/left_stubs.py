"""Stubs that have lost their last name while handles read them: what they are to hold, beside the name that they are
kept by in the spare directory, for a server that takes over.
"""

import os
from contextlib import suppress
from dataclasses import replace

from ckptfs.errors import CkptfsError
from ckptfs.format.manifest import Entry, Part
from ckptfs.format.part import decode_part, encode_part


def write_left(spare_fd: int, ino: int, entry: Entry) -> None:
    """Write down what an inode is to hold. Raises OSError; nothing is left then."""
    data = encode_part(Part((replace(entry, link_id=0, xattrs=()),)))
    name = _name(ino)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=spare_fd)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError:
        os.unlink(name, dir_fd=spare_fd)
        raise


def read_left(spare_fd: int, ino: int) -> Entry | None:
    """Return what an inode is to hold; None if it was whole. Raises OSError if that cannot be read any more."""
    try:
        fd = os.open(_name(ino), os.O_RDONLY | os.O_CLOEXEC, dir_fd=spare_fd)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            return decode_part(file.read()).entries[0]
        except CkptfsError as error:
            # killed while it was written: the name was not taken away yet
            raise OSError(error.errno, error.fact) from error


def remove_left(spare_fd: int, ino: int) -> None:
    """Forget an inode."""
    with suppress(FileNotFoundError):
        os.unlink(_name(ino), dir_fd=spare_fd)


def _name(ino: int) -> bytes:
    return b"left-%d" % ino
