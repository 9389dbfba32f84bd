"""The portable transport: libfuse 2 through fusepy; any kernel, also without privileges (through fusermount).

fusepy's own methods decode paths as strict UTF-8, hide the difference between "leave this time" and a time, and copy
every buffer; so each is replaced here by one that hands bytes to the operations. Facts about libfuse 2.9 and fusepy
3.0.1 that this relies on are in docs/adr/0004-fusepy-transport.md.
"""

import ctypes
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuse

from ckptfs.errors import MountError
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.door import through_door
from ckptfs.fs.handles import ControlHandle, Handle
from ckptfs.fs.operations import Operations
from ckptfs.fs.times import NOW_NS
from ckptfs.fs.transport.heard import Heard
from ckptfs.fs.transport.hidden import HiddenFiles
from ckptfs.fs.transport.opened_by_name import OpenedByName

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

# has a character for every byte: fusepy encodes only what it passes on to libfuse, and a mount point need not be UTF-8
_ENCODING = "latin-1"

_FILE_INFO = ctypes.POINTER(fuse.fuse_file_info)


class _OperationsTable(ctypes.Structure):
    """struct fuse_operations of libfuse 2.9: fusepy's ends at ioctl."""

    _fields_ = [
        *fuse.fuse_operations._fields_,
        ("poll", ctypes.c_void_p),
        ("write_buf", ctypes.c_void_p),
        ("read_buf", ctypes.c_void_p),
        ("flock", ctypes.c_void_p),
        (
            "fallocate",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, fuse.c_off_t, fuse.c_off_t, _FILE_INFO),
        ),
    ]


