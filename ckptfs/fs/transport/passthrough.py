"""Our own server on /dev/fuse, without libfuse. Passthrough: the kernel moves file data directly between programs and
the live files, and we answer the rest; that needs Linux 6.9 and CAP_SYS_ADMIN in the first user namespace. Mediated:
the data go through us as well, which needs nothing but the descriptor.

Requests are served by several threads; one that blocks
(a fetch, a capture, fsync of the marker) does not keep the others from being answered, for a thread is added whenever
none is waiting.
"""

import errno
import functools
import itertools
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ckptfs.capture.gate import Gate
from ckptfs.errors import MountError
from ckptfs.fs.attributes import Attributes, Caller
from ckptfs.fs.control import Control, below_versions, control_of
from ckptfs.fs.interrupts import Interrupts
from ckptfs.fs.live import RENAME_EXCHANGE
from ckptfs.fs.open_files import FileHandle
from ckptfs.fs.operations import ControlHandle, Handle, Operations, ViewHandle
from ckptfs.fs.syscalls import is_chown
from ckptfs.fs.times import NOW_NS
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import MAX_WRITE_BYTES, REQUEST_BYTES, Device, DeviceClosedError, mount_device
from ckptfs.fs.transport.handle_book import HandleBook, OpenKind, OpenRecord
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.transport.ledger import Ledger
from ckptfs.fs.transport.nodes import Key, Node, Nodes
from ckptfs.fs.transport.opening import Openings
from ckptfs.fs.transport.resent import Resent
from ckptfs.fs.transport.wire import InitFlag, Opcode, OpenFlag, Request, SetAttr

log = logging.getLogger(__name__)

Reply = Sequence[bytes | memoryview]

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    # lets the kernel remember that a file has no capabilities, instead of asking before every write
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
    | InitFlag.HAS_RESEND
)

# The kernel's question before the first write to each inode; no file here has capabilities (setxattr refuses)
_ASKED_AT_FIRST_WRITE = b"security.capability"
# nothing is cached that a close would have to flush
_GOES_PAST = int(OpenFlag.PASSTHROUGH | OpenFlag.NOFLUSH)
# Where all data go through the kernel's page cache, it is right at the next open, too
_STAYS_KNOWN = int(OpenFlag.KEEP_CACHE)
# what a control file says has no size beforehand, and must not come from the page cache
_SAYS = int(OpenFlag.DIRECT_IO)

_SETS_SOMETHING = SetAttr.MODE | SetAttr.UID | SetAttr.GID | SetAttr.SIZE | SetAttr.ATIME | SetAttr.MTIME

# Only we change the tree, so what the kernel knows stays true; an hour rather than for ever, to be forgiving
_LONG_S = 3600
# fallocate(2) with FALLOC_FL_COLLAPSE_RANGE or FALLOC_FL_INSERT_RANGE: done twice it is something else
_SHIFTS = 0x08 | 0x20
# each may need a thread of its own
_MOST_AGAIN = 512
# the kernel hands these out before any other request (fs/fuse/dev.c)
_COME_FIRST = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
# the kernel reads ahead with 64 requests at most, which may all wait for the store; others are to find a thread
_MAX_THREADS = 128
_FIRST_THREADS = 3


_Handler = Callable[["PassthroughServer", Request], Reply]


def _steady(handler: _Handler) -> _Handler:
    """Return a handler that keeps names as they are while it runs; it must not take long."""

    @functools.wraps(handler)
    def run(server: "PassthroughServer", request: Request) -> Reply:
        if server.is_of_versions(request.node):
            # nothing is renamed there, and a version may have to be fetched
            return handler(server, request)
        with server.names:
            return handler(server, request)

    return run


