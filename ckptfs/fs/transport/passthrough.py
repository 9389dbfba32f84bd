"""Our own server on /dev/fuse, without libfuse: threads, each of which reads a request, has it answered, and replies.

Passthrough: the kernel moves file data directly between programs and the live files, and we answer the rest; that needs
Linux 6.9 and CAP_SYS_ADMIN in the first user namespace. Mediated: the data go through us as well, which needs nothing
but the descriptor.

A request that blocks (a fetch, a capture, fsync of the marker) does not keep the others from being answered, for a
thread is added whenever none is waiting. What answers is in name_requests.py and its like.
"""

import errno
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptfs.errors import MountError
from ckptfs.fs.attributes import Look
from ckptfs.fs.interrupts import Interrupts
from ckptfs.fs.operations import Operations
from ckptfs.fs.replacement import Follow
from ckptfs.fs.transport import wire
from ckptfs.fs.transport.agreement import agree
from ckptfs.fs.transport.attribute_requests import AttributeRequests
from ckptfs.fs.transport.device import REQUEST_BYTES, Device, DeviceClosedError, mount_device
from ckptfs.fs.transport.file_requests import FileRequests
from ckptfs.fs.transport.handle_book import HandleBook
from ckptfs.fs.transport.handover import Connection
from ckptfs.fs.transport.ledger import Ledger
from ckptfs.fs.transport.listing_requests import ListingRequests
from ckptfs.fs.transport.name_requests import NameRequests
from ckptfs.fs.transport.nodes import Nodes
from ckptfs.fs.transport.notices import Notices
from ckptfs.fs.transport.open_handles import OpenHandles
from ckptfs.fs.transport.opening import Openings
from ckptfs.fs.transport.paths import Paths
from ckptfs.fs.transport.requests import Requests
from ckptfs.fs.transport.resent import Resent
from ckptfs.fs.transport.taking_over import TakingOver
from ckptfs.fs.transport.wire import Handler, InitFlag, Opcode, Reply, Request
from ckptfs.threads import start_thread

log = logging.getLogger(__name__)

