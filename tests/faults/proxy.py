"""An HTTP proxy on loopback that lets requests to an object store go wrong: refused, lost, late, cut, bent, slow.

It takes one whole request at a time, forwards it and brings the answer back. Which request meets which fault is drawn
from the seed and the request's number; in what order requests come is the client's affair.
"""

import enum
import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_SERVER_TIMEOUT_S = 60.0
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "expect", "transfer-encoding", "content-length"})


class Fault(enum.Enum):
    """What can happen to a request."""

    ERROR_500 = "answered with 500"
    SLOW_DOWN_503 = "answered with 503 SlowDown"
    EXPIRED_403 = "answered with 403 ExpiredToken"
    RESET_BEFORE = "reset before the server acted"
    RESET_AFTER = "reset after the server acted"
    LATE = "reset, and done by the server later"
    CUT_REQUEST = "cut on its way to the server"
    CUT_ANSWER = "answer cut"
    BENT_REQUEST = "a bit flipped on its way to the server"
    BENT_ANSWER = "a bit of the answer flipped"
    STALL = "stalled"
    TRICKLE = "answer sent in a trickle"


PASSING = frozenset(Fault) - {Fault.BENT_REQUEST, Fault.BENT_ANSWER, Fault.EXPIRED_403}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which faults are injected, and how often.

    Attributes:
        rate: Of requests that meet one, 0 to 1.
        seed: Decides which.
        kinds: Drawn from evenly.
        stall_s: How long a stalled request waits before it is forwarded.
        late_s: How long after the reset a late one is done.
        trickle_s: How long a trickled answer takes.
    """

    rate: float
    seed: int
    kinds: frozenset[Fault] = frozenset(Fault)
    stall_s: float = 1.0
    late_s: float = 0.3
    trickle_s: float = 0.5

    def draw(self, number: int) -> tuple[Fault | None, random.Random]:
        """Return what a request meets, and the randomness for its details."""
        # a word of its own for each request: how many numbers one has drawn must not decide what the next one meets
        chance = random.Random(hashlib.sha256(f"{self.seed} {number}".encode()).digest())
        if chance.random() >= self.rate:
            return None, chance
        return chance.choice(sorted(self.kinds, key=lambda kind: kind.name)), chance


NO_FAULTS = Plan(rate=0.0, seed=0)


@dataclass(slots=True)
class _Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class FaultyProxy:
    """A context manager that listens on a free port.

    Args:
        endpoint: The server, http://HOST:PORT.
        plan: May be replaced at any time.
    """

    endpoint_behind: str
    plan: Plan = NO_FAULTS
    injected: Counter[Fault] = field(default_factory=Counter)
    """How often each fault was injected."""
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        parts = urlsplit(self.endpoint_behind)
        handler = type("Handler", (_Handler,), {"proxy": self, "server_behind": (parts.hostname, parts.port)})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="faulty-proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def begin(self) -> tuple[Fault | None, random.Random]:
        """Count a request; return what it meets."""
        with self._lock:
            self.requests += 1
            return self.plan.draw(self.requests)

    def count(self, fault: Fault) -> None:
        """A fault was injected."""
        with self._lock:
            self.injected[fault] += 1

    def report(self) -> str:
        """Return what was injected, a line for each kind."""
        lines = [f"{self.injected[fault]:8d}  {fault.value}" for fault in Fault]
        return "\n".join([*lines, f"{sum(self.injected.values()):8d}  faults in {self.requests} requests"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections end in every way here; that is the point."""