class PassthroughServer:
    """Serves one mount.

    Args:
        operations: What to answer with.
        device: Mounted, or about to be.
        ledger: Takes what the next server must know, if there is to be one.
        passes: The kernel may be given files; else all are mediated.
        knows_programs: Process ids in requests are those of our pid namespace.
        stack_depth: 1; 2 if the live tree is on overlayfs.
        ready: Called when kernel and server have agreed on the protocol.
    """

    def __init__(
        self,
        operations: Operations,
        device: Device,
        *,
        ledger: Ledger | None = None,
        passes: bool = True,
        knows_programs: bool = True,
        stack_depth: int = 1,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._fs = operations
        self._device = device
        self._ledger = ledger
        self._passes = passes
        self._knows_programs = knows_programs
        self._is_over = False
        self._stack_depth = stack_depth
        self._ready = ready
        note = ledger.append if ledger is not None else lambda record: None
        self._nodes = Nodes(note)
        self._book = HandleBook(note)
        self._interrupts = Interrupts()
        self._openings = Openings(device.register_backing if passes else None, device.release_backing)
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, list[bytes]] = {}
        self._open_nodes: dict[int, list[FileHandle]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.names = Gate()
        """Entered while a path is in use; closed while names go or change, for the nodes follow after the operation."""
        self._resent = Resent(
            nodes=self._nodes,
            book=self._book,
            operations=operations,
            entry=self._entry_again,
            attributes=lambda request, node: (self._attributes_of(node, request),),
            handle=self._handles.get,
            let_go=self._let_go,
        )
        self._threads: list[threading.Thread] = []
        self._again: list[Request] = []
        """Read by take_over, to be served by run."""
        self._idle = 0
        self._handlers: dict[int, Callable[[Request], Reply | None]] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.GETATTR: self._getattr,
            Opcode.STATX: self._statx,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
            Opcode.LINK: self._link,
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
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.FSYNCDIR: lambda request: (),
            Opcode.STATFS: self._statfs,
            Opcode.SETXATTR: self._setxattr,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.REMOVEXATTR: self._removexattr,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: lambda request: (),
        }

    def run(self) -> None:
        """Serve until the mount is gone."""
        for request in self._again:
            self._start_thread(functools.partial(self._serve_once, request))
        for _ in range(_FIRST_THREADS):
            self._add_thread()
        # threads are only ever added, and by running ones
        for thread in iter(lambda: self._threads.pop() if self._threads else None, None):
            thread.join()

    def take_over(self) -> None:
        """Know what a server that was killed knew, and have its unanswered requests sent again; run follows.

        Raises:
            KeyError: The ledger does not fit together.
        """
        ledger, nodes, book = self._ledger, self._nodes, self._book
        if ledger is None:
            raise ValueError("there is no ledger to take over from")
        nodes.note = book.note = lambda record: None
        for record in ledger.records():
            if not nodes.replay(record) and not book.replay(record):
                raise KeyError(record[0])
        nodes.note = book.note = ledger.append
        self._numbers = itertools.count(book.renumber())
        for left in book.handles.values():
            if left.kind != OpenKind.CONTROL:
                self._openings.adopt(left.ino, left.backing_id)
        self._device.notify(wire.Notification.RESEND, b"")
        # before names change, for an open file may lose its last; and after, for what has changed already
        self._reopen_all(is_last=False)
        self._serve_names_again()
        self._reopen_all(is_last=True)
        for ino, path in list(book.mapped.items()):
            node = nodes.by_key(ino)
            if not self._fs.go_on_mapped(ino, (nodes.path(node) if node is not None else None) or path):
                del book.mapped[ino]
        self._rewrite_ledger()
        self._ready()
        log.info("took over open_files=%d requests_again=%d", len(self._handles), len(self._again))

    def _reopen_all(self, *, is_last: bool) -> None:
        for number, record in sorted(self._book.handles.items()):
            if number not in self._handles and not self._reopen(number, record) and is_last:
                log.warning("lost an open file node=%d inode=%d", record.node, record.ino)

    def _reopen(self, number: int, record: OpenRecord) -> bool:
        try:
            path = self._nodes.path(self._nodes.get(record.node))
            handle: Handle
            if record.kind == OpenKind.FILE:
                handle = self._fs.go_on_file(path, record.ino, record.flags)
            elif record.kind == OpenKind.VIEW:
                handle = self._fs.go_on_view(path, record.ino, record.flags)
            else:
                handle = self._fs.go_on_control(
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
        self._keep_handle(number, record, handle)
        return True

    def _serve_names_again(self) -> None:
        """Serve what changes names before all else: the disk may have the new names, and the nodes the old ones."""
        buffer = memoryview(bytearray(REQUEST_BYTES))
        requests: list[Request] = []
        while self._device.has_request() and len(requests) < _MOST_AGAIN:
            request = wire.decode_request(memoryview(bytes(self._device.receive(buffer))))
            requests.append(request)
            if not request.unique & wire.UNIQUE_RESEND and request.opcode not in _COME_FIRST:
                break  # what is sent again comes before all others
        for request in requests:
            if request.unique & wire.UNIQUE_RESEND:
                self._resent.follow_truncation(request)
        for request in requests:
            if request.unique & wire.UNIQUE_RESEND and self._resent.changes_names(request):
                self._serve_once(request)
            else:
                self._again.append(request)

    def _rewrite_ledger(self) -> None:
        if self._ledger is not None:
            with self._nodes.lock, self._book.lock:
                self._ledger.rewrite([*self._nodes.records(), *self._book.records()])

    def _entry_again(self, request: Request, directory: Node, name: bytes) -> Reply:
        path = self._below(directory, name)
        return (self._entry(directory, name, path, self._fs.attributes(path, _caller(request))),)

    def flush_mapped(self, ino: int) -> None:
        """Have the kernel write back what programs changed in mappings of a mediated file; returns when it is done."""
        node = self._nodes.by_key(ino)
        if node is not None:
            body = wire.INVAL_INODE_OUT.pack(node.id, 0, 0)
            self._device.notify(wire.Notification.INVAL_INODE, body)

    def tree_replaced(self) -> None:
        """The tree was restored to another version: names may be other inodes, and what the kernel remembers is old."""
        for directory, name, node in self._nodes.all_names():
            path = self._nodes.below(directory, name)
            try:
                same = path is not None and self._fs.attributes(path, Caller(0, 0, 0)).ino == node.key
            except OSError:
                same = False
            if not same and (path is None or control_of(path) is None):
                self._nodes.unlinked(directory, name)
            body = wire.INVAL_ENTRY_OUT.pack(directory.id, len(name), 0) + name + b"\0"
            self._device.notify(wire.Notification.INVAL_ENTRY, body)
            self._device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(node.id, 0, -1))
        self._device.notify(wire.Notification.INVAL_INODE, wire.INVAL_INODE_OUT.pack(wire.ROOT_NODE, 0, -1))

    # threads

    def _add_thread(self) -> None:
        self._start_thread(self._work)

    def _start_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="fuse", daemon=True)
        thread.start()
        # when it runs, for it may be joined at once; whoever adds it is not joined yet
        self._threads.append(thread)

    def _work(self) -> None:
        buffer = memoryview(bytearray(REQUEST_BYTES))
        while True:
            with self._lock:
                self._idle += 1
            try:
                data = self._device.receive(buffer)
            except DeviceClosedError:
                return
            with self._lock:
                self._idle -= 1
                is_last = self._idle == 0 and threading.active_count() < _MAX_THREADS
            if is_last:
                self._add_thread()
            self._serve_once(wire.decode_request(data))

    def _interrupt(self, request: Request) -> None:
        # no reply: the kernel waits for that of the interrupted request
        (unique,) = wire.INTERRUPT_IN.unpack_from(request.body)
        self._interrupts.interrupt(unique & ~wire.UNIQUE_RESEND)

    def refuse(self) -> None:
        """Answer nothing any more, as if the mount were gone."""
        self._is_over = True

    def _serve_once(self, request: Request) -> None:
        if not self._knows_programs:
            request = request._replace(pid=0)
        with self._interrupts.serving(request.unique & ~wire.UNIQUE_RESEND, request.pid):
            self._serve(request)
        self._book.answered(request.unique & ~wire.UNIQUE_RESEND)
        if self._ledger is not None and self._ledger.is_long:
            self._rewrite_ledger()

    def _serve(self, request: Request) -> None:
        handler = self._handlers.get(request.opcode)
        if handler is None or self._is_over:
            self._device.fail(request.unique, errno.ENOTCONN if self._is_over else errno.ENOSYS)
            return
        try:
            is_again = request.unique & wire.UNIQUE_RESEND
            reply = self._resent.serve(request, handler) if is_again else handler(request)
        except OSError as error:
            self._device.fail(request.unique, error.errno or errno.EIO)
        except KeyError:
            self._device.fail(request.unique, errno.ESTALE)
        except Exception:
            log.exception("failed opcode=%d", request.opcode)
            self._device.fail(request.unique, errno.EIO)
        else:
            if reply is not None:
                self._answer(request, reply)

    def _answer(self, request: Request, reply: Reply) -> None:
        try:
            self._device.reply(request.unique, reply)
        except OSError:
            # no reply at all would hold the program for ever, beyond SIGKILL
            log.exception("could not answer opcode=%d", request.opcode)
            self._device.fail(request.unique, errno.EIO)

    # protocol

    def _init(self, request: Request) -> Reply:
        major, minor, max_readahead, flags = wire.INIT_IN.unpack_from(request.body)
        if major != wire.MAJOR or minor < wire.OLDEST_MINOR:
            raise OSError(errno.EPROTO, f"the kernel speaks FUSE {major}.{minor}")
        if flags & InitFlag.INIT_EXT:
            flags |= int.from_bytes(request.body[wire.INIT_IN.size : wire.INIT_IN.size + 4], "little") << 32
        agreed = int(_WANTED if self._passes else _WANTED & ~InitFlag.PASSTHROUGH) & flags
        if self._passes and not agreed & InitFlag.PASSTHROUGH:
            raise OSError(errno.EPROTO, "the kernel has no FUSE passthrough")
        if self._ledger is not None and not agreed & InitFlag.HAS_RESEND:
            self._ledger.give_up("the kernel sends no request twice")
        self._ready()
        return (
            wire.INIT_OUT.pack(
                wire.MAJOR,
                min(minor, wire.MINOR),
                max_readahead,
                agreed & 0xFFFFFFFF,
                64,
                48,
                MAX_WRITE_BYTES,
                1,
                MAX_WRITE_BYTES // 4096,
                0,
                agreed >> 32,
                self._stack_depth if self._passes else 0,
                0,
            ),
        )

    @_steady
    def _lookup(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        directory = self._nodes.get(request.node)
        path = self._below(directory, name)
        return (self._entry(directory, name, path, self._fs.attributes(path, _caller(request))),)

    def _forget(self, request: Request) -> None:
        self._nodes.forget(request.node, *wire.FORGET_IN.unpack_from(request.body))

    def _batch_forget(self, request: Request) -> None:
        count, _ = wire.BATCH_FORGET_IN.unpack_from(request.body)
        rows = request.body[wire.BATCH_FORGET_IN.size :][: count * wire.FORGET_ONE.size]
        for node_id, lookups in wire.FORGET_ONE.iter_unpack(rows):
            self._nodes.forget(node_id, lookups)

    # attributes

    @_steady
    def _getattr(self, request: Request) -> Reply:
        flags, _, number = wire.GETATTR_IN.unpack_from(request.body)
        handle = self._handles.get(number) if flags & wire.GETATTR_FH else None
        return (self._attributes_of(self._nodes.get(request.node), request, handle),)

    def _attributes_of(self, node: Node, request: Request, handle: Handle | None = None) -> bytes:
        attributes, valid_s = self._look(node, request, handle)
        return wire.ATTR_OUT.pack(valid_s, 0, 0) + wire.encode_attributes(node.id, attributes)

    def _look(self, node: Node, request: Request, handle: Handle | None) -> tuple[Attributes, int]:
        """Return a node's attributes, and how long the kernel may remember them (s)."""
        path = self._nodes.path(node)
        if path is None:
            attributes = node.gone or self._fs.attributes(b"", _caller(request), handle or self._open_handle(node))
            return attributes, 0
        # fstat(2) of a named file asks for the same as stat(2)
        return self._fs.attributes(path, _caller(request), is_known=True), _valid_s(path)

    @_steady
    def _statx(self, request: Request) -> Reply:
        # asked for instead of GETATTR when a program wants to know when a file was made
        flags, _, number, _, _ = wire.STATX_IN.unpack_from(request.body)
        handle = self._handles.get(number) if flags & wire.GETATTR_FH else None
        node = self._nodes.get(request.node)
        attributes, valid_s = self._look(node, request, handle)
        path = self._nodes.path(node)
        birth_ns = self._fs.birth_ns(path) if path is not None else None
        return wire.STATX_OUT.pack(valid_s, 0, 0), wire.encode_statx(node.id, attributes, birth_ns)

    def _setattr(self, request: Request) -> Reply:
        valid, _, number, size = wire.SETATTR_IN.unpack_from(request.body)[:4]
        node = self._nodes.get(request.node)
        if node.gone is not None:
            node.gone = wire.with_attributes(node.gone, request.body, time.time_ns())
            return (self._attributes_of(node, request),)
        path = self._nodes.path(node)
        handle = self._handles.get(number) if valid & SetAttr.FH else None
        if path is None and handle is None:
            handle = self._open_handle(node)
        if path is not None and control_of(path) is Control.SAVE:
            self._intend_version(request)
        if valid & SetAttr.SIZE:
            # may have to wait for the file's data
            try:
                self._fs.truncate(path or b"", size, handle)
                if isinstance(handle, ControlHandle):
                    self._book.resized(number, size)
            except FileNotFoundError as error:
                if path is None or not self._has_moved(node, path):
                    raise
                # the kernel looks the name up again
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error
        if path is not None and control_of(path) is not None:
            # may be a touch, and take as long as that
            return self._set_attributes(request)
        with self.names:
            return self._set_attributes(request)

    def _set_attributes(self, request: Request) -> Reply:
        (
            valid, _, number, _, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
        ) = wire.SETATTR_IN.unpack_from(request.body)  # fmt: skip
        node = self._nodes.get(request.node)
        path = self._nodes.path(node)
        handle = self._handles.get(number) if valid & SetAttr.FH else None
        if path is None and handle is None:
            handle = self._open_handle(node)
        owner = (uid if valid & SetAttr.UID else -1, gid if valid & SetAttr.GID else -1)
        times = (
            _time_ns(valid, SetAttr.ATIME, SetAttr.ATIME_NOW, atime, atime_ns),
            _time_ns(valid, SetAttr.MTIME, SetAttr.MTIME_NOW, mtime, mtime_ns),
        )
        sets_times = bool(valid & (SetAttr.ATIME | SetAttr.MTIME))
        if path is None:
            new_mode = mode & 0o7777 if valid & SetAttr.MODE else None
            self._fs.change_nameless(handle, new_mode, owner, times if sets_times else None)
        else:
            # nothing is set: that is a write, or chown(2) to nobody
            if not valid & _SETS_SOMETHING and is_chown(request.pid):
                self._fs.chown_to_nobody(path, _caller(request))
            elif valid & SetAttr.KILL_SUIDGID or not valid & _SETS_SOMETHING:
                self._fs.drop_privileges(path, _caller(request))
            if owner != (-1, -1):
                self._fs.chown(path, *owner)
            if valid & SetAttr.MODE:
                self._fs.chmod(path, mode & 0o7777)
            if sets_times:
                self._fs.utimens(path, *times, _caller(request))
        return (self._attributes_of(node, request, handle),)

    @_steady
    def _readlink(self, request: Request) -> Reply:
        return (self._fs.readlink(self._path(request.node)),)

    def _statfs(self, request: Request) -> Reply:
        status = self._fs.statfs()
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

    @_steady
    def _setxattr(self, request: Request) -> Reply:
        size, flags = wire.SETXATTR_IN.unpack_from(request.body)
        rest = request.body[wire.SETXATTR_IN.size :]
        (name,) = wire.names(rest, 1)
        value = bytes(rest[len(name) + 1 :][:size])
        path, handle = self._path_or_handle(request.node)
        self._fs.setxattr(path, name, value, flags, handle)
        return ()

    @_steady
    def _getxattr(self, request: Request) -> Reply:
        size, _ = wire.GETXATTR_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.GETXATTR_IN.size :], 1)
        if name == _ASKED_AT_FIRST_WRITE:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        path, handle = self._path_or_handle(request.node)
        return _sized(self._fs.getxattr(path, name, handle), size)

    @_steady
    def _listxattr(self, request: Request) -> Reply:
        size, _ = wire.GETXATTR_IN.unpack_from(request.body)
        names = self._fs.listxattr(*self._path_or_handle(request.node))
        return _sized(b"".join(name + b"\0" for name in names), size)

    @_steady
    def _removexattr(self, request: Request) -> Reply:
        path, handle = self._path_or_handle(request.node)
        (name,) = wire.names(request.body, 1)
        self._fs.removexattr(path, name, handle)
        return ()

    # names

    @_steady
    def _symlink(self, request: Request) -> Reply:
        name, target = wire.names(request.body, 2)
        return self._made(request, name, lambda path: self._fs.symlink(path, target, _caller(request)))

    @_steady
    def _mknod(self, request: Request) -> Reply:
        mode, device, _, _ = wire.MKNOD_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.MKNOD_IN.size :], 1)
        return self._made(request, name, lambda path: self._fs.mknod(path, mode, device, _caller(request)))

    @_steady
    def _mkdir(self, request: Request) -> Reply:
        mode, _ = wire.MKDIR_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.MKDIR_IN.size :], 1)
        return self._made(request, name, lambda path: self._fs.mkdir(path, mode & 0o7777, _caller(request)))

    @_steady
    def _link(self, request: Request) -> Reply:
        (source_id,) = wire.LINK_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.LINK_IN.size :], 1)
        source = self._nodes.get(source_id)
        old = self._nodes.path(source)
        if old is None:
            handle = self._open_handle(source)
            return self._made(request, name, lambda path: self._fs.link_nameless(handle, path))
        return self._made(request, name, lambda path: self._fs.link(old, path))

    def _made(self, request: Request, name: bytes, make: Callable[[bytes], None]) -> Reply:
        directory = self._nodes.get(request.node)
        path = self._below(directory, name)
        make(path)
        return (self._entry(directory, name, path, self._fs.attributes(path, _caller(request))),)

    def _unlink(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        directory = self._nodes.get(request.node)
        with self.names.exclusive():
            self._fs.unlink(self._below(directory, name))
            self._nodes.unlinked(directory, name)
        return ()

    def _rmdir(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        directory = self._nodes.get(request.node)
        with self.names.exclusive(), self._going((directory, name), request):
            self._fs.rmdir(self._below(directory, name))
            self._nodes.unlinked(directory, name)
        return ()

    @contextmanager
    def _going(self, name: tuple[Node, bytes], request: Request) -> Iterator[None]:
        """Remember what a directory looks like that is about to lose its name."""
        node = self._nodes.named(*name)
        last = self._fs.attributes(self._below(*name), _caller(request)) if node is not None else None
        yield
        if node is not None and last is not None and stat.S_ISDIR(last.mode) and not node.names:
            node.gone = last._replace(nlink=0, size_bytes=0)

    def _rename(self, request: Request) -> Reply:
        (new_directory,) = wire.RENAME_IN.unpack_from(request.body)
        return self._do_rename(request, new_directory, 0, request.body[wire.RENAME_IN.size :])

    def _rename2(self, request: Request) -> Reply:
        new_directory, flags, _ = wire.RENAME2_IN.unpack_from(request.body)
        return self._do_rename(request, new_directory, flags, request.body[wire.RENAME2_IN.size :])

    def _do_rename(self, request: Request, new_directory_id: int, flags: int, rest: memoryview) -> Reply:
        old_name, new_name = wire.names(rest, 2)
        source = self._nodes.get(request.node), old_name
        target = self._nodes.get(new_directory_id), new_name
        new = self._below(*target)
        if control_of(new) is not None:
            # a touch: not with the names closed, it takes as long as a capture
            self._intend_version(request)
            node = self._nodes.named(*source)
            key = node.key if node is not None else 0
            if node is not None:
                # the file goes, and what the kernel calls it is the marker then; before its number can come back
                self._nodes.rekey(node, (target[0].id, new_name))
            try:
                self._fs.rename(self._below(*source), new, flags)
            except BaseException:
                if node is not None:
                    self._nodes.rekey(node, key)
                raise
            self._nodes.renamed(*source, *target)
            return ()
        with self.names.exclusive():
            if flags & RENAME_EXCHANGE:
                ino = self._fs.attributes(self._below(*source), _caller(request)).ino
                self._book.intends(request.unique & ~wire.UNIQUE_RESEND, ino)
            with self._going(target, request):
                self._fs.rename(self._below(*source), self._below(*target), flags)
                if flags & RENAME_EXCHANGE:
                    self._nodes.exchanged(*source, *target)
                else:
                    self._nodes.renamed(*source, *target)
        return ()

    # directories

    def _opendir(self, request: Request) -> Reply:
        number = next(self._numbers)
        self._listings[number] = []
        return (wire.OPEN_OUT.pack(number, 0, 0),)

    def _releasedir(self, request: Request) -> Reply:
        number, _, _, _ = wire.RELEASE_IN.unpack_from(request.body)
        self._listings.pop(number, None)
        return ()

    @_steady
    def _readdir(self, request: Request) -> Reply:
        return self._list(request, plus=False)

    @_steady
    def _readdirplus(self, request: Request) -> Reply:
        return self._list(request, plus=True)

    def _list(self, request: Request, *, plus: bool) -> Reply:
        number, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(request.body)
        directory = self._nodes.get(request.node)
        if directory.gone is not None:
            return ()
        path = self._path(request.node)
        if offset == 0:
            # what rewinddir(3) must show anew
            self._listings[number] = self._names_in(path)
        if number not in self._listings:
            # opened with a server before this one; an unchanged directory is listed in the same order
            self._listings[number] = self._names_in(path)
        listing = self._listings[number]
        parts: list[bytes] = []
        room = size
        caller = _caller(request)
        for index in range(offset, len(listing)):
            name = listing[index]
            fixed = wire.DIRENT.size + (wire.ENTRY_OUT.size + wire.ATTR.size if plus else 0)
            needed = fixed + len(name) + -(wire.DIRENT.size + len(name)) % 8
            if needed > room:
                break
            row = self._list_row(directory, path, name, index + 1, caller, plus=plus)
            if row:
                parts.append(row)
                room -= needed
        # in one piece: writev(2) takes 1,024 at most, and as many short names fit
        return (b"".join(parts),)

    def _names_in(self, path: bytes) -> list[bytes]:
        return [b".", b"..", *(listed.name for listed in self._fs.listing(path))]

    def _list_row(
        self, directory: Node, above: bytes, name: bytes, offset: int, caller: Caller, *, plus: bool
    ) -> bytes:
        if name in (b".", b".."):
            entry = bytes(wire.ENTRY_OUT.size + wire.ATTR.size) if plus else b""
            return entry + wire.encode_directory_entry(directory.id, offset, stat.S_IFDIR >> 12, name)
        path = above + b"/" + name if above else name
        try:
            attributes = self._fs.attributes(path, caller)
        except OSError:
            return b""  # it has gone since
        entry = self._entry(directory, name, path, attributes) if plus else b""
        return entry + wire.encode_directory_entry(attributes.ino, offset, stat.S_IFMT(attributes.mode) >> 12, name)

    # open files

    def _open(self, request: Request) -> Reply:
        flags, open_flags = wire.OPEN_IN.unpack_from(request.body)
        node = self._nodes.get(request.node)
        while True:
            path = self._nodes.path(node)
            if path is None:
                # through /proc/PID/fd
                handle: Handle = self._fs.reopen(self._open_handle(node), flags)
                return (self._opened(request, node.id, handle, flags, b""),)
            try:
                if open_flags & wire.OPEN_KILL_SUIDGID:
                    self._fs.drop_privileges(path, _caller(request))
                handle = self._fs.open(path, flags, _caller(request))
            except (FileNotFoundError, NotADirectoryError):
                if not self._has_moved(node, path):
                    raise
                continue
            self._follow_truncation(handle)
            if isinstance(handle, FileHandle) and handle.inode.ino != node.key and self._has_moved(node, path):
                self._fs.release(handle)
                continue
            return (self._opened(request, node.id, handle, flags, path),)

    def _follow_truncation(self, handle: Handle) -> None:
        """Truncating may have given a name a fresh inode, to leave the old one to a pending version. The handle holds
        the old one, so that its number is still what the kernel's inode is known by.
        """
        if isinstance(handle, FileHandle) and handle.replaced_fd is not None:
            node = self._nodes.by_key(os.fstat(handle.replaced_fd).st_ino)
            if node is not None:
                self._nodes.rekey(node, handle.inode.ino)

    def _has_moved(self, node: Node, path: bytes) -> bool:
        """True if a path is not a node's any more. An open waits for data, so names may change meanwhile."""
        with self.names:
            return self._nodes.path(node) != path

    @_steady
    def _create(self, request: Request) -> Reply:
        flags, mode, _, _ = wire.CREATE_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.CREATE_IN.size :], 1)
        directory = self._nodes.get(request.node)
        path = self._below(directory, name)
        handle = self._fs.create(path, flags, mode & 0o7777, _caller(request))
        self._follow_truncation(handle)
        entry = self._entry(directory, name, path, self._fs.attributes(path, _caller(request), handle))
        node_id = wire.ENTRY_OUT.unpack_from(entry)[0]
        return entry, self._opened(request, node_id, handle, flags, path)

    @_steady
    def _tmpfile(self, request: Request) -> Reply:
        flags, mode, _, _ = wire.CREATE_IN.unpack_from(request.body)
        handle = self._fs.create_nameless(self._path(request.node), flags, mode & 0o7777, _caller(request))
        attributes = self._fs.attributes(b"", _caller(request), handle)
        node = self._nodes.nameless(attributes.ino)
        entry = wire.ENTRY_OUT.pack(node.id, 0, 0, 0, 0, 0) + wire.encode_attributes(node.id, attributes)
        return entry, self._opened(request, node.id, handle, flags, b"")

    def _opened(self, request: Request, node_id: int, handle: Handle, flags: int, path: bytes) -> bytes:
        number = next(self._numbers)
        open_flags, backing_id = 0, 0
        record = OpenRecord(node_id, _kind(handle), flags, 0, 0, request.unique & ~wire.UNIQUE_RESEND)
        if isinstance(handle, ControlHandle):
            open_flags = _SAYS
            record.shown = handle.text
            if handle.touch is not None:
                record.process, record.began_ns = handle.touch.process, handle.touch.began_ns
        else:
            maybe_mapped = isinstance(handle, FileHandle) and handle.inode.maybe_mapped
            backing_id = self._openings.open(
                _ino(handle),
                flags,
                lambda: _reopen(handle),
                maybe_mapped=maybe_mapped,
                is_whole=handle.reader is None,
            )
            if backing_id:
                open_flags = _GOES_PAST
            elif not self._passes:
                open_flags = _STAYS_KNOWN
            record.ino, record.backing_id = _ino(handle), backing_id
        self._book.opened(number, record)
        self._keep_handle(number, record, handle)
        return wire.OPEN_OUT.pack(number, open_flags, backing_id)

    def _keep_handle(self, number: int, record: OpenRecord, handle: Handle) -> None:
        if isinstance(handle, FileHandle):
            if record.backing_id:
                self._fs.going_past(handle)
                if handle.inode.maybe_mapped:
                    self._book.may_be_mapped(handle.inode.ino, handle.inode.path)
            with self._lock:
                self._open_nodes.setdefault(record.node, []).append(handle)
        self._handles[number] = handle

    def _release(self, request: Request) -> Reply:
        number, _, _, _ = wire.RELEASE_IN.unpack_from(request.body)
        self._let_go(number, request.node)
        return ()

    def _let_go(self, number: int, node_id: int) -> None:
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
        if isinstance(handle, FileHandle):
            with self._lock:
                handles = self._open_nodes[node_id]
                handles.remove(handle)
                if not handles:
                    del self._open_nodes[node_id]
            if not handles:
                self._nodes.closed(node_id)
        if not isinstance(handle, ControlHandle):
            self._openings.close(_ino(handle))
        self._fs.release(handle)

    def _read(self, request: Request) -> Reply:
        number, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(request.body)
        buffer = memoryview(bytearray(size))
        return (buffer[: self._fs.read_into(self._handles[number], buffer, offset)],)

    def _write(self, request: Request) -> Reply:
        number, offset, size, write_flags, _, _, _ = wire.WRITE_IN.unpack_from(request.body)
        handle = self._handles[number]
        path = self._nodes.path(self._nodes.get(request.node))
        if write_flags & wire.WRITE_KILL_SUIDGID and path is not None:
            self._fs.drop_privileges(path, _caller(request))
        data = request.body[wire.WRITE_IN.size :][:size]
        written = self._fs.write(handle, data, offset)
        if isinstance(handle, ControlHandle):
            appends = handle.touch is not None and handle.touch.appends
            self._book.wrote(number, -1 if appends else offset, bytes(data))
        return (wire.WRITE_OUT.pack(written, 0),)

    def _flush(self, request: Request) -> Reply:
        number = wire.FLUSH_IN.unpack_from(request.body)[0]
        handle = self._handles[number]
        with self._settling(request, number, handle):
            self._fs.flush(handle)
        return ()

    @contextmanager
    def _settling(self, request: Request, number: int, handle: Handle) -> Iterator[None]:
        """Write down what a request does that may capture a version."""
        if not isinstance(handle, ControlHandle) or handle.touch is None:
            yield
            return
        touch = handle.touch
        if not touch.synced:
            self._intend_version(request, self._book.handles[number].captures)
        before = touch.captured_at
        yield
        if touch.captured_at != before:
            self._book.captured(number, handle.text)

    def _intend_version(self, request: Request, captures: int = 0) -> None:
        self._book.intends(request.unique & ~wire.UNIQUE_RESEND, self._fs.newest_version() + 1, captures)

    def _fsync(self, request: Request) -> Reply:
        number, flags, _ = wire.FSYNC_IN.unpack_from(request.body)
        handle = self._handles[number]
        with self._settling(request, number, handle):
            self._fs.fsync(handle, bool(flags & wire.FSYNC_DATA_ONLY))
        return ()

    def _fallocate(self, request: Request) -> Reply:
        number, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(request.body)
        path = self._nodes.path(self._nodes.get(request.node))
        if request.uid and path is not None:
            # the kernel leaves it to us, and does not say whether the program has CAP_FSETID
            self._fs.drop_privileges(path, _caller(request))
        handle = self._handles[number]
        if mode & _SHIFTS and isinstance(handle, FileHandle):
            self._book.intends(request.unique & ~wire.UNIQUE_RESEND, os.fstat(handle.fd).st_size)
        self._fs.allocate(handle, mode, offset, length)
        return ()

    def _lseek(self, request: Request) -> Reply:
        number, offset, whence, _ = wire.LSEEK_IN.unpack_from(request.body)
        handle = self._handles[number]
        if isinstance(handle, FileHandle) and handle.inode.mappable:
            # the kernel does not: what was stored in a mapping of a hole is still its own secret
            self.flush_mapped(handle.inode.ino)
        return (wire.LSEEK_OUT.pack(self._fs.seek(handle, offset, whence)),)

    def _copy_file_range(self, request: Request) -> Reply:
        source, source_offset, _, target, target_offset, length, _ = wire.COPY_FILE_RANGE_IN.unpack_from(request.body)
        handles = self._handles[source], self._handles[target]
        # the reply has 32 bits for the length
        copied = self._fs.copy_range(*handles, source_offset, target_offset, min(length, 1 << 30))
        return (wire.WRITE_OUT.pack(copied, 0),)

    # nodes and paths

    def is_of_versions(self, node_id: int) -> bool:
        """True if a node is `.versions` or below it."""
        path = self._nodes.path(self._nodes.get(node_id))
        return path is not None and below_versions(path) is not None

    def _path(self, node_id: int) -> bytes:
        path = self._nodes.path(self._nodes.get(node_id))
        if path is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return path

    def _path_or_handle(self, node_id: int) -> tuple[bytes, FileHandle | None]:
        """Return a node's path; of an open file without a name a handle of it."""
        node = self._nodes.get(node_id)
        path = self._nodes.path(node)
        return (path, None) if path is not None else (b"", self._open_handle(node))

    def _below(self, directory: Node, name: bytes) -> bytes:
        path = self._nodes.below(directory, name)
        if path is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return path

    def _entry(self, directory: Node, name: bytes, path: bytes, attributes: Attributes) -> bytes:
        key: Key = attributes.ino if control_of(path) is None or b".versions" in path else (directory.id, name)
        node = self._nodes.found(directory, name, key)
        valid_s = _valid_s(path)
        return wire.ENTRY_OUT.pack(node.id, 0, valid_s, valid_s, 0, 0) + wire.encode_attributes(node.id, attributes)

    def _open_handle(self, node: Node) -> FileHandle:
        handles = self._open_nodes.get(node.id)
        if not handles:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return handles[0]


