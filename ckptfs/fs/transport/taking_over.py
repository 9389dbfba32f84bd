"""Going on where a server was killed: what it knew, what was open, and what it had read and not answered.

The order is that of docs/CONCURRENCY.md, "Taking over from a mount process that was killed", steps 4 to 7.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ckptfs.capture.change_times import ChangeTimes
from ckptfs.fs.operations import Operations
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.device import REQUEST_BYTES, Device
from ckptfs.fs.transport.handle_book import HandleBook
from ckptfs.fs.transport.ledger import Ledger
from ckptfs.fs.transport.nodes import Nodes
from ckptfs.fs.transport.open_handles import OpenHandles
from ckptfs.fs.transport.resent import Resent
from ckptfs.fs.transport.wire import Opcode, Request

log = logging.getLogger(__name__)

# each may need a thread of its own
_MOST_AGAIN = 512
# the kernel hands these out before any other request (fs/fuse/dev.c)
_COME_FIRST = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


@dataclass(slots=True, kw_only=True)
class TakingOver:
    """Takes over, once.

    Args:
        ledger: Of the server that was killed.
        nodes, book: Empty.
        times: As they are on disk, for all that is not known.
        serve: Serves a request and answers it.
        follow: Takes from nodes the names that lead to other inodes.
    """

    operations: Operations
    device: Device
    ledger: Ledger
    nodes: Nodes
    book: HandleBook
    times: ChangeTimes
    handles: OpenHandles
    resent: Resent
    serve: Callable[[Request], None]
    follow: Callable[[], None]

    def take_over(self) -> list[Request]:
        """Know what the other server knew; return the requests that are still to be served.

        Raises:
            KeyError: The ledger does not fit together.
        """
        self._replay()
        self.handles.take_up()
        self.device.notify(wire.Notification.RESEND, b"")
        # before names change, for an open file may lose its last; and after, for what has changed already
        self._open_all_again(is_last=False)
        if self.nodes.untold is not None:
            # killed while the tree became another version; a `.restore` is asked for again, but so is all else
            self.follow()
        left = self._serve_names_again()
        self._open_all_again(is_last=True)
        self._go_on_with_mapped()
        return left

    def _replay(self) -> None:
        self.nodes.note = self.book.note = lambda record: None
        for record in self.ledger.records():
            if not any(known.replay(record) for known in (self.nodes, self.book, self.times)):
                raise KeyError(record[0])
        self.nodes.note = self.book.note = self.ledger.append

    def _open_all_again(self, *, is_last: bool) -> None:
        for number, record in sorted(self.book.handles.items()):
            if self.handles.find(number) is None and not self.handles.open_again(number, record) and is_last:
                log.warning("lost an open file node=%d inode=%d", record.node, record.ino)

    def _serve_names_again(self) -> list[Request]:
        """Serve what changes names before all else: the disk may have the new names, and the nodes the old ones.

        Returns:
            The others that were read meanwhile.
        """
        buffer = memoryview(bytearray(REQUEST_BYTES))
        requests: list[Request] = []
        while self.device.has_request() and len(requests) < _MOST_AGAIN:
            request = wire.decode_request(memoryview(bytes(self.device.receive(buffer))))
            requests.append(request)
            if not request.is_again and request.opcode not in _COME_FIRST:
                break  # what is sent again comes before all others
        for request in requests:
            if request.is_again:
                self.resent.follow_truncation(request)
        left: list[Request] = []
        for request in requests:
            if request.is_again and self.resent.changes_names(request):
                self.serve(request)
            else:
                left.append(request)
        return left

    def _go_on_with_mapped(self) -> None:
        for ino, path in list(self.book.mapped.items()):
            node = self.nodes.by_key(ino)
            now = self.nodes.path(node) if node is not None else None
            if not self.operations.old_handles.go_on_mapped(ino, now or path):
                del self.book.mapped[ino]
