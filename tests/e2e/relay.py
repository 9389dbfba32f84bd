"""A relay on loopback in front of an S3 server that counts the requests which pass."""

import re
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class CountingRelay:
    """Forwards bytes as they come.

    Args:
        endpoint: The server, http://HOST:PORT.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[tuple[str, str]] = []
        """Method and path of each."""

    @property
    def endpoint(self) -> str:
        """Where it listens, as a URL."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            answers = threading.Thread(target=self._forward, args=(server, client, False), daemon=True)
            answers.start()
            self._forward(client, server, True)
            answers.join()

    def _forward(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 18):
                # the header of a request is one piece: it is written at once, and nothing is before it
                match = _REQUEST.match(data) if counts else None
                if match is not None:
                    self.requests.append((match[1].decode(), match[2].decode()))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
