"""An HTTP/1.1 relay on loopback that counts requests: what a client asks of an object store.

It forwards bytes as they come and understands as much of them as it takes to find the next request: its first line, its
length, and when it was answered. One connection asks one thing at a time, as boto3 does.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE_BYTES = 1 << 20
_MOST_HEADER_BYTES = 64 << 10


@dataclass(slots=True)
class Request:
    """One request."""

    method: str
    path: str
    """Without the query."""
    body_bytes: int
    began_s: float
    """Wall clock, s since the epoch: its header was here."""
    ended_s: float = 0.0
    """The last piece of its answer was here."""
    answer_bytes: int = 0
    """Header and body of its answer."""

    @property
    def is_lease(self) -> bool:
        """True of the signs of life that a writer gives every few seconds, whatever it does."""
        return self.path.endswith("/lease")


@dataclass(slots=True)
class Recording:
    """The requests that began while it was open."""

    requests: list[Request] = field(default_factory=list)

    @property
    def counted(self) -> list[Request]:
        """Those that are no signs of life."""
        return [request for request in self.requests if not request.is_lease]


class CountingProxy:
    """A context manager that listens on a free port.

    Args:
        endpoint: URL of the server, http://HOST:PORT.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._recordings: list[Recording] = []
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record requests."""
        recording = Recording()
        with self._lock:
            self._recordings.append(recording)
        try:
            yield recording
        finally:
            with self._lock:
                self._recordings.remove(recording)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # close() alone does not wake the thread that accepts
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_Connection(client, server, self._begin).run, daemon=True).start()

    def _begin(self, request: Request) -> None:
        with self._lock:
            for recording in self._recordings:
                recording.requests.append(request)


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, begin: Callable[[Request], None]) -> None:
        self._client = client
        self._server = server
        self._begin = begin
        self._current: Request | None = None
        self._header = b""
        self._left_bytes = 0
        """Of the current request's body."""

    def run(self) -> None:
        """Relay until one side closes."""
        answers = threading.Thread(target=self._answer, daemon=True)
        with self._client, self._server:
            answers.start()
            self._forward()
            answers.join()

    def _forward(self) -> None:
        """Send on what the client says."""
        try:
            while piece := self._client.recv(_PIECE_BYTES):
                # before it is sent on: the answer may come at once
                self._count(memoryview(piece))
                self._server.sendall(piece)
        except OSError:
            pass  # one side is gone, and so the other goes
        finally:
            self._close(self._server)

    def _count(self, view: memoryview) -> None:
        """Take note of the requests that begin in what the client says."""
        while view:
            if self._left_bytes:
                taken = min(self._left_bytes, len(view))
                self._left_bytes -= taken
                view = view[taken:]
                continue
            self._header += bytes(view)
            end = self._header.find(b"\r\n\r\n")
            if end < 0:
                if len(self._header) > _MOST_HEADER_BYTES:
                    raise OSError("a header without end")
                return
            view = memoryview(self._header)[end + 4 :]
            self._current = _parse(self._header[:end])
            self._header, self._left_bytes = b"", self._current.body_bytes
            self._begin(self._current)

    def _answer(self) -> None:
        """Send back what the server says."""
        try:
            while piece := self._server.recv(_PIECE_BYTES):
                if self._current is not None:
                    self._current.ended_s = time.time()
                    self._current.answer_bytes += len(piece)
                self._client.sendall(piece)
        except OSError:
            pass  # one side has hung up
        finally:
            self._close(self._client)

    def _close(self, side: socket.socket) -> None:
        try:
            side.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed already


def _parse(header: bytes) -> Request:
    """Return a request from its header. Raises OSError for one of a kind that no client of ours sends."""
    first, *rest = header.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if "transfer-encoding" in fields:
        raise OSError(f"a body without length: {first}")
    method, target, _ = first.split(" ", 2)
    return Request(method, target.partition("?")[0], int(fields.get("content-length", "0")), time.time())
