"""Requests that list directories.

A listing is taken when it is read from its beginning, and stays as it is for whoever reads on.
"""

import stat
from dataclasses import dataclass, field

from ckptfs.fs.attributes import Caller, Listed
from ckptfs.fs.control import below_versions
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.nodes import Node
from ckptfs.fs.transport.requests import Requests, steady
from ckptfs.fs.transport.wire import Handler, Opcode, Reply, Request


@dataclass(slots=True, kw_only=True)
class ListingRequests(Requests):
    """Answers them."""

    _listings: dict[int, list[Listed]] = field(default_factory=dict, init=False)
    """What is in each open directory, by the number of its handle."""

    def handlers(self) -> dict[int, Handler]:
        """Return what answers each opcode of theirs."""
        return {
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.FSYNCDIR: lambda request: (),
        }

    def _opendir(self, request: Request) -> Reply:
        number = self.handles.number()
        self._listings[number] = []
        return (wire.OPEN_OUT.pack(number, 0, 0),)

    def _releasedir(self, request: Request) -> Reply:
        number, _, _, _ = wire.RELEASE_IN.unpack_from(request.body)
        self._listings.pop(number, None)
        return ()

    @steady
    def _readdir(self, request: Request) -> Reply:
        return self._list(request, plus=False)

    @steady
    def _readdirplus(self, request: Request) -> Reply:
        return self._list(request, plus=True)

    def _list(self, request: Request, *, plus: bool) -> Reply:
        number, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(request.body)
        directory = self.nodes.get(request.node)
        if directory.gone is not None:
            return ()
        path = self.paths.path(request.node)
        if offset == 0:
            # what rewinddir(3) must show anew
            self._listings[number] = self._listed_in(directory, path)
        if number not in self._listings:
            # opened with a server before this one; an unchanged directory is listed in the same order
            self._listings[number] = self._listed_in(directory, path)
        listing = self._listings[number]
        parts: list[bytes] = []
        room = size
        caller = request.caller
        for index in range(offset, len(listing)):
            name = listing[index].name
            fixed = wire.DIRENT.size + (wire.ENTRY_OUT.size + wire.ATTR.size if plus else 0)
            needed = fixed + len(name) + -(wire.DIRENT.size + len(name)) % 8
            if needed > room:
                break
            row = self._list_row(directory, path, listing[index], index + 1, caller, plus=plus)
            if row:
                parts.append(row)
                room -= needed
        # in one piece: writev(2) takes 1,024 at most, and as many short names fit
        return (b"".join(parts),)

    def _listed_in(self, directory: Node, path: bytes) -> list[Listed]:
        dots = (Listed(name, directory.id, stat.S_IFDIR) for name in (b".", b".."))
        return [*dots, *self.operations.listing(path)]

    def _list_row(
        self, directory: Node, above: bytes, listed: Listed, offset: int, caller: Caller, *, plus: bool
    ) -> bytes:
        name = listed.name
        # the attributes of a version take its record and its tree from the store: those that want them look it up
        if name in (b".", b"..") or below_versions(above) == b"":
            entry = bytes(wire.ENTRY_OUT.size + wire.ATTR.size) if plus else b""
            return entry + wire.encode_directory_entry(listed.ino, offset, listed.format >> 12, name)
        path = above + b"/" + name if above else name
        try:
            attributes = self.operations.attributes(path, caller)
        except OSError:
            return b""  # it has gone since
        entry = self.paths.entry(directory, name, path, attributes) if plus else b""
        return entry + wire.encode_directory_entry(attributes.ino, offset, stat.S_IFMT(attributes.mode) >> 12, name)
