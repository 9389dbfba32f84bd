"""Requests that a server had read when it was killed: the kernel sends them again, and some were done already.

Most can be done twice without a difference. The kernel keeps the names of a directory locked until a request that
changes them is answered, so nobody else can have made the name that is there already, or taken the one that is gone:
it was done, and is answered so. What has no such trace was announced in the book before (`HandleBook.intends`).
"""

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ckptfs.fs.control import Control, control_of
from ckptfs.fs.handles import ControlHandle, FileHandle, Handle
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.handle_book import HandleBook
from ckptfs.fs.transport.nodes import Node, Nodes
from ckptfs.fs.transport.wire import Handler, Opcode, Reply, Request
from ckptfs.libc import RENAME_EXCHANGE

# the error that doing it a second time gives
_TRACES = {
    Opcode.MKDIR: errno.EEXIST,
    Opcode.MKNOD: errno.EEXIST,
    Opcode.SYMLINK: errno.EEXIST,
    Opcode.LINK: errno.EEXIST,
    Opcode.UNLINK: errno.ENOENT,
    Opcode.RMDIR: errno.ENOENT,
    Opcode.RENAME: errno.ENOENT,
    Opcode.RENAME2: errno.ENOENT,
    Opcode.SETXATTR: errno.EEXIST,
    Opcode.REMOVEXATTR: errno.ENODATA,
}
_CHANGE_NAMES = {
    Opcode.MKDIR, Opcode.MKNOD, Opcode.SYMLINK, Opcode.LINK, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2,
    Opcode.CREATE,
}  # fmt: skip
_NAME_AT = {
    Opcode.MKDIR: wire.MKDIR_IN.size,
    Opcode.MKNOD: wire.MKNOD_IN.size,
    Opcode.SYMLINK: 0,
    Opcode.LINK: wire.LINK_IN.size,
    Opcode.UNLINK: 0,
    Opcode.RMDIR: 0,
}