class _ResetError(Exception):
    """The client's connection is to be reset."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy
    server_behind: tuple[str, int]
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._behind: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._behind is not None:
            self._behind.close()
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, chance = self.proxy.begin()
        try:
            self._meet(fault, chance, body)
        except _ResetError:
            # RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 (names that http.server calls)

    def _meet(self, fault: Fault | None, chance: random.Random, body: bytes) -> None:
        match fault:
            case Fault.ERROR_500:
                self._refuse(fault, 500, "InternalError")
            case Fault.SLOW_DOWN_503:
                self._refuse(fault, 503, "SlowDown")
            case Fault.EXPIRED_403:
                self._refuse(fault, 403, "ExpiredToken")
            case Fault.RESET_BEFORE:
                self.proxy.count(fault)
                raise _ResetError
            case Fault.RESET_AFTER:
                self._forward(body)
                self.proxy.count(fault)
                raise _ResetError
            case Fault.LATE:
                self.proxy.count(fault)
                timer = threading.Timer(self.proxy.plan.late_s, self._forward_late, [body])
                timer.daemon = True
                timer.start()
                raise _ResetError
            case Fault.CUT_REQUEST if len(body) > 1:
                self.proxy.count(fault)
                self._send_half(body)
                raise _ResetError
            case Fault.BENT_REQUEST if body:
                self.proxy.count(fault)
                self._reply(self._forward(_bent(body, chance)))
            case Fault.STALL:
                self.proxy.count(fault)
                time.sleep(self.proxy.plan.stall_s)
                self._reply(self._forward(body))
            case Fault.CUT_ANSWER | Fault.BENT_ANSWER | Fault.TRICKLE:
                self._spoil(fault, chance, self._forward(body))
            case _:
                self._reply(self._forward(body))

    def _spoil(self, fault: Fault, chance: random.Random, answer: _Answer) -> None:
        """Bring an answer with a body back in a bad way; one without as it is.

        A list of keys is not bent: nothing in S3 but the connection protects it.
        """
        is_list = "list-type=" in self.path
        if not answer.body or answer.status >= 300 or (is_list and fault is Fault.BENT_ANSWER):
            self._reply(answer)
            return
        self.proxy.count(fault)
        if fault is Fault.BENT_ANSWER:
            answer.body = _bent(answer.body, chance)
            self._reply(answer)
        elif fault is Fault.TRICKLE:
            self._reply(answer, pieces=20)
        else:
            self._reply(answer, end=chance.randrange(len(answer.body)))
            raise _ResetError

    def _refuse(self, fault: Fault, status: int, code: str) -> None:
        self.proxy.count(fault)
        words = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self._reply(_Answer(status, code, [("Content-Type", "application/xml")], words))

    def _forward(self, body: bytes) -> _Answer:
        """Send the request on; return the server's answer."""
        if self._behind is None:
            self._behind = http.client.HTTPConnection(*self.server_behind, timeout=_SERVER_TIMEOUT_S)
        try:
            self._send(self._behind, body)
            answer = self._behind.getresponse()
            return _Answer(answer.status, answer.reason, answer.getheaders(), answer.read())
        except (OSError, http.client.HTTPException):
            self._behind.close()
            self._behind = None
            raise

    def _forward_late(self, body: bytes) -> None:
        """Have the server do a request that nobody waits for any more."""
        behind = http.client.HTTPConnection(*self.server_behind, timeout=_SERVER_TIMEOUT_S)
        try:
            self._send(behind, body)
            behind.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass  # the server is gone: then it is lost
        finally:
            behind.close()

    def _send_half(self, body: bytes) -> None:
        """Send the server a request whose end never comes."""
        behind = http.client.HTTPConnection(*self.server_behind, timeout=_SERVER_TIMEOUT_S)
        try:
            self._send(behind, body[: len(body) // 2], declared_bytes=len(body))
        finally:
            behind.close()

    def _send(self, behind: http.client.HTTPConnection, body: bytes, declared_bytes: int | None = None) -> None:
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                behind.putheader(name, value)
        if "Content-Length" in self.headers:
            behind.putheader("Content-Length", str(len(body) if declared_bytes is None else declared_bytes))
        behind.endheaders(body)

    def _reply(self, answer: _Answer, *, pieces: int = 1, end: int | None = None) -> None:
        """Send an answer, or its beginning, to the client."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if self.command == "HEAD" or answer.status == 204:
            self.end_headers()
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        for piece in _pieces(answer.body[:end], pieces):
            self.wfile.write(piece)
            if pieces > 1:
                time.sleep(self.proxy.plan.trickle_s / pieces)
        self.wfile.flush()


def _pieces(body: bytes, count: int) -> Iterable[bytes]:
    size = max(1, -(-len(body) // count))
    return (body[start : start + size] for start in range(0, len(body), size))


def _bent(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << chance.randrange(8)]) + body[place + 1 :]
