"""The open files of a connection: a handle for each number that the kernel was given.

Which way each goes is decided in opening.py; what a server that takes over must know of it is kept in handle_book.py.
"""

import errno
import itertools
import os
import threading

from ckptfs.errors import os_error
from ckptfs.fs.handles import ControlHandle, FileHandle, Handle, OpenFile, ViewHandle
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.handle_book import HandleBook, OpenKind, OpenRecord
from ckptfs.fs.transport.nodes import Node, Nodes
from ckptfs.fs.transport.opening import Openings
from ckptfs.fs.transport.wire import OpenFlag, Request

# nothing is cached that a close would have to flush
_GOES_PAST = int(OpenFlag.PASSTHROUGH | OpenFlag.NOFLUSH)
# Where all data go through the kernel's page cache, it is right at the next open, too
_STAYS_KNOWN = int(OpenFlag.KEEP_CACHE)
# what a control file says has no size beforehand, and must not come from the page cache
_SAYS = int(OpenFlag.DIRECT_IO)


class OpenHandles:
    """All of them. Thread-safe.

    Args:
        openings: Which way each inode goes.
        passes: The kernel may be given files; else all are mediated.
    """

    def __init__(
        self, operations: Operations, nodes: Nodes, book: HandleBook, openings: Openings, *, passes: bool
    ) -> None:
        self._operations = operations
        self._nodes = nodes
        self._book = book
        self._openings = openings
        self._passes = passes
        self._handles: dict[int, Handle] = {}
        self._by_node: dict[int, list[OpenFile]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, number: int) -> Handle:
        """Return an open file. Raises KeyError for a number that the kernel cannot know."""
        return self._handles[number]

    def find(self, number: int) -> Handle | None:
        """Return an open file, None if there is none of that number."""
        return self._handles.get(number)

    def number(self) -> int:
        """Return a number for what is being opened."""
        return next(self._numbers)

    def take_up(self) -> None:
        """Count what the book says that servers before this one opened; none of their numbers comes again."""
        self._numbers = itertools.count(self._book.renumber())
        for left in self._book.handles.values():
            if left.kind != OpenKind.CONTROL:
                self._openings.adopt(left.ino, left.backing_id)

    def open_again(self, number: int, record: OpenRecord) -> bool:
        """Have a handle again for what a server before this one opened; return False if it cannot be found."""
        try:
            path = self._nodes.path(self._nodes.get(record.node))
            handle: Handle
            if record.kind == OpenKind.FILE:
                handle = self._operations.old_handles.go_on_file(path, record.ino, record.flags)
            elif record.kind == OpenKind.VIEW:
                handle = self._operations.old_handles.go_on_view(path, record.ino, record.flags)
            else:
                handle = self._operations.old_handles.go_on_control(
                    path or b"",
                    record.flags,
                    record.shown,
                    bytes(record.text),
                    process=record.process,
                    began_ns=record.began_ns,
                    captured=record.captured,
                )
        except (OSError, KeyError):
            return False
        self._keep(number, record, handle)
        return True

    def opened(self, request: Request, node_id: int, handle: Handle, flags: int) -> bytes:
        """Take up what a request opened; return OPEN_OUT."""
        number = self.number()
        open_flags, backing_id = 0, 0
        record = OpenRecord(node_id, _kind(handle), flags, 0, 0, request.id)
        if isinstance(handle, ControlHandle):
            open_flags = _SAYS
            record.shown = handle.text
            if handle.touch is not None:
                record.process, record.began_ns = handle.touch.process, handle.touch.began_ns
        else:
            maybe_mapped = isinstance(handle, FileHandle) and handle.inode.maybe_mapped
            backing_id = self._openings.open(
                handle.ino,
                flags,
                lambda: _open_once_more(handle),
                maybe_mapped=maybe_mapped,
                is_whole=handle.reader is None,
            )
            if backing_id:
                open_flags = _GOES_PAST
            elif not self._passes:
                open_flags = _STAYS_KNOWN
            record.ino, record.backing_id = handle.ino, backing_id
        self._book.opened(number, record)
        self._keep(number, record, handle)
        return wire.OPEN_OUT.pack(number, open_flags, backing_id)

    def _keep(self, number: int, record: OpenRecord, handle: Handle) -> None:
        if isinstance(handle, FileHandle) and record.backing_id:
            self._operations.going_past(handle)
            if handle.inode.maybe_mapped:
                self._book.may_be_mapped(handle.ino, handle.inode.path)
        if not isinstance(handle, ControlHandle):
            with self._lock:
                self._by_node.setdefault(record.node, []).append(handle)
        self._handles[number] = handle

    def let_go(self, number: int, node_id: int) -> None:
        """The kernel has closed it."""
        record = self._book.handles.get(number)
        self._book.closed(number)
        handle = self._handles.pop(number, None)
        if handle is None:
            if record is None:
                raise KeyError(number)
            if record.kind != OpenKind.CONTROL:
                # it could not be opened again, and yet it counts
                self._openings.close(record.ino)
            return
        if not isinstance(handle, ControlHandle):
            with self._lock:
                handles = self._by_node[node_id]
                handles.remove(handle)
                if not handles:
                    del self._by_node[node_id]
            if not handles:
                self._nodes.closed(node_id)
            self._openings.close(handle.ino)
        self._operations.release(handle)

    def of_node(self, node: Node) -> OpenFile:
        """Return one of the handles of a node. Raises OSError (ESTALE) if there is none."""
        handles = self._by_node.get(node.id)
        if not handles:
            raise os_error(errno.ESTALE)
        return handles[0]

    def mappable(self, node: Node) -> int | None:
        """Return the inode of a file that a program may have mapped shared and writable through us, else None."""
        handle = next(iter(self._by_node.get(node.id, ())), None)
        return handle.ino if isinstance(handle, FileHandle) and handle.inode.mappable else None

    def intend_version(self, request: Request, captures: int = 0) -> None:
        """Write down that a request may capture a version.

        Args:
            captures: How often the touch has captured that it ends.
        """
        self._book.intends(request.id, self._operations.newest_version() + 1, captures)


def _kind(handle: Handle) -> OpenKind:
    if isinstance(handle, ControlHandle):
        return OpenKind.CONTROL
    return OpenKind.FILE if isinstance(handle, FileHandle) else OpenKind.VIEW


def _open_once_more(handle: OpenFile) -> int:
    """Open a handle's file for whoever may join it."""
    if isinstance(handle, ViewHandle):
        return os.dup(handle.fd)
    return os.open(f"/proc/self/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)
