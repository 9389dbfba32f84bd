"""Where it happens: one S3 server, a relay in front of it that counts, and a directory."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from bench.product import Timed
from bench.proxy import CountingProxy
from demo.seaweedfs import SeaweedFS


@dataclass(frozen=True, slots=True)
class Place:
    """What every part of the measurements is given."""

    server: SeaweedFS
    proxy: CountingProxy
    scratch: Path

    @property
    def env(self) -> dict[str, str]:
        """For clients that talk to the server itself."""
        return self.server.env

    @property
    def counted_env(self) -> dict[str, str]:
        """For clients whose requests are to be counted."""
        return {**self.server.env, "AWS_ENDPOINT_URL": self.proxy.endpoint}

    @contextmanager
    def bucket(self, name: str) -> Iterator[str]:
        """Make a bucket that has been written to before; delete it with its content, and so its disk, at the end."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.server.endpoint,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket=name)
        # the server makes a bucket's volumes when the first object comes
        client.put_object(Bucket=name, Key="first", Body=b"-")
        try:
            yield name
        finally:
            # this server takes a bucket's objects with it
            client.delete_bucket(Bucket=name)
            client.close()

    @contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """Make a directory; remove it at the end."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.scratch))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def take_turns(sides: Mapping[str, Callable[[], Timed]], number: int) -> dict[str, Timed]:
    """Let each side do its work once; who begins is the next one every round.

    What is to be written to disk is written before each, so that no side pays for the one before.
    """
    names = list(sides)
    times = {}
    for name in itertools.islice(itertools.cycle(names), number % len(names), number % len(names) + len(names)):
        os.sync()
        times[name] = sides[name]()
    return {name: times[name] for name in names}


def walls(times: Mapping[str, Timed]) -> dict[str, float]:
    """Return how long each side took (s)."""
    return {name: timed.wall_s for name, timed in times.items()}