def serve(
    operations: Operations,
    connection: Connection,
    mountpoint: Path,
    *,
    name: str,
    allow_other: bool,
    read_only: bool,
    passes: bool,
    stack_depth: int,
    made: Callable[[PassthroughServer], None],
    ready: Callable[[], None],
) -> None:
    """Mount and serve until unmounted; or serve what somebody else mounted, or take over from a server that was killed.

    Args:
        made: Given the server before it serves anything.
        ready: Called when the mount is there.

    Raises:
        MountError: The device or the mount is refused.
    """
    device = Device(os.dup(connection.device_fd))
    lent = connection.lent
    server = PassthroughServer(
        operations,
        device,
        ledger=connection.ledger,
        passes=passes,
        knows_programs=lent is None or lent.knows_programs,
        stack_depth=stack_depth,
        ready=ready,
    )
    made(server)
    try:
        if connection.is_mounted:
            server.take_over()
        else:
            if lent is None:
                owner = (os.geteuid(), os.getegid())
                mount_device(device.fd, mountpoint, name, owner=owner, allow_other=allow_other, read_only=read_only)
            connection.mounted()
    except OSError as error:
        device.close()
        raise MountError(f"could not mount on {mountpoint}: {error.strerror}", hint="mounting needs root") from error
    try:
        server.run()
    finally:
        device.close()


