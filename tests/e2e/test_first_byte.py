"""How soon after mounting a large file can be read, on a real S3 server."""

import os
import sys
import time

import pytest

from demo.seaweedfs import SeaweedFS
from tests.e2e.relay import CountingRelay
from tests.mounting import Mounts, touch

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SIZE_BYTES = 104 << 20
# 0.05 s measured with two cores and a load of 6
GENEROUS_S = 2.0


def test_the_first_byte_of_a_large_file_is_one_request_away(
    mount: Mounts, bucket: str, seaweedfs: SeaweedFS, capsys: pytest.CaptureFixture[str]
) -> None:
    content = os.urandom(1 << 20)
    first = mount(bucket, name="first", cache="first-cache")
    with (first.root / "model.bin").open("wb") as file:
        for number in range(SIZE_BYTES >> 20):
            file.write(number.to_bytes(4, "little") + content[4:])
    touch(first.root)
    first.sync()
    assert first.unmount() == 0
    for read_only in (False, True):
        with CountingRelay(seaweedfs.env["AWS_ENDPOINT_URL"]) as relay:
            env = {"AWS_ENDPOINT_URL": relay.endpoint}
            mounted = mount(bucket, cache=f"cache-{read_only}", env=env, prefetch=True, read_only=read_only)
            before, started_s = len(relay.requests), time.monotonic()
            with (mounted.root / "model.bin").open("rb", buffering=0) as file:
                assert file.read(4) == bytes(4)
                first_byte_s = time.monotonic() - started_s
                requests = relay.requests[before:]
                assert os.pread(file.fileno(), 4, 77 << 20) == (77).to_bytes(4, "little")
                with capsys.disabled():
                    sys.stderr.write(f" first byte after {first_byte_s:.3f} s and {len(requests)} requests ")
                assert len(requests) <= 3, requests
                assert first_byte_s < GENEROUS_S
                # the rest comes without being asked for
                assert len(file.read()) == SIZE_BYTES - 4
            assert mounted.unmount() == 0
