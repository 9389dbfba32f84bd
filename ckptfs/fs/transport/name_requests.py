"""Requests about names: finding, making, removing and changing them, and forgetting what was found."""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ckptfs.fs.control import control_of
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.nodes import Node
from ckptfs.fs.transport.requests import Requests, steady
from ckptfs.fs.transport.wire import Handler, Opcode, Reply, Request
from ckptfs.libc import RENAME_EXCHANGE

# a symlink is not opened
_HAVE_HANDLES = (stat.S_IFREG >> 12, stat.S_IFLNK >> 12)

_Name = tuple[Node, bytes]
"""In a directory."""


@dataclass(slots=True, kw_only=True)
class NameRequests(Requests):
    """Answers them."""

    def handlers(self) -> dict[int, Handler]:
        """Return what answers each opcode of theirs."""
        return {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.SYMLINK: self._symlink,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.LINK: self._link,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.RENAME: self._rename,
            Opcode.RENAME2: self._rename2,
        }

    @steady
    def _lookup(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        return self.paths.look_up(request, self.nodes.get(request.node), name)

    def _forget(self, request: Request) -> None:
        self.nodes.forget(request.node, *wire.FORGET_IN.unpack_from(request.body))

    def _batch_forget(self, request: Request) -> None:
        count, _ = wire.BATCH_FORGET_IN.unpack_from(request.body)
        rows = request.body[wire.BATCH_FORGET_IN.size :][: count * wire.FORGET_ONE.size]
        for node_id, lookups in wire.FORGET_ONE.iter_unpack(rows):
            self.nodes.forget(node_id, lookups)

    @steady
    def _symlink(self, request: Request) -> Reply:
        name, target = wire.names(request.body, 2)
        return self._made(request, name, lambda path: self.operations.symlink(path, target, request.caller))

    @steady
    def _mknod(self, request: Request) -> Reply:
        mode, device, umask, _ = wire.MKNOD_IN.unpack_from(request.body)
        mode = self.new_mode(request.node, mode, umask)
        (name,) = wire.names(request.body[wire.MKNOD_IN.size :], 1)
        return self._made(request, name, lambda path: self.operations.mknod(path, mode, device, request.caller))

    @steady
    def _mkdir(self, request: Request) -> Reply:
        mode, umask = wire.MKDIR_IN.unpack_from(request.body)
        mode = self.new_mode(request.node, mode & 0o7777, umask)
        (name,) = wire.names(request.body[wire.MKDIR_IN.size :], 1)
        return self._made(request, name, lambda path: self.operations.mkdir(path, mode, request.caller))

    @steady
    def _link(self, request: Request) -> Reply:
        (source_id,) = wire.LINK_IN.unpack_from(request.body)
        (name,) = wire.names(request.body[wire.LINK_IN.size :], 1)
        source = self.nodes.get(source_id)
        old = self.nodes.path(source)
        if old is None:
            handle = self.handles.of_node(source)
            return self._made(request, name, lambda path: self.operations.link_nameless(handle, path))
        return self._made(request, name, lambda path: self.operations.link(old, path))

    def _made(self, request: Request, name: bytes, make: Callable[[bytes], None]) -> Reply:
        directory = self.nodes.get(request.node)
        make(self.paths.below(directory, name))
        return self.paths.look_up(request, directory, name)

    def _unlink(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        directory = self.nodes.get(request.node)
        with self.paths.names.exclusive(), self._going((directory, name), request):
            self.operations.unlink(self.paths.below(directory, name))
            self.nodes.unlinked(directory, name, self._has_others(directory, name))
        return ()

    def _rmdir(self, request: Request) -> Reply:
        (name,) = wire.names(request.body, 1)
        directory = self.nodes.get(request.node)
        with self.paths.names.exclusive(), self._going((directory, name), request):
            self.operations.rmdir(self.paths.below(directory, name))
            self.nodes.unlinked(directory, name)
        return ()

    @contextmanager
    def _going(self, name: _Name, request: Request) -> Iterator[None]:
        """Remember what is about to lose its name looks like, if it may be open without our having a handle of it: a
        directory, a fifo.
        """
        node = self.nodes.named(*name)
        if node is None or node.kind in _HAVE_HANDLES:
            yield
            return
        last = self.operations.attributes(self.paths.below(*name), request.caller)
        yield
        if not node.names and stat.S_IFMT(last.mode) >> 12 not in _HAVE_HANDLES:
            node.gone = last._replace(nlink=0 if stat.S_ISDIR(last.mode) else last.nlink - 1, size_bytes=0)

    def _rename(self, request: Request) -> Reply:
        (new_directory,) = wire.RENAME_IN.unpack_from(request.body)
        return self._do_rename(request, new_directory, 0, request.body[wire.RENAME_IN.size :])

    def _rename2(self, request: Request) -> Reply:
        new_directory, flags, _ = wire.RENAME2_IN.unpack_from(request.body)
        return self._do_rename(request, new_directory, flags, request.body[wire.RENAME2_IN.size :])

    def _do_rename(self, request: Request, new_directory_id: int, flags: int, rest: memoryview) -> Reply:
        old_name, new_name = wire.names(rest, 2)
        source = self.nodes.get(request.node), old_name
        target = self.nodes.get(new_directory_id), new_name
        if control_of(self.paths.below(*target)) is not None:
            return self._rename_to_control(request, source, target, flags)
        with self.paths.names.exclusive():
            if flags & RENAME_EXCHANGE:
                ino = self.operations.attributes(self.paths.below(*source), request.caller).ino
                self.book.intends(request.id, ino)
            with self._going(target, request):
                self.operations.rename(self.paths.below(*source), self.paths.below(*target), flags)
                if flags & RENAME_EXCHANGE:
                    self.nodes.exchanged(*source, *target)
                else:
                    self.nodes.renamed(*source, *target, self._has_others(*target))
        return ()

    def _has_others(self, directory: Node, name: bytes) -> bool:
        """True if what has just lost a name is open and has others."""
        node = self.nodes.named(directory, name)
        return node is not None and self.operations.is_open_and_named(node.key)

    def _rename_to_control(self, request: Request, source: _Name, target: _Name, flags: int) -> Reply:
        """A touch: not with the names closed, it takes as long as a capture."""
        self.handles.intend_version(request)
        node = self.nodes.named(*source)
        key = node.key if node is not None else 0
        if node is not None:
            # the file goes, and what the kernel calls it is the marker then; before its number can come back
            self.nodes.rekey(node, (target[0].id, target[1]))
        try:
            self.operations.rename(self.paths.below(*source), self.paths.below(*target), flags)
        except BaseException:
            if node is not None:
                self.nodes.rekey(node, key)
            raise
        self.nodes.renamed(*source, *target)
        return ()
