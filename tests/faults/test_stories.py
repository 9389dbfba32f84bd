"""Whole-product stories through a proxy in front of a real S3 server that lets one request in four go wrong.

`make faults` tells all of them, longer and at several rates.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from demo.seaweedfs import SeaweedFS
from tests.faults.proxy import FaultyProxy, Plan
from tests.faults.stories import of_a_takeover, of_a_training_run, through_deaths
from tests.mounting import Mounts

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(240)]

RATE = 0.25
SEED = int(os.environ.get("CKPTFS_TEST_SEED", "1"))


@pytest.mark.parametrize(
    "tell",
    [
        pytest.param(partial(of_a_training_run, versions=2), id="training"),
        pytest.param(partial(through_deaths, saves=8), id="deaths"),
        pytest.param(of_a_takeover, id="takeover"),
    ],
)
def test_nothing_is_lost_half_visible_or_wrong_when_requests_go_wrong(
    tell: Callable[[Mounts, str, int], None],
    bucket: str,
    seaweedfs: SeaweedFS,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = Mounts(tmp_path, 230)
    with FaultyProxy(seaweedfs.endpoint, Plan(rate=RATE, seed=SEED, stall_s=0.2, trickle_s=0.2)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        try:
            tell(mounts, bucket, SEED)
        finally:
            mounts.close()
        assert proxy.injected.total() > proxy.requests / 10, proxy.report()
