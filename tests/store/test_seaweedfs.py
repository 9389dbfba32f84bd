"""The server that the other tests lean on: what is stored survives its being killed, and nothing stays behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckptfs.errors import StoreUnavailableError
from ckptfs.store.s3 import S3Store
from demo.seaweedfs import SeaweedFS

pytestmark = pytest.mark.s3


def test_a_killed_server_that_starts_again_has_all_that_was_stored(
    no_aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = os.urandom(1_000_000)
    with SeaweedFS(tmp_path) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        server.create_bucket("models")
        server.create_bucket("models")
        with pytest.raises(RuntimeError, match="answered 400"):
            server.create_bucket("X")
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()
        endpoint = server.endpoint
        store = S3Store("models", "", attempts=1)
        for number in range(20):
            store.create(f"c/{number}", body[number:])
        server.stop()
        with pytest.raises(StoreUnavailableError):
            store.get("c/0")
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.pid
        server.start()
        assert server.endpoint == endpoint
        # the same client goes on: its connections are made anew
        for number in range(20):
            assert store.get(f"c/{number}") == body[number:]
        pid = server.pid
        store.close()
    assert not Path(f"/proc/{pid}").exists()
    # a directory that the caller named is the caller's
    assert (tmp_path / "data").is_dir()


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.seaweedfs._find_weed", lambda: "/bin/false")
    server = SeaweedFS(tmp_path)
    with pytest.raises(RuntimeError, match="ended while starting"):
        server.start()


def test_a_port_that_somebody_took_meanwhile_is_replaced(tmp_path: Path) -> None:
    server = SeaweedFS(tmp_path)
    chosen = server.endpoint
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(chosen.rpartition(":")[2])))
        with server:
            assert server.endpoint != chosen
            server.create_bucket("models")


def test_the_module_runs_a_server_until_it_is_told_to_stop_and_leaves_nothing_behind(tmp_path: Path) -> None:
    tmp_path /= "longer-than-the-path-of-a-socket-may-be-" * 3
    tmp_path.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "demo.seaweedfs", "--bucket", "models"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert list(tmp_path.iterdir()) != []
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert lines[0].startswith("export AWS_ENDPOINT_URL=http://127.0.0.1:")
    assert list(tmp_path.iterdir()) == []
