"""What each fault of the proxy does to a request, and what S3Store makes of it."""

import os
from collections.abc import Callable, Iterator

import pytest

from ckptfs.errors import StoreAccessError, StoreError, StoreUnavailableError
from ckptfs.store.s3 import S3Store
from demo.seaweedfs import SeaweedFS
from tests.conftest import BUCKET
from tests.faults.proxy import NO_FAULTS, Fault, FaultyProxy, Plan
from tests.mounting import wait_until

pytestmark = pytest.mark.s3

BODY = os.urandom(300_000)
NOT_DONE = {Fault.ERROR_500, Fault.SLOW_DOWN_503, Fault.RESET_BEFORE, Fault.CUT_REQUEST, Fault.BENT_REQUEST}
DONE_UNHEARD = {Fault.RESET_AFTER, Fault.LATE}
HARMLESS = {Fault.STALL, Fault.TRICKLE}


@pytest.fixture
def proxy(bucket: str, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(seaweedfs.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(proxy: FaultyProxy, bucket: str) -> Iterator[S3Store]:
    store = S3Store(BUCKET, bucket.rpartition("/")[2], attempts=1)
    yield store
    store.close()


def outcome(request: Callable[[], object]) -> type[StoreError] | None:
    try:
        request()
    except StoreError as error:
        return type(error)
    return None


def test_a_create_that_meets_a_fault_is_done_whole_or_not_at_all_and_says_when_it_may_be_either(
    proxy: FaultyProxy, store: S3Store
) -> None:
    for fault in Fault:
        proxy.plan = Plan(rate=1.0, seed=1, kinds=frozenset({fault}), stall_s=0.1, late_s=0.2)
        key = f"c/{fault.name}"
        found = outcome(lambda key=key: store.create(key, BODY))
        proxy.plan = NO_FAULTS
        if fault is Fault.LATE:
            wait_until(lambda key=key: outcome(lambda: store.get(key)) is None, 20, "the late request was done")
        keys = [row.key for row in store.list("c/")]
        if fault in NOT_DONE | {Fault.EXPIRED_403}:
            assert found is (StoreAccessError if fault is Fault.EXPIRED_403 else StoreUnavailableError), fault
            assert key not in keys, fault
        else:
            assert found is (StoreUnavailableError if fault in DONE_UNHEARD else None), fault
            assert store.get(key) == BODY, fault
        assert proxy.injected[fault] > 0 or fault in (Fault.CUT_ANSWER, Fault.BENT_ANSWER, Fault.TRICKLE), fault


def test_an_answer_that_meets_a_fault_is_never_taken_for_a_shorter_one(proxy: FaultyProxy, store: S3Store) -> None:
    store.put("p/one", BODY)
    for fault in set(Fault) - {Fault.CUT_REQUEST, Fault.BENT_REQUEST}:
        proxy.plan = Plan(rate=1.0, seed=1, kinds=frozenset({fault}), stall_s=0.1, trickle_s=0.1)
        try:
            body = store.get_range("p/one", 1000, 100_000)
        except StoreError:
            assert fault not in HARMLESS
        else:
            assert fault in HARMLESS | {Fault.BENT_ANSWER}
            # the hashes above this layer find it
            assert len(body) == 100_000
            assert (body == BODY[1000:101_000]) == (fault in HARMLESS)
        assert proxy.injected[fault] > 0


def test_the_seed_decides_what_each_request_meets() -> None:
    plan = Plan(rate=0.3, seed=5)
    drawn = [plan.draw(number)[0] for number in range(2000)]
    assert drawn == [plan.draw(number)[0] for number in range(2000)]
    assert 500 < sum(fault is not None for fault in drawn) < 700
    assert set(drawn) == {None, *Fault}