@dataclass(slots=True, kw_only=True)
class Resent:
    """Serves such requests.

    Args:
        entry: Answers as a look-up of a name in a directory does.
        attributes: Answers as a request for a node's attributes does.
        handle: Returns an open file.
        let_go: Closes one of a node.
    """

    nodes: Nodes
    book: HandleBook
    operations: Operations
    entry: Callable[[Request, Node, bytes], Reply]
    attributes: Callable[[Request, Node], Reply]
    handle: Callable[[int], Handle | None]
    let_go: Callable[[int, int], None]

    def serve(self, request: Request, handler: Handler) -> Reply | None:
        """Do a request, or answer it if it was done."""
        for number, record in list(self.book.handles.items()):
            if record.unique == request.id:
                # nobody was told of it
                self.let_go(number, record.node)
        if request.opcode == Opcode.CREATE:
            request = _not_exclusive(request)
        intent = self.book.intents.get(request.id)
        if intent is not None and self._is_done(request, intent):
            return self._answer(request)
        try:
            return handler(request)
        except OSError as error:
            if error.errno != _TRACES.get(Opcode(request.opcode)):
                raise
            return self._answer(request)

    def changes_names(self, request: Request) -> bool:
        """True if a request is to be served before all others, which know the new names already.

        Not a rename to the marker: a capture has the kernel write pages, and somebody must serve that.
        """
        if request.opcode not in _CHANGE_NAMES:
            return False
        if request.opcode in (Opcode.RENAME, Opcode.RENAME2):
            _, _, directory, name, _ = self._rename_of(request)
            return control_of(self.nodes.below(directory, name) or b"") is None
        return True

    def follow_truncation(self, request: Request) -> None:
        """If a request opens a file to be truncated, its name may have a fresh inode already (FileRequests._open):
        know it by that before the old one's number comes back.
        """
        try:
            node = self._truncated(request)
            path = self.nodes.path(node) if node is not None else None
            if node is None or path is None or control_of(path) is not None:
                return
            ino = self.operations.attributes(path, wire.KERNEL).ino
        except (OSError, KeyError):
            return  # told to the program when the request is served
        # another node's: a name that has changed already, and is followed when its request is served
        if ino != node.key and self.nodes.by_key(ino) is None:
            self.nodes.rekey(node, ino)

    def _truncated(self, request: Request) -> Node | None:
        """Return the node that a request opens to be truncated, None if it does no such thing."""
        if request.opcode == Opcode.OPEN and wire.OPEN_IN.unpack_from(request.body)[0] & os.O_TRUNC:
            return self.nodes.get(request.node)
        if request.opcode == Opcode.CREATE and wire.CREATE_IN.unpack_from(request.body)[0] & os.O_TRUNC:
            (name,) = wire.names(request.body[wire.CREATE_IN.size :], 1)
            return self.nodes.named(self.nodes.get(request.node), name)
        return None

    def _is_done(self, request: Request, intent: tuple[int, ...]) -> bool:
        match Opcode(request.opcode):
            case Opcode.FALLOCATE:
                handle = self.handle(wire.FALLOCATE_IN.unpack_from(request.body)[0])
                return isinstance(handle, FileHandle) and os.fstat(handle.fd).st_size != intent[0]
            case Opcode.RENAME | Opcode.RENAME2:
                return self._is_renamed(request, intent[0])
            case Opcode.FLUSH | Opcode.FSYNC:
                return self._is_settled(request, *intent)
            case _:
                return self.operations.newest_version() >= intent[0]

    def _is_settled(self, request: Request, version: int, captures: int) -> bool:
        """True if a close of the marker captured; if an fsync did, only waiting is left to be done."""
        # both structures begin with the handle
        number = int.from_bytes(request.body[:8], sys.byteorder)
        handle, record = self.handle(number), self.book.handles.get(number)
        if record is None or not isinstance(handle, ControlHandle) or handle.touch is None:
            return False
        if record.captures == captures:
            if captures or self.operations.newest_version() < version:
                return False
            # nobody has saved since: the newest version is that of this touch
            handle.text = self.operations.texts[Control.SAVE]()
            self.book.captured(number, handle.text)
            handle.touch.captured_text = bytes(handle.touch.text)
        handle.touch.synced = request.opcode == Opcode.FSYNC
        return not handle.touch.synced

    def _is_renamed(self, request: Request, intent: int) -> bool:
        directory, name, new_directory, new_name, _ = self._rename_of(request)
        old, new = self.nodes.below(directory, name), self.nodes.below(new_directory, new_name)
        if new is not None and control_of(new) is Control.SAVE:
            if self.operations.newest_version() < intent:
                self.operations.finish_touch_by_rename()
            return True
        return old is not None and self.operations.attributes(old, wire.KERNEL).ino != intent

    def _rename_of(self, request: Request) -> tuple[Node, bytes, Node, bytes, int]:
        flags = 0
        if request.opcode == Opcode.RENAME:
            (new_directory,), size = wire.RENAME_IN.unpack_from(request.body), wire.RENAME_IN.size
        else:
            (new_directory, flags, _), size = wire.RENAME2_IN.unpack_from(request.body), wire.RENAME2_IN.size
        name, new_name = wire.names(request.body[size:], 2)
        return self.nodes.get(request.node), name, self.nodes.get(new_directory), new_name, flags

    def _answer(self, request: Request) -> Reply:
        """Answer as if it had just been done, and draw the conclusions that may be missing."""
        opcode = Opcode(request.opcode)
        if opcode in (Opcode.RENAME, Opcode.RENAME2):
            directory, name, new_directory, new_name, flags = self._rename_of(request)
            if flags & RENAME_EXCHANGE:
                node, path = self.nodes.named(directory, name), self.nodes.below(directory, name)
                if node is not None and self.operations.attributes(path or b"", wire.KERNEL).ino != node.key:
                    self.nodes.exchanged(directory, name, new_directory, new_name)
            elif self.nodes.named(directory, name) is not None:
                self.nodes.renamed(directory, name, new_directory, new_name)
            return ()
        if opcode in _NAME_AT:
            name = wire.names(request.body[_NAME_AT[opcode] :], 1)[0]
            directory = self.nodes.get(request.node)
            if opcode in (Opcode.UNLINK, Opcode.RMDIR):
                node = self.nodes.named(directory, name)
                has_others = node is not None and self.operations.is_open_and_named(node.key)
                self.nodes.unlinked(directory, name, has_others)
                return ()
            return self.entry(request, directory, name)
        if opcode == Opcode.SETATTR:
            return self.attributes(request, self.nodes.get(request.node))
        return ()


def _not_exclusive(request: Request) -> Request:
    """Return a CREATE that opens what it made the first time."""
    flags, *rest = wire.CREATE_IN.unpack_from(request.body)
    head = wire.CREATE_IN.pack(flags & ~os.O_EXCL, *rest)
    return request._replace(body=memoryview(head + bytes(request.body[wire.CREATE_IN.size :])))
