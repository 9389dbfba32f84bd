"""Requests that open files, and those about open files."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ckptfs.fs.handles import ControlHandle, FileHandle, Handle, OpenFile
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.nodes import Node
from ckptfs.fs.transport.notices import Notices
from ckptfs.fs.transport.paths import MAY_HAVE_MOVED
from ckptfs.fs.transport.requests import Requests, steady
from ckptfs.fs.transport.wire import Handler, Opcode, Reply, Request

# fallocate(2) with FALLOC_FL_COLLAPSE_RANGE or FALLOC_FL_INSERT_RANGE: done twice it is something else
_SHIFTS = 0x08 | 0x20


@dataclass(slots=True, kw_only=True)
class FileRequests(Requests):
    """Answers them."""

    notices: Notices

    def handlers(self) -> dict[int, Handler]:
        """Return what answers each opcode of theirs."""
        return {
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.TMPFILE: self._tmpfile,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FLUSH: self._flush,
            Opcode.RELEASE: self._release,
            Opcode.FSYNC: self._fsync,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.LSEEK: self._lseek,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
        }

    def _open(self, request: Request) -> Reply:
        flags, open_flags = wire.OPEN_IN.unpack_from(request.body)
        node = self.nodes.get(request.node)
        is_other = False
        while True:
            path, era = self.paths.now(node)
            if path is None:
                return self._open_nameless(request, node, flags, open_flags)
            try:
                if open_flags & wire.OPEN_KILL_SUIDGID:
                    self._drop_privileges(request, None)
                # it may be another because somebody else truncates it, and its node is about to follow
                known_ino = node.key if isinstance(node.key, int) and not is_other else None
                handle = self.operations.open(path, flags, request.caller, era, known_ino)
            except OSError as error:
                if error.errno not in MAY_HAVE_MOVED:
                    raise
                has_moved = self.paths.has_moved(node, path, era)
                if not has_moved and (is_other or error.errno != errno.ESTALE):
                    raise
                is_other = not has_moved
                continue
            self._follow_truncation(handle)
            if isinstance(handle, OpenFile) and handle.ino != node.key and self.paths.has_moved(node, path, era):
                self.operations.release(handle)
                continue
            return (self.handles.opened(request, node.id, handle, flags),)

    def _open_nameless(self, request: Request, node: Node, flags: int, open_flags: int) -> Reply:
        """Open through /proc/PID/fd what has no name."""
        nameless = self.handles.of_node(node)
        if open_flags & wire.OPEN_KILL_SUIDGID:
            self.operations.privileges.drop(None, request.caller, nameless)
        return (self.handles.opened(request, node.id, self.operations.reopen(nameless, flags), flags),)

    def _drop_privileges(self, request: Request, handle: Handle | None) -> None:
        """Take setuid and setgid from the file of a request.

        Args:
            handle: Of it, if it may have no name.
        """
        with self.paths.names:
            path = self.nodes.path(self.nodes.get(request.node))
            if path is not None or handle is not None:
                self.operations.privileges.drop(path, request.caller, handle)

    def _follow_truncation(self, handle: Handle) -> None:
        """Truncating may have given a name a fresh inode, to leave the old one to a pending version. The handle holds
        the old one, so that its number is still what the kernel's inode is known by.
        """
        if isinstance(handle, FileHandle) and handle.replaced_fd is not None:
            node = self.nodes.by_key(os.fstat(handle.replaced_fd).st_ino)
            if node is not None:
                self.nodes.rekey(node, handle.ino)

    @steady
    def _create(self, request: Request) -> Reply:
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(request.body)
        mode = self.new_mode(request.node, mode & 0o7777, umask)
        (name,) = wire.names(request.body[wire.CREATE_IN.size :], 1)
        directory = self.nodes.get(request.node)
        path = self.paths.below(directory, name)
        handle = self.operations.create(path, flags, mode, request.caller)
        self._follow_truncation(handle)
        entry = self.paths.entry(directory, name, path, self.operations.attributes(path, request.caller, handle))
        node_id = wire.ENTRY_OUT.unpack_from(entry)[0]
        return entry, self.handles.opened(request, node_id, handle, flags)

    @steady
    def _tmpfile(self, request: Request) -> Reply:
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(request.body)
        mode = self.new_mode(request.node, mode & 0o7777, umask)
        handle = self.operations.create_nameless(self.paths.path(request.node), flags, mode, request.caller)
        attributes = self.operations.attributes(b"", request.caller, handle)
        node = self.nodes.nameless(attributes.ino)
        entry = wire.ENTRY_OUT.pack(node.id, 0, 0, 0, 0, 0) + wire.encode_attributes(node.id, attributes)
        return entry, self.handles.opened(request, node.id, handle, flags)

    def _release(self, request: Request) -> Reply:
        number, _, _, _ = wire.RELEASE_IN.unpack_from(request.body)
        if isinstance(self.handles.find(number), ControlHandle):
            # may be a touch, and take as long as that
            self.handles.let_go(number, request.node)
            return ()
        with self.paths.names:
            if self._has_name(request.node):
                self.handles.let_go(number, request.node)
                return ()
        # who asks for a file without a name is answered by any of its handles: not by one that is just being closed
        with self.paths.names.exclusive():
            self.handles.let_go(number, request.node)
        return ()

    def _has_name(self, node_id: int) -> bool:
        try:
            return self.nodes.path(self.nodes.get(node_id)) is not None
        except KeyError:
            return False  # the kernel has forgotten it, which another thread was told first

    def _read(self, request: Request) -> Reply:
        number, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(request.body)
        buffer = memoryview(bytearray(size))
        return (buffer[: self.operations.read_into(self.handles.get(number), buffer, offset)],)

    def _write(self, request: Request) -> Reply:
        number, offset, size, write_flags, _, _, _ = wire.WRITE_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        if write_flags & wire.WRITE_KILL_SUIDGID:
            self._drop_privileges(request, handle)
        data = request.body[wire.WRITE_IN.size :][:size]
        written = self.operations.write(handle, data, offset)
        if isinstance(handle, ControlHandle):
            appends = handle.touch is not None and handle.touch.appends
            self.book.wrote(number, -1 if appends else offset, bytes(data))
        return (wire.WRITE_OUT.pack(written, 0),)

    def _flush(self, request: Request) -> Reply:
        number = wire.FLUSH_IN.unpack_from(request.body)[0]
        handle = self.handles.get(number)
        with self._settling(request, number, handle):
            self.operations.flush(handle)
        return ()

    @contextmanager
    def _settling(self, request: Request, number: int, handle: Handle) -> Iterator[None]:
        """Write down what a request does that may capture a version."""
        if not isinstance(handle, ControlHandle) or handle.touch is None:
            yield
            return
        touch = handle.touch
        if not touch.synced:
            self.handles.intend_version(request, self.book.handles[number].captures)
        before = touch.captured_at
        yield
        if touch.captured_at != before:
            self.book.captured(number, handle.text)

    def _fsync(self, request: Request) -> Reply:
        number, flags, _ = wire.FSYNC_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        with self._settling(request, number, handle):
            self.operations.fsync(handle, bool(flags & wire.FSYNC_DATA_ONLY))
        return ()

    def _fallocate(self, request: Request) -> Reply:
        number, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        if request.uid:
            # the kernel leaves it to us, and does not say whether the program has CAP_FSETID
            self._drop_privileges(request, handle)
        if mode & _SHIFTS and isinstance(handle, FileHandle):
            self.book.intends(request.id, os.fstat(handle.fd).st_size)
        self.operations.allocate(handle, mode, offset, length)
        return ()

    def _lseek(self, request: Request) -> Reply:
        number, offset, whence, _ = wire.LSEEK_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        if isinstance(handle, FileHandle) and handle.inode.mappable:
            # the kernel does not: what was stored in a mapping of a hole is still its own secret
            self.notices.flush_mapped(handle.ino)
        return (wire.LSEEK_OUT.pack(self.operations.seek(handle, offset, whence)),)

    def _copy_file_range(self, request: Request) -> Reply:
        source, source_offset, _, target, target_offset, length, _ = wire.COPY_FILE_RANGE_IN.unpack_from(request.body)
        handles = self.handles.get(source), self.handles.get(target)
        # the reply has 32 bits for the length
        copied = self.operations.copy_range(*handles, source_offset, target_offset, min(length, 1 << 30))
        return (wire.WRITE_OUT.pack(copied, 0),)