class _Implemented:
    """Tells fusepy which callbacks to install. Locks are absent on purpose: the kernel then keeps them, one machine
    being all there is.
    """

    use_ns = True
    flag_utime_omit_ok = 1
    # an open file whose directory was removed has no path, and can still be read and closed
    flag_nullpath_ok = 1

    def __init__(self, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(self, name, True)

    def __call__(self, *_: object) -> int:
        return 0


# fmt: off
_NAMES = (
    "getattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "chmod", "chown",
    "truncate", "open", "read", "write", "statfs", "flush", "release", "fsync", "setxattr", "getxattr", "listxattr",
    "removexattr", "opendir", "readdir", "releasedir", "fsyncdir", "init", "create", "utimens", "fallocate",
)
# fmt: on


class FusepyServer(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """One mount; the constructor returns when it has ended."""

    def __init__(
        self,
        operations: Operations,
        mountpoint: str,
        ready: Callable[["FusepyServer"], None],
        flusher_pid: Callable[[], int],
        **options: Any,
    ) -> None:
        self._fs = operations
        self._ready = ready
        self._flusher_pid = flusher_pid
        self._hidden = HiddenFiles(operations.writable)
        self._handles = OpenedByName(self._ino_of)
        super().__init__(_Implemented(_NAMES), mountpoint, raw_fi=True, encoding=_ENCODING, **options)

    def init(self, _: object) -> None:
        self._ready(self)

    def tree_replaced(self) -> None:
        """Names may be other files now."""
        self._handles.tree_replaced()

    def names_of(self, path: bytes, ino: int) -> set[bytes]:
        """Return all paths of an inode: each is an inode of its own to the kernel, with a page cache of its own."""
        writable = self._fs.writable
        names = writable.live.links.names(ino) if writable is not None else frozenset()
        return {path, *names, *self._hidden.paths_of(ino)}

    def _ino_of(self, path: bytes) -> int:
        try:
            return self._fs.attributes(path, Caller(0, 0, 0)).ino
        except OSError:
            return 0

    def _place(self, path: bytes) -> HiddenFiles | Operations:
        """Return what does an operation on a path: names of nameless files are no part of the tree."""
        return self._hidden if self._hidden.has(path) else self._fs

    # attributes

    def getattr(self, path: bytes, buffer: Any) -> int:
        return self._put_attributes(_relative(path), buffer, None)

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> int:
        handle = self._handles.find(info.contents.fh) if info else None
        return self._put_attributes(_relative(path or b"/"), buffer, handle)

    def _put_attributes(self, path: bytes, buffer: Any, handle: Handle | None) -> int:
        found: Attributes | None = None
        if handle is None and self._hidden.has(path):
            found = self._hidden_attributes(path)
            path = path.rpartition(b"/")[0] + b"/.save" if b"/" in path else b".save"
        if found is None:
            found = self._fs.attributes(path, _caller(), handle)
            if handle is not None and found.nlink and self._hidden.has(path):
                found = found._replace(nlink=found.nlink + 1)  # libfuse takes the name that it gave off the count
        ctypes.memset(buffer, 0, ctypes.sizeof(fuse.c_stat))
        status = buffer.contents
        status.st_ino, status.st_mode, status.st_nlink = found.ino, found.mode, found.nlink
        status.st_uid, status.st_gid, status.st_rdev = found.uid, found.gid, found.rdev
        status.st_size, status.st_blocks, status.st_blksize = found.size_bytes, found.blocks, 4096
        for field, value in (
            (status.st_atimespec, found.atime_ns),
            (status.st_mtimespec, found.mtime_ns),
            (status.st_ctimespec, found.ctime_ns),
        ):
            field.tv_sec, field.tv_nsec = divmod(value, 10**9)
        return 0

    @through_door
    def _hidden_attributes(self, path: bytes) -> Attributes | None:
        return self._hidden.attributes(path)

    def readlink(self, path: bytes, buffer: Any, size: int) -> int:
        target = self._fs.readlink(_relative(path))[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))
        return 0

    def statfs(self, path: bytes, buffer: Any) -> int:
        status = self._fs.statfs()
        for name, _ in fuse.c_statvfs._fields_:
            if name not in ("f_fsid", "f_flag"):
                setattr(buffer.contents, name, getattr(status, name))
        return 0

    @through_door
    def chmod(self, path: bytes, mode: int) -> None:
        self._place(path).chmod(_relative(path), mode & 0o7777)

    @through_door
    def chown(self, path: bytes, uid: int, gid: int) -> None:
        owner = (-1 if uid == 0xFFFFFFFF else uid, -1 if gid == 0xFFFFFFFF else gid)
        self._place(path).chown(_relative(path), *owner)

    @through_door
    def utimens(self, path: bytes, times: Any) -> None:
        pair = (times.contents.actime, times.contents.modtime) if times else (None, None)
        atime_ns, mtime_ns = (_time_ns(value) for value in pair)
        if self._hidden.has(path):
            return self._hidden.utimens(_relative(path), atime_ns, mtime_ns)
        self._fs.utimens(_relative(path), atime_ns, mtime_ns, _caller())

    @through_door
    def setxattr(self, path: bytes, name: bytes, value: Any, size: int, flags: int, *_: object) -> None:
        self._place(path).xattrs.setxattr(_relative(path), name, ctypes.string_at(value, size), flags)

    @through_door
    def getxattr(self, path: bytes, name: bytes, buffer: Any, size: int, *_: object) -> int:
        return _put_sized(self._place(path).xattrs.getxattr(_relative(path), name), buffer, size)

    @through_door
    def listxattr(self, path: bytes, buffer: Any, size: int) -> int:
        names = self._place(path).xattrs.listxattr(_relative(path))
        return _put_sized(b"".join(name + b"\0" for name in names), buffer, size)

    @through_door
    def removexattr(self, path: bytes, name: bytes) -> None:
        self._place(path).xattrs.removexattr(_relative(path), name)

    # names

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        self._fs.mknod(_relative(path), mode, device, _caller())

    def mkdir(self, path: bytes, mode: int) -> None:
        self._fs.mkdir(_relative(path), mode, _caller())

    def symlink(self, target: bytes, path: bytes) -> None:
        self._fs.symlink(_relative(path), target, _caller())

    def link(self, source: bytes, path: bytes) -> None:
        self._fs.link(_relative(source), _relative(path))

    @through_door
    def unlink(self, path: bytes) -> None:
        if self._hidden.has(path):
            return self._hidden.unlink(_relative(path))
        self._fs.unlink(_relative(path))

    def rmdir(self, path: bytes) -> None:
        self._fs.rmdir(_relative(path))

    @through_door
    def rename(self, old: bytes, new: bytes) -> None:
        if not self._hidden.hide(_relative(old), _relative(new), _caller()):
            self._fs.rename(_relative(old), _relative(new))

    def opendir(self, path: bytes, info: Any) -> int:
        return 0

    def readdir(self, path: bytes, buffer: Any, fill: Any, offset: int, info: Any) -> int:
        status = fuse.c_stat()
        here = _relative(path)
        for name, of in ((b".", here), (b"..", here.rpartition(b"/")[0])):
            status.st_ino, status.st_mode = self._fs.attributes(of, _caller()).ino, stat.S_IFDIR
            fill(buffer, name, ctypes.byref(status), 0)
        for listed in self._fs.listing(here):
            status.st_ino, status.st_mode = listed.ino, listed.format
            if fill(buffer, listed.name, ctypes.byref(status), 0) != 0:
                break
        return 0

    def releasedir(self, path: bytes | None, info: Any) -> int:
        return 0

    def fsyncdir(self, path: bytes | None, data_only: int, info: Any) -> int:
        return 0

    # open files

    def create(self, path: bytes, mode: int, info: Any) -> int:
        replaced = self._handles.replaced
        handle = self._fs.create(_relative(path), info.contents.flags, mode & 0o7777, _caller())
        return self._put_handle(handle, info, path, replaced)

    def open(self, path: bytes, info: Any) -> int:
        # the kernel leaves it to us, and does not say whether the program has CAP_FSETID
        drops = bool(info.contents.flags & os.O_TRUNC and _caller().uid)
        replaced = self._handles.replaced
        if self._hidden.has(path):
            handle = self._open_hidden(path, info.contents.flags)
            if drops:
                self._fs.privileges.drop(None, _caller(), handle)
            return self._put_handle(handle, info, path, replaced)
        if drops:
            self._fs.privileges.drop(_relative(path), _caller())
        return self._put_handle(self._fs.open(_relative(path), info.contents.flags, _caller()), info, path, replaced)

    @through_door
    def _open_hidden(self, path: bytes, flags: int) -> Handle:
        return self._hidden.open(path, flags)

    def _put_handle(self, handle: Handle, info: Any, path: bytes, replaced: int) -> int:
        info.contents.fh = self._handles.put(handle, _relative(path), replaced)
        # what a control file says has no size beforehand, and must not come from the page cache; nor must the bytes of
        # a file while another, which had its name, is open
        info.contents.direct_io = isinstance(handle, ControlHandle) or self._handles.has_stale(_relative(path))
        return 0

    def read(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        return self._fs.read_into(self._handles[info.contents.fh], _view(buffer, size), offset)

    def write(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        # each name of a file has a size of its own in the kernel, which counts the offset from it
        appends = bool(info.contents.flags & os.O_APPEND)
        return self._fs.write(self._handles[info.contents.fh], _view(buffer, size), offset, appends=appends)

    @through_door
    def truncate(self, path: bytes, size: int) -> None:
        self._place(path).truncate(_relative(path), size)

    def ftruncate(self, path: bytes | None, size: int, info: Any) -> None:
        self._fs.truncate(_relative(path or b"/"), size, self._handles[info.contents.fh])

    def fallocate(self, path: bytes | None, mode: int, offset: int, size: int, info: Any) -> None:
        self._fs.allocate(self._handles[info.contents.fh], mode, offset, size)

    def flush(self, path: bytes | None, info: Any) -> None:
        self._fs.flush(self._handles[info.contents.fh])

    def release(self, path: bytes | None, info: Any) -> None:
        self._fs.release(self._handles.pop(info.contents.fh))

    def fsync(self, path: bytes | None, data_only: int, info: Any) -> None:
        # the kernel has written the pages already
        if _caller().pid != self._flusher_pid():
            self._fs.fsync(self._handles[info.contents.fh], bool(data_only))


fuse.fuse_operations = _OperationsTable


def serve(
    operations: Operations,
    mountpoint: Path,
    *,
    name: str,
    allow_other: bool,
    read_only: bool,
    flusher_pid: Callable[[], int],
    ready: Callable[[FusepyServer], None],
) -> None:
    """Mount and serve until unmounted. Returns then.

    Args:
        name: What `df` and `mount` show as the device.
        flusher_pid: The process that only wants pages to come here: its fsync need not reach the disk.
        ready: Called when the mount is there, before the first operation is answered.

    Raises:
        MountError: libfuse could not mount.
    """
    options: dict[str, Any] = {
        "fsname": name.encode().decode(_ENCODING).replace(",", "\\,"),
        "subtype": "ckptfs",
        "default_permissions": True,
        "use_ino": True,
        "atomic_o_trunc": True,
        "big_writes": True,
        "nonempty": True,
        # paths, not inodes, are what libfuse caches attributes by: two hard links would show two link counts
        "attr_timeout": 0,
        "allow_other": allow_other,
        "ro": read_only,
    }
    is_ready = threading.Event()
    heard = Heard()

    def started(server: FusepyServer) -> None:
        os.write(2, heard.stop())
        is_ready.set()
        ready(server)

    try:
        place = os.fsencode(mountpoint).decode(_ENCODING)
        FusepyServer(operations, place, started, flusher_pid, foreground=True, **options)
    except RuntimeError as error:
        if is_ready.is_set():
            return
        said = heard.stop().decode(errors="replace").strip()
        hint = "run `ckptfs doctor`: it checks /dev/fuse and fusermount"
        if "user_allow_other" in said:
            hint = "add a line `user_allow_other` to /etc/fuse.conf, mount as root, or leave --allow-other out"
        raise MountError(f"libfuse could not mount on {mountpoint}: {said or f'code {error}'}", hint=hint) from error
    finally:
        heard.stop()


def _relative(path: bytes) -> bytes:
    return path[1:]


def _caller() -> Caller:
    return Caller(*fuse.fuse_get_context())


def _view(buffer: Any, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(ctypes.addressof(buffer.contents))).cast("B")


def _put_sized(value: bytes, buffer: Any, size: int) -> int:
    """Answer a request for an attribute's value or, without a buffer, for its size."""
    if not buffer or size == 0:
        return len(value)
    if len(value) > size:
        return -34  # ERANGE
    ctypes.memmove(buffer, value, len(value))
    return len(value)


def _time_ns(value: Any) -> int | None:
    """Return a time to set; None for one that stays."""
    if value is None or value.tv_nsec == _UTIME_NOW:
        return NOW_NS
    return None if value.tv_nsec == _UTIME_OMIT else value.tv_sec * 10**9 + value.tv_nsec