def _caller(request: Request) -> Caller:
    return Caller(request.uid, request.gid, request.pid)


def _ino(handle: FileHandle | ViewHandle) -> int:
    return handle.inode.ino if isinstance(handle, FileHandle) else handle.attributes.ino


def _kind(handle: Handle) -> OpenKind:
    if isinstance(handle, ControlHandle):
        return OpenKind.CONTROL
    return OpenKind.FILE if isinstance(handle, FileHandle) else OpenKind.VIEW


def _reopen(handle: FileHandle | ViewHandle) -> int:
    """Open a handle's file for whoever may join it."""
    if isinstance(handle, ViewHandle):
        return os.dup(handle.fd)
    return os.open(f"/proc/self/fd/{handle.fd}", os.O_RDWR | os.O_CLOEXEC)


def _valid_s(path: bytes) -> int:
    """Return how long the kernel may remember a path and its attributes."""
    below = below_versions(path)
    if below is not None:
        # what a version holds never changes; which versions and tags there are does
        return _LONG_S if b"/" in below else 0
    return 0 if control_of(path) is not None else _LONG_S


def _sized(value: bytes, size: int) -> Reply:
    """Answer a request for a value or, with size 0, for its size."""
    if size == 0:
        return (wire.GETXATTR_OUT.pack(len(value), 0),)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return (value,)


def _time_ns(valid: int, field: SetAttr, now: SetAttr, seconds: int, nanoseconds: int) -> int | None:
    """Return a time to set; None for one that stays."""
    if not valid & field:
        return None
    return NOW_NS if valid & now else seconds * 10**9 + nanoseconds
