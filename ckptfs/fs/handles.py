"""Handles: what an open file is, of the live tree, of a version, or a control file."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptfs.errors import os_error
from ckptfs.fs.attributes import Attributes
from ckptfs.fs.control import Control
from ckptfs.fs.hydration.fetching import Reader
from ckptfs.fs.marker import Touch

# Not for the backing file: the kernel gives every write its offset (O_APPEND would ignore it) and does direct I/O with
# the program itself; creation and exclusion were decided before.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DIRECT | os.O_NOCTTY | os.O_TRUNC


@dataclass(slots=True)
class Inode:
    """An inode of the live tree with open handles."""

    ino: int
    handles: int = 0
    writers: int = 0
    mappable: int = 0
    """Handles opened O_RDWR: only those can be mapped shared and writable."""
    unseen_writers: int = 0
    """Handles through which the kernel writes itself."""
    maybe_mapped: bool = False
    """A mapping that nobody sees may change it, even when no handle is open any more."""
    signature: tuple[int, int, int] | None = None
    """Size, mtime and ctime at the last capture, of an inode whose changes are not seen."""
    marked_epoch: int = 0
    has_name: bool = True
    is_kept: bool = False
    """It has a name in the spare directory, for the server that takes over from this one."""
    path: bytes = b""
    """The name under which it was last opened, or that it was renamed to since."""


@dataclass(slots=True)
class FileHandle:
    """One open file of the live tree."""

    fd: int
    inode: Inode
    flags: int
    unseen: bool = False
    """The kernel reads and writes the backing file itself."""
    reader: Reader | None = None
    """Of a file that was not whole when it was opened."""
    replaced_fd: int | None = None
    """Holds the inode whose name this one took when it was opened to be truncated. Its number must not come back before
    everybody knows that the name has another; closed with the handle."""

    @property
    def is_writable(self) -> bool:
        """True if it can change bytes."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def ino(self) -> int:
        """Its inode's number."""
        return self.inode.ino


@dataclass(slots=True, eq=False)
class ViewHandle:
    """An open file of a version."""

    fd: int
    attributes: Attributes
    xattrs: Mapping[bytes, bytes]
    reader: Reader | None
    """Of a file that was not whole when it was opened."""

    @property
    def ino(self) -> int:
        """Its inode's number."""
        return self.attributes.ino


@dataclass(slots=True, eq=False)
class ControlHandle:
    """An open control file."""

    control: Control
    text: bytes
    """What reading it gives: fixed when it was opened, so that one reader sees one state. Of a touch, from when it
    captured: its own version, whatever others have saved meanwhile."""
    touch: Touch | None = None
    """Of `.save` open for writing."""
    maker: int = 0
    """The thread whose open(2) with O_CREAT made it; 0 if it was there."""
    written: bytearray = field(default_factory=bytearray)
    """To `.restore`."""


OpenFile = FileHandle | ViewHandle
Handle = OpenFile | ControlHandle


def of_live_tree(handle: OpenFile) -> FileHandle:
    """Return the handle of a file that can be changed. Raises OSError (EROFS) for one of a version."""
    if isinstance(handle, ViewHandle):
        raise os_error(errno.EROFS)
    return handle


def backing_flags(flags: int) -> int:
    """Return what a live file is opened with when a program opens it with these flags of open(2)."""
    return flags & ~_NOT_PASSED_ON | os.O_CLOEXEC
