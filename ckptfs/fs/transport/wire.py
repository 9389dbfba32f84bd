"""The FUSE protocol: requests and replies as the kernel lays them out, as tables.

Pure: bytes in, values out. Source: the kernel's include/uapi/linux/fuse.h, protocol 7.31 (kernel 5.4) to 7.45; names
are its names without the prefix. All integers are in the machine's byte order. A request is an in-header and a body; a
reply an out-header and a body.
"""

import os
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from ckptfs.fs.attributes import Attributes, Caller

MAJOR, MINOR = 7, 45
OLDEST_MINOR = 31

ROOT_NODE = 1
"""Node id of the mount's root directory."""

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
OUT_HEADER = struct.Struct("=IiQ")
"""len, error (0 or a negative errno; of a notification its positive code), unique"""


class Opcode(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class InitFlag(IntFlag):
    """What kernel and server agree on (INIT)."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


class OpenFlag(IntFlag):
    """How the kernel is to treat an open file (the reply to OPEN)."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class SetAttr(IntFlag):
    """Which fields of SETATTR are meant."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


GETATTR_FH = 1
"""GETATTR: the handle is valid."""
OPEN_KILL_SUIDGID = 1
"""OPEN and CREATE: take setuid and setgid away."""
WRITE_KILL_SUIDGID = 1 << 2
"""WRITE: take setuid and setgid away."""
FSYNC_DATA_ONLY = 1
RELEASE_FLUSH = 1


class Notification(IntEnum):
    """What the server may tell the kernel unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    RESEND = 7


ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
"""ino, size, blocks, atime, mtime, ctime (s), the same (ns), mode, nlink, uid, gid, rdev, blksize, flags"""
ENTRY_OUT = struct.Struct("=QQQQII")
"""nodeid, generation, entry_valid, attr_valid (s), the same (ns); ATTR follows"""
ATTR_OUT = struct.Struct("=QII")
"""attr_valid (s), the same (ns), dummy; ATTR follows"""

INIT_IN = struct.Struct("=IIII")
"""major, minor, max_readahead, flags; from 7.36 flags2 follows"""
INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2, max_stack_depth, request_timeout, unused"""

STATX_IN = struct.Struct("=IIQII")
"""getattr_flags, reserved, fh, sx_flags, sx_mask"""
STATX_OUT = struct.Struct("=QII16x")
"""attr_valid (s), the same (ns), flags, spare; STATX follows"""
STATX_BASIC, STATX_BTIME = 0x7FF, 0x800
STATX = struct.Struct("=IIQIIIHxxQQQQqI4xqI4xqI4xqI4xIIII112x")
"""mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask; atime, btime, ctime, mtime (s,
ns each); rdev_major, rdev_minor, dev_major, dev_minor"""

FORGET_IN = struct.Struct("=Q")
"""nlookup"""
BATCH_FORGET_IN = struct.Struct("=II")
"""count, dummy; FORGET_ONE for each follows"""
FORGET_ONE = struct.Struct("=QQ")
"""nodeid, nlookup"""
GETATTR_IN = struct.Struct("=IIQ")
"""getattr_flags, dummy, fh"""
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime (s), the same (ns), mode, unused, uid, gid, unused"""
MKNOD_IN = struct.Struct("=IIII")
"""mode, rdev, umask, padding; name follows"""
MKDIR_IN = struct.Struct("=II")
"""mode, umask; name follows"""
RENAME_IN = struct.Struct("=Q")
"""newdir; two names follow"""
RENAME2_IN = struct.Struct("=QII")
"""newdir, flags, padding; two names follow"""
LINK_IN = struct.Struct("=Q")
"""oldnodeid; name follows"""
OPEN_IN = struct.Struct("=II")
"""flags, open_flags"""
CREATE_IN = struct.Struct("=IIII")
"""flags, mode, umask, open_flags; name follows"""
OPEN_OUT = struct.Struct("=QIi")
"""fh, open_flags, backing_id"""
RELEASE_IN = struct.Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner"""
FLUSH_IN = struct.Struct("=QIIQ")
"""fh, unused, padding, lock_owner"""
READ_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding"""
WRITE_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding; data follow"""
WRITE_OUT = struct.Struct("=II")
"""size, padding"""
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare"""
INTERRUPT_IN = struct.Struct("=Q")
"""unique of the request that is interrupted"""
FSYNC_IN = struct.Struct("=QII")
"""fh, fsync_flags, padding"""
SETXATTR_IN = struct.Struct("=II")
"""size, flags; name and value follow"""
GETXATTR_IN = struct.Struct("=II")
"""size, padding; name follows (GETXATTR)"""
GETXATTR_OUT = struct.Struct("=II")
"""size, padding"""
FALLOCATE_IN = struct.Struct("=QQQII")
"""fh, offset, length, mode, padding"""
LSEEK_IN = struct.Struct("=QqII")
"""fh, offset (the program's, below 0 as well), whence, padding"""
LSEEK_OUT = struct.Struct("=Q")
"""offset"""
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len, flags"""
DIRENT = struct.Struct("=QQII")
"""ino, off, namelen, type; the name follows, padded to 8 bytes"""
INVAL_INODE_OUT = struct.Struct("=Qqq")
"""nodeid, offset, length"""
INVAL_ENTRY_OUT = struct.Struct("=QII")
"""parent, namelen, flags; the name and a NUL follow"""

BACKING_MAP = struct.Struct("=iIQ")
"""fd, flags, padding: the argument of the ioctl that registers a backing file"""

# a reply to a lookup of what is not there may be remembered: node id 0
NO_NODE = 0

KERNEL = Caller(0, 0, 0)
"""Who asks, when no program does."""

UNIQUE_RESEND = 1 << 63
"""In a request's unique: it was read before, by a server that did not answer it. The reply carries it too."""


class Request(NamedTuple):
    """One request, its body not looked at yet."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview

    @property
    def id(self) -> int:
        """What the kernel calls it; the same when it is sent again."""
        return self.unique & ~UNIQUE_RESEND

    @property
    def is_again(self) -> bool:
        """True if a server had read it that did not answer it."""
        return bool(self.unique & UNIQUE_RESEND)

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return Caller(self.uid, self.gid, self.pid)


Reply = Sequence[bytes | memoryview]
"""The body of a reply, in pieces."""

Handler = Callable[[Request], Reply | None]
"""Answers a request; None if there is to be no reply."""


def decode_request(data: memoryview) -> Request:
    """Return a request as it was read from the device.

    Raises:
        ValueError: The kernel would never send it.
    """
    if len(data) < IN_HEADER.size:
        raise ValueError(f"a request of {len(data)} bytes")
    length, opcode, unique, node, uid, gid, pid, extension_words, _ = IN_HEADER.unpack_from(data)
    if length != len(data):
        raise ValueError(f"a request of {len(data)} bytes that says {length}")
    return Request(opcode, unique, node, uid, gid, pid, data[IN_HEADER.size : length - 8 * extension_words])


def names(body: memoryview, count: int) -> list[bytes]:
    """Return NUL-terminated names at the beginning of a body."""
    parts = bytes(body).split(b"\0", count)
    if len(parts) <= count:
        raise ValueError(f"a request with {len(parts) - 1} names, not {count}")
    return parts[:count]


def encode_attributes(node: int, attributes: Attributes) -> bytes:
    """Return ATTR."""
    atime, mtime, ctime = (divmod(value, 10**9) for value in attributes[8:11])
    mask = (1 << 64) - 1  # times before 1970 are negative
    return ATTR.pack(
        node if attributes.ino == 0 else attributes.ino,
        attributes.size_bytes,
        attributes.blocks,
        atime[0] & mask,
        mtime[0] & mask,
        ctime[0] & mask,
        atime[1],
        mtime[1],
        ctime[1],
        attributes.mode,
        attributes.nlink,
        attributes.uid,
        attributes.gid,
        attributes.rdev & 0xFFFFFFFF,
        4096,
        0,
    )


def encode_statx(node: int, attributes: Attributes, birth_ns: int | None) -> bytes:
    """Return STATX.

    Args:
        birth_ns: None if it is not known.
    """
    atime, mtime, ctime = (divmod(value, 10**9) for value in attributes[8:11])
    return STATX.pack(
        STATX_BASIC if birth_ns is None else STATX_BASIC | STATX_BTIME,
        4096,
        0,
        attributes.nlink,
        attributes.uid,
        attributes.gid,
        attributes.mode,
        node if attributes.ino == 0 else attributes.ino,
        attributes.size_bytes,
        attributes.blocks,
        0,
        *atime,
        *divmod(birth_ns or 0, 10**9),
        *ctime,
        *mtime,
        os.major(attributes.rdev),
        os.minor(attributes.rdev),
        0,
        0,
    )


def with_attributes(attributes: Attributes, body: memoryview, now_ns: int) -> Attributes:
    """Return attributes as SETATTR makes them; its sizes are of no matter."""
    (
        valid, _, _, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
    ) = SETATTR_IN.unpack_from(body)  # fmt: skip
    set_atime_ns = now_ns if valid & SetAttr.ATIME_NOW else atime * 10**9 + atime_ns
    set_mtime_ns = now_ns if valid & SetAttr.MTIME_NOW else mtime * 10**9 + mtime_ns
    return attributes._replace(
        mode=attributes.mode & ~0o7777 | mode & 0o7777 if valid & SetAttr.MODE else attributes.mode,
        uid=uid if valid & SetAttr.UID else attributes.uid,
        gid=gid if valid & SetAttr.GID else attributes.gid,
        atime_ns=set_atime_ns if valid & SetAttr.ATIME else attributes.atime_ns,
        mtime_ns=set_mtime_ns if valid & SetAttr.MTIME else attributes.mtime_ns,
        ctime_ns=now_ns,
    )


def encode_directory_entry(ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """Return DIRENT with its name and padding.

    Args:
        kind: The file type bits of its mode, shifted right by 12.
    """
    padding = -(DIRENT.size + len(name)) % 8
    return DIRENT.pack(ino, offset, len(name), kind) + name + bytes(padding)
