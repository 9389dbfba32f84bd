"""Rules S2 and S3 under real simultaneity: one winner of a create, and no reader who sees a mixture."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ckptfs.errors import AlreadyExistsError, NotFoundError
from ckptfs.store.base import Store
from ckptfs.store.open import open_store

RACERS = 16
BATCH_ROUNDS = 10


@pytest.fixture
def batches(shared_store: Store) -> int:
    # SeaweedFS lets a request that waits for a key's lock look again every second only: one batch takes 5 to 15 s
    return 10 if shared_store.url.startswith("file:") else 1


def test_of_sixteen_creates_exactly_one_wins_and_its_bytes_are_the_object(shared_store: Store, batches: int) -> None:
    # as sixteen machines would: nothing of the client is shared
    stores = [open_store(shared_store.url) for _ in range(RACERS)]
    with ThreadPoolExecutor(RACERS * BATCH_ROUNDS) as pool:
        for batch in range(batches):
            keys = [f"c/{batch}-{number}" for number in range(BATCH_ROUNDS)]
            results = [_race(pool, stores, key, size_bytes=300 + index * 20_000) for index, key in enumerate(keys)]
            for key, racers in zip(keys, results, strict=True):
                winners = [racer for racer, result in enumerate(racers) if result.result()]
                assert len(winners) == 1, f"{key} has the winners {winners}"
                assert set(shared_store.get(key)) == set(winners)
    assert len(list(shared_store.list(""))) == batches * BATCH_ROUNDS
    for store in stores:
        store.close()


def _race(pool: ThreadPoolExecutor, stores: list[Store], key: str, *, size_bytes: int) -> list[Future[bool]]:
    """Let every store create one key at the same moment; racer i's body is made of the byte i."""
    start = threading.Barrier(len(stores))

    def create(racer: int) -> bool:
        start.wait(timeout=60)
        try:
            stores[racer].create(key, bytes([racer]) * size_bytes)
        except AlreadyExistsError:
            return False
        return True

    return [pool.submit(create, racer) for racer in range(len(stores))]


def test_readers_see_a_created_object_whole_or_not_at_all(shared_store: Store) -> None:
    body = b"x" * 3_000_000
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            for row in shared_store.list("p/"):
                seen.append(row.size_bytes)
            try:
                seen.append(len(shared_store.get("p/19")))
            except NotFoundError:
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(20):
            shared_store.create(f"p/{number}", body)
    finally:
        done.set()
        reader.join()
    assert set(seen) == {len(body)}


def test_readers_of_an_object_that_is_replaced_see_one_state_of_it(shared_store: Store) -> None:
    states = [bytes([number]) * 1_500_000 for number in range(4)]
    shared_store.put("lease", states[0])
    done = threading.Event()
    mixed: list[int] = []

    def read() -> None:
        while not done.is_set():
            body = shared_store.get("lease")
            if body not in states:
                mixed.append(len(body))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(16):
            shared_store.put("lease", states[number % 4])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not mixed
