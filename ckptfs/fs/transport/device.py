"""/dev/fuse: opening it, mounting with it, backing files, requests and replies as bytes."""

import ctypes
import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from ckptfs.errors import MountError, os_error
from ckptfs.fs.transport import wire

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4

# _IOW(229, n, ...), linux/fuse.h
_BACKING_OPEN = 1 << 30 | wire.BACKING_MAP.size << 16 | 229 << 8 | 1
_BACKING_CLOSE = 1 << 30 | 4 << 16 | 229 << 8 | 2

# the largest that every kernel takes (256 pages); a request is one header and arguments longer
MAX_WRITE_BYTES = 1 << 20
REQUEST_BYTES = MAX_WRITE_BYTES + (64 << 10)

_libc = ctypes.CDLL(None, use_errno=True)


def open_device() -> int:
    """Return a descriptor of the device, which nothing is mounted with yet. Raises MountError."""
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        here = "chmod 666 /dev/fuse" if isinstance(error, PermissionError) else "modprobe fuse"
        raise MountError(
            f"cannot open /dev/fuse: {error.strerror}",
            hint=f"{here}; in a container: --device /dev/fuse --cap-add SYS_ADMIN, or `ckptfs watch`",
        ) from error


def mount_device(
    fd: int, mountpoint: Path, source: str, *, owner: tuple[int, int], allow_other: bool, read_only: bool
) -> None:
    """Mount a device on a directory; requests may be read from then on.

    Args:
        owner: User and group of the process that will serve. Without `allow_other` only theirs are let in.

    Raises:
        PermissionError: We lack CAP_SYS_ADMIN.
        OSError: The kernel refuses.
    """
    options = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={owner[0]},group_id={owner[1]}"
    options += ",default_permissions" + (",allow_other" if allow_other else "")
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    arguments = (source.encode(), os.fsencode(mountpoint), b"fuse.ckptfs", flags, options.encode())
    if _libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise os_error(number, str(mountpoint))


class DeviceClosedError(Exception):
    """The mount is gone."""


class Device:
    """One open /dev/fuse. Requests may be read and answered by several threads.

    Args:
        fd: An open descriptor of the device, ours from now on.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def receive(self, buffer: memoryview) -> memoryview:
        """Return the next request, in the buffer (REQUEST_BYTES long).

        Raises:
            DeviceClosedError: The mount is gone.
        """
        while True:
            try:
                return buffer[: os.readv(self.fd, [buffer])]
            except OSError as error:
                # ENOENT: the request was interrupted before it was read
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise DeviceClosedError from error

    def has_request(self) -> bool:
        """True if receive would return at once."""
        waiting = select.poll()
        waiting.register(self.fd, select.POLLIN)
        return bool(waiting.poll(0))

    def reply(self, unique: int, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Answer a request with success."""
        size = wire.OUT_HEADER.size + sum(len(part) for part in parts)
        self._send([wire.OUT_HEADER.pack(size, 0, unique), *parts])

    def fail(self, unique: int, number: int) -> None:
        """Answer a request with an errno."""
        self._send([wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -number, unique)])

    def notify(self, code: wire.Notification, body: bytes) -> bool:
        """Tell the kernel something; False if it does not know what is meant, which is no error."""
        try:
            os.writev(self.fd, [wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(body), code, 0), body])
        except OSError:
            return False
        return True

    def register_backing(self, fd: int) -> int:
        """Return the kernel's id of a file that it is to read and write itself. Raises OSError."""
        # a mutable argument: with an immutable one Python returns the bytes instead of the id
        return int(fcntl.ioctl(self.fd, _BACKING_OPEN, bytearray(wire.BACKING_MAP.pack(fd, 0, 0))))

    def release_backing(self, backing_id: int) -> None:
        """Give a backing id back."""
        fcntl.ioctl(self.fd, _BACKING_CLOSE, bytearray(struct.pack("=I", backing_id)))

    def close(self) -> None:
        """Close the device."""
        os.close(self.fd)

    def _send(self, parts: list[bytes | memoryview]) -> None:
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            # ENOENT: the program does not wait any more (it was killed)
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
