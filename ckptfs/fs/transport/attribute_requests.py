"""Requests about what an inode is: attributes, extended ones too, where a symlink leads; and the filesystem's room."""

import errno
import time
from dataclasses import dataclass

from ckptfs.errors import os_error
from ckptfs.fs.attributes import Attributes
from ckptfs.fs.control import Control, control_of
from ckptfs.fs.handles import ControlHandle, Handle, OpenFile
from ckptfs.fs.syscalls import is_chown
from ckptfs.fs.times import NOW_NS
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.nodes import Node
from ckptfs.fs.transport.notices import Notices
from ckptfs.fs.transport.paths import MAY_HAVE_MOVED, valid_s
from ckptfs.fs.transport.requests import Requests, steady
from ckptfs.fs.transport.wire import Handler, Opcode, Reply, Request, SetAttr
from ckptfs.fs.xattrs import ACCESS_LIST, DEFAULT_LIST

# The kernel's question before the first write to each inode; no file here has capabilities (setxattr refuses)
_ASKED_AT_FIRST_WRITE = b"security.capability"

_SETS_SOMETHING = SetAttr.MODE | SetAttr.UID | SetAttr.GID | SetAttr.SIZE | SetAttr.ATIME | SetAttr.MTIME


@dataclass(slots=True, kw_only=True)
class AttributeRequests(Requests):
    """Answers them."""

    notices: Notices

    def handlers(self) -> dict[int, Handler]:
        """Return what answers each opcode of theirs."""
        return {
            Opcode.GETATTR: self._getattr,
            Opcode.STATX: self._statx,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.STATFS: self._statfs,
            Opcode.SETXATTR: self._setxattr,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.REMOVEXATTR: self._removexattr,
        }

    def attributes_of(self, request: Request, node: Node, handle: Handle | None = None) -> Reply:
        """Answer with what a node's attributes are now."""
        attributes, remembered_s = self._look(node, request, handle)
        return (wire.ATTR_OUT.pack(remembered_s, 0, 0) + wire.encode_attributes(node.id, attributes),)

    @steady
    def _getattr(self, request: Request) -> Reply:
        flags, _, number = wire.GETATTR_IN.unpack_from(request.body)
        handle = self.handles.find(number) if flags & wire.GETATTR_FH else None
        return self.attributes_of(request, self.nodes.get(request.node), handle)

    def _look(self, node: Node, request: Request, handle: Handle | None) -> tuple[Attributes, int]:
        """Return a node's attributes, and how long the kernel may remember them (s)."""
        path = self.nodes.path(node)
        if path is None:
            if node.gone is not None:
                return node.gone, 0
            return self.operations.attributes(b"", request.caller, handle or self.handles.of_node(node)), 0
        # fstat(2) of a named file asks for the same as stat(2)
        return self.operations.attributes(path, request.caller, is_known=True), valid_s(path)

    @steady
    def _statx(self, request: Request) -> Reply:
        # asked for instead of GETATTR when a program wants to know when a file was made
        flags, _, number, _, _ = wire.STATX_IN.unpack_from(request.body)
        handle = self.handles.find(number) if flags & wire.GETATTR_FH else None
        node = self.nodes.get(request.node)
        attributes, remembered_s = self._look(node, request, handle)
        path = self.nodes.path(node)
        birth_ns = self.operations.birth_ns(path) if path is not None else None
        return wire.STATX_OUT.pack(remembered_s, 0, 0), wire.encode_statx(node.id, attributes, birth_ns)

    def _setattr(self, request: Request) -> Reply:
        valid, _, number, size = wire.SETATTR_IN.unpack_from(request.body)[:4]
        node = self.nodes.get(request.node)
        if node.gone is not None:
            node.gone = wire.with_attributes(node.gone, request.body, time.time_ns())
            return self.attributes_of(request, node)
        path = self.nodes.path(node)
        if path is not None and control_of(path) is Control.SAVE:
            self.handles.intend_version(request)
        if valid & SetAttr.SIZE:
            # may have to wait for the file's data
            handle = self.handles.find(number) if valid & SetAttr.FH else None
            self._truncate(node, size, handle)
            if isinstance(handle, ControlHandle):
                self.book.resized(number, size)
        if path is not None and control_of(path) is not None:
            # may be a touch, and take as long as that
            return self._set_attributes(request)
        if valid & SetAttr.MTIME and not valid & SetAttr.MTIME_NOW:
            self._bring_stores(node)
        with self.paths.names:
            return self._set_attributes(request)

    def _bring_stores(self, node: Node) -> None:
        """Have the kernel write back what programs stored in mappings, before the file is given an mtime: what comes
        later, with the next save or the end of the mapping, would move it. The kernel does not do that itself.
        """
        ino = self.handles.mappable(node)
        if ino is not None:
            self.notices.flush_mapped(ino)

    def _truncate(self, node: Node, size_bytes: int, handle: Handle | None) -> None:
        while True:
            path, era = self.paths.now(node)
            if path is None and handle is None:
                handle = self.handles.of_node(node)
            try:
                return self.operations.truncate(path or b"", size_bytes, handle, era)
            except OSError as error:
                if error.errno not in MAY_HAVE_MOVED or path is None or not self.paths.has_moved(node, path, era):
                    raise

    def _set_attributes(self, request: Request) -> Reply:
        (
            valid, _, number, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
        ) = wire.SETATTR_IN.unpack_from(request.body)  # fmt: skip
        node = self.nodes.get(request.node)
        path = self.nodes.path(node)
        handle = self.handles.find(number) if valid & SetAttr.FH else None
        if path is None and handle is None:
            handle = self.handles.of_node(node)
        owner = (uid if valid & SetAttr.UID else -1, gid if valid & SetAttr.GID else -1)
        times = (
            _time_ns(valid, SetAttr.ATIME, SetAttr.ATIME_NOW, atime, atime_ns),
            _time_ns(valid, SetAttr.MTIME, SetAttr.MTIME_NOW, mtime, mtime_ns),
        )
        sets_times = bool(valid & (SetAttr.ATIME | SetAttr.MTIME))
        if path is None:
            if valid & SetAttr.KILL_SUIDGID or (not valid & _SETS_SOMETHING and not is_chown(request.pid)):
                self.operations.privileges.drop(None, request.caller, handle)
            new_mode = mode & 0o7777 if valid & SetAttr.MODE else None
            self.operations.change_nameless(handle, new_mode, owner, times if sets_times else None)
        else:
            # nothing is set: that is a write, or chown(2) to nobody
            if not valid & _SETS_SOMETHING and is_chown(request.pid):
                self.operations.privileges.chown_to_nobody(path, request.caller)
            elif valid & SetAttr.KILL_SUIDGID or not valid & _SETS_SOMETHING:
                self.operations.privileges.drop(path, request.caller)
            if owner != (-1, -1):
                self.operations.chown(path, *owner)
            if valid & SetAttr.MODE:
                self.operations.chmod(path, mode & 0o7777)
            if sets_times:
                self.operations.utimens(path, *times, request.caller)
        return self.attributes_of(request, node, handle)

    @steady
    def _readlink(self, request: Request) -> Reply:
        return (self.operations.readlink(self.paths.path(request.node)),)

    def _statfs(self, request: Request) -> Reply:
        status = self.operations.statfs()
        return (
            wire.STATFS_OUT.pack(
                status.f_blocks,
                status.f_bfree,
                status.f_bavail,
                status.f_files,
                status.f_ffree,
                status.f_bsize,
                status.f_namemax,
                status.f_frsize,
                0,
            ),
        )

    @steady
    def _setxattr(self, request: Request) -> Reply:
        size, flags = wire.SETXATTR_IN.unpack_from(request.body)
        rest = request.body[wire.SETXATTR_IN.size :]
        (name,) = wire.names(rest, 1)
        value = bytes(rest[len(name) + 1 :][:size])
        path, handle = self._path_or_handle(request.node)
        self.operations.xattrs.setxattr(path, name, value, flags, handle)
        if name == ACCESS_LIST:
            # the local filesystem leaves it to root, which we are
            self.operations.privileges.drop_setgid(path if handle is None else None, request.caller, handle)
        return ()

    @steady
    def _getxattr(self, request: Request) -> Reply:
        size, _ = wire.GETXATTR_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.GETXATTR_IN.size :], 1)
        if name == _ASKED_AT_FIRST_WRITE:
            raise os_error(errno.ENODATA)
        path, handle = self._path_or_handle(request.node)
        try:
            value = self.operations.xattrs.getxattr(path, name, handle)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and name in (ACCESS_LIST, DEFAULT_LIST):
                # what the kernel asks to decide who may, and would refuse everybody
                raise os_error(errno.ENODATA) from error
            raise
        return _sized(value, size)

    @steady
    def _listxattr(self, request: Request) -> Reply:
        size, _ = wire.GETXATTR_IN.unpack_from(request.body)
        names = self.operations.xattrs.listxattr(*self._path_or_handle(request.node))
        if request.uid:
            names = [name for name in names if not name.startswith(b"trusted.")]
        return _sized(b"".join(name + b"\0" for name in names), size)

    @steady
    def _removexattr(self, request: Request) -> Reply:
        path, handle = self._path_or_handle(request.node)
        (name,) = wire.names(request.body, 1)
        self.operations.xattrs.removexattr(path, name, handle)
        return ()

    def _path_or_handle(self, node_id: int) -> tuple[bytes, OpenFile | None]:
        """Return a node's path; of an open file without a name a handle of it."""
        node = self.nodes.get(node_id)
        path = self.nodes.path(node)
        return (path, None) if path is not None else (b"", self.handles.of_node(node))


def _sized(value: bytes, size: int) -> Reply:
    """Answer a request for a value or, with size 0, for its size."""
    if size == 0:
        return (wire.GETXATTR_OUT.pack(len(value), 0),)
    if len(value) > size:
        raise os_error(errno.ERANGE)
    return (value,)


def _time_ns(valid: int, field: SetAttr, now: SetAttr, seconds: int, nanoseconds: int) -> int | None:
    """Return a time to set; None for one that stays."""
    if not valid & field:
        return None
    return NOW_NS if valid & now else seconds * 10**9 + nanoseconds