# the kernel reads ahead with 64 requests at most, which may all wait for the store; others are to find a thread
_MAX_THREADS = 128
_FIRST_THREADS = 3
_NO_THREAD_PAUSE_S = 0.1


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
        self._times = operations.change_times
        self._interrupts = Interrupts()
        openings = Openings(device.register_backing if passes else None, device.release_backing)
        self._open_handles = OpenHandles(operations, self._nodes, self._book, openings, passes=passes)
        self._notices = Notices(operations=operations, nodes=self._nodes, device=device)
        self._paths = Paths(operations, self._nodes)
        self._handlers, self._resent = self._make_handlers(self._paths)
        self._telling = threading.Lock()
        """Held from when the tree begins to become another until the kernel knows."""
        self._threads: list[threading.Thread] = []
        self._again: list[Request] = []
        """Read by take_over, to be served by run."""
        self._idle = 0
        self._lock = threading.Lock()

    def _make_handlers(self, paths: Paths) -> tuple[dict[int, Handler], Resent]:
        """Return what answers each kind of request, and what answers those that come again."""
        fs, nodes, book, handles = self._fs, self._nodes, self._book, self._open_handles
        attributes = AttributeRequests(
            operations=fs, nodes=nodes, paths=paths, book=book, handles=handles, notices=self._notices
        )
        kinds: list[Requests] = [
            attributes,
            NameRequests(operations=fs, nodes=nodes, paths=paths, book=book, handles=handles),
            ListingRequests(operations=fs, nodes=nodes, paths=paths, book=book, handles=handles),
            FileRequests(operations=fs, nodes=nodes, paths=paths, book=book, handles=handles, notices=self._notices),
        ]
        resent = Resent(
            nodes=nodes,
            book=book,
            operations=fs,
            entry=paths.look_up,
            attributes=attributes.attributes_of,
            handle=handles.find,
            let_go=handles.let_go,
        )
        handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: lambda request: (),
        }
        for kind in kinds:
            handlers |= kind.handlers()
        return handlers, resent

    def run(self) -> None:
        """Serve until the mount is gone."""
        if self._nodes.untold is not None:
            self._start_thread(self._tell)
        for request in self._again:
            self._start_thread(functools.partial(self._serve_once, request))
        for _ in range(_FIRST_THREADS - 1):
            self._add_thread()
        self._work()
        # threads are only ever added, and by running ones
        for thread in iter(lambda: self._threads.pop() if self._threads else None, None):
            thread.join()

    def take_over(self) -> None:
        """Know what a server that was killed knew, and have its unanswered requests sent again; run follows.

        Raises:
            KeyError: The ledger does not fit together.
        """
        if self._ledger is None:
            raise ValueError("there is no ledger to take over from")
        taking_over = TakingOver(
            operations=self._fs,
            device=self._device,
            ledger=self._ledger,
            nodes=self._nodes,
            book=self._book,
            times=self._times,
            handles=self._open_handles,
            resent=self._resent,
            serve=self._serve_once,
            follow=lambda: self._notices.follow(None, None),
        )
        self._again = taking_over.take_over()
        self._rewrite_ledger()
        self._ready()
        log.info("took over open_files=%d requests_again=%d", len(self._open_handles), len(self._again))

    def flush_mapped(self, ino: int) -> None:
        """Have the kernel write back what programs changed in mappings of a mediated file; returns when it is done."""
        self._notices.flush_mapped(ino)

    @contextmanager
    def replacing(self) -> Iterator[Follow]:
        """See Replacing."""
        is_replaced = False

        def follow(paths: Container[bytes], before: Look) -> None:
            nonlocal is_replaced
            is_replaced = True
            self._notices.follow(paths, before)

        with self._telling:
            try:
                with self._paths.names.exclusive():
                    self._nodes.replacing()
                    yield follow
            finally:
                if is_replaced or not self._nodes.told(0):
                    self._notices.tell()

    def _tell(self) -> None:
        with self._telling:
            self._notices.tell()

    def refuse(self) -> None:
        """Answer nothing any more, as if the mount were gone."""
        self._is_over = True

    # threads

    def _add_thread(self) -> None:
        """Start one more that serves requests; where no more may be had, those that there are answer all the same."""
        thread = start_thread(self._work, "fuse")
        if thread is not None:
            # when it runs, for it may be joined at once; whoever adds it is not joined yet
            self._threads.append(thread)

    def _start_thread(self, work: Callable[[], None]) -> None:
        """Start one for what may wait for requests that come later; where no more may be had, wait until one may."""
        while (thread := start_thread(work, "fuse")) is None:
            time.sleep(_NO_THREAD_PAUSE_S)
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

    def _rewrite_ledger(self) -> None:
        if self._ledger is not None:
            with self._nodes.lock, self._book.lock, self._times.lock:
                self._times.note = self._ledger.append
                records = [*self._nodes.records(), *self._book.records(), *self._times.records()]
                self._ledger.rewrite(records)

    def _serve_once(self, request: Request) -> None:
        if not self._knows_programs:
            request = request._replace(pid=0)
        with self._interrupts.serving(request.id, request.pid):
            self._serve(request)
        self._book.answered(request.id)
        if self._ledger is not None and self._ledger.is_long:
            self._rewrite_ledger()

    def _serve(self, request: Request) -> None:
        handler = self._handlers.get(request.opcode)
        if handler is None or self._is_over:
            self._device.fail(request.unique, errno.ENOTCONN if self._is_over else errno.ENOSYS)
            return
        try:
            reply = self._resent.serve(request, handler) if request.is_again else handler(request)
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

    # what is no matter of files

    def _init(self, request: Request) -> Reply:
        agreed, reply = agree(request, passes=self._passes, stack_depth=self._stack_depth)
        if self._ledger is not None and not agreed & InitFlag.HAS_RESEND:
            self._ledger.give_up("the kernel sends no request twice")
        # with what was kept before there was anybody to show it to
        self._rewrite_ledger()
        self._ready()
        return reply

    def _interrupt(self, request: Request) -> None:
        # no reply: the kernel waits for that of the interrupted request
        (unique,) = wire.INTERRUPT_IN.unpack_from(request.body)
        self._interrupts.interrupt(unique & ~wire.UNIQUE_RESEND)


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
