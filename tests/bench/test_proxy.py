"""The relay of the measurements: what it counts, and that it changes nothing."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.proxy import CountingProxy


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def proxy() -> Iterator[CountingProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with CountingProxy(f"http://127.0.0.1:{server.server_port}") as made:
        yield made
    server.shutdown()
    server.server_close()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"") -> bytes:
    connection.request(method, path, body or None)
    return connection.getresponse().read()


def test_requests_of_one_connection_are_counted_each(proxy: CountingProxy) -> None:
    body = bytes(range(256)) * 20_000
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=10)
    with proxy.recording() as recording:
        assert _ask(connection, "PUT", "/store/p/1?x=1", body) == body
        assert _ask(connection, "GET", "/store/c/2") == b""
        assert (
            _ask(connection, "PUT", "/store/c/3", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            == b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        )
    connection.close()
    assert [(request.method, request.path, request.body_bytes) for request in recording.requests] == [
        ("PUT", "/store/p/1", len(body)),
        ("GET", "/store/c/2", 0),
        ("PUT", "/store/c/3", 22),
    ]
    assert all(request.began_s <= request.ended_s for request in recording.requests)
    assert len(body) < recording.requests[0].answer_bytes < len(body) + 500


def test_what_begins_outside_a_recording_and_signs_of_life_are_not_counted(proxy: CountingProxy) -> None:
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=10)
    _ask(connection, "GET", "/store/before")
    with proxy.recording() as recording:
        _ask(connection, "PUT", "/store/lease", b"alive")
        _ask(connection, "GET", "/store/during")
    _ask(connection, "GET", "/store/after")
    connection.close()
    assert [request.path for request in recording.counted] == ["/store/during"]
    assert len(recording.requests) == 2
