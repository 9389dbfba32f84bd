"""The same rules on the stores that people use: a directory, and a real S3 server."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.errors import FencedError, HeldError, InvalidInputError, StoreMissingError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.store.base import Store
from ckptfs.store.open import open_store
from ckptfs.versions.chain import check_successor
from ckptfs.versions.history import open_history
from ckptfs.versions.tags import delete_tag, set_tag
from ckptfs.versions.writer import Writer
from tests.versions.scene import acquire, all_records, collect, directory, draft, file, fresh, holder, save, tree_of

Connect = Callable[[], Store]
"""Returns the same store each time, over a connection of one's own, as another process would have it."""


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    if request.param == "s3":
        url: str = request.getfixturevalue("bucket")
        return lambda: open_store(url)
    return lambda: open_store(f"file://{tmp_path}/store", create=True)


def test_versions_tags_and_collections_of_one_process_are_seen_by_the_next(connect: Connect) -> None:
    writer = acquire(connect())
    tree = tree_of(directory(), directory("a"), file("a/b", b"content"))
    saved = [writer.commit_save(draft(number, tree=tree)) for number in range(1, 6)]
    assert set_tag(connect(), "best", 2) == 2
    collect(connect(), dropped=[(1, 1), (3, 3)])
    last = save(writer)
    history = open_history(connect())
    assert history.newest() == last
    assert history.numbers() == [2, 4, 5, 6]
    assert list(history.versions()) == [last, saved[4], saved[3], saved[1]]
    assert history.resolve("best") == saved[1]
    assert history.tree(saved[1]) == tree
    assert delete_tag(connect(), "best") == 2
    assert open_history(connect()).tags() == {}


def test_a_store_is_taken_over_and_the_old_writer_is_fenced(connect: Connect) -> None:
    old = acquire(connect(), "gpu-07")
    save(old)
    new = acquire(connect(), "gpu-08", takeover=True)
    save(new)
    with pytest.raises(FencedError, match="gpu-08"):
        save(old)
    with pytest.raises(FencedError, match="gpu-08"):
        Writer.resume(connect(), old.epoch, holder("gpu-07"))
    new.release()
    assert save(acquire(connect(), "gpu-09")).version == 3
    assert [record.host for record in fresh(connect()).versions()] == ["gpu-09", "gpu-08", "gpu-07"]


def test_an_empty_place_is_no_store_for_a_reader(connect: Connect) -> None:
    with pytest.raises((InvalidInputError, StoreMissingError)):
        open_history(connect())


def test_of_many_who_ask_at_once_one_gets_the_store(connect: Connect) -> None:
    writers: list[Writer] = []
    refused: list[HeldError] = []
    together = threading.Barrier(5)

    def ask(host: str) -> None:
        store = connect()
        together.wait()
        try:
            writers.append(Writer.acquire(store, holder(host), lease_s=6))
        except HeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(f"host-{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for writer in writers:
            writer.renew()
        time.sleep(0.2)
    assert (len(writers), len(refused)) == (1, 4)
    assert [record.kind for record in all_records(connect())] == ["fence"]


def test_writers_that_take_over_from_each_other_and_taggers_keep_one_history(connect: Connect) -> None:
    saved: list[CommitRecord] = []
    save(acquire(connect(), "first"))

    def write(host: str) -> None:
        store = connect()
        for _ in range(2):
            try:
                writer = acquire(store, host, takeover=True)
                for _ in range(2):
                    saved.append(save(writer))
            except (FencedError, HeldError):
                continue

    def tag(name: str) -> None:
        for _ in range(2):
            set_tag(connect(), name, "latest")

    threads = [threading.Thread(target=write, args=(f"host-{number}",)) for number in range(3)]
    threads += [threading.Thread(target=tag, args=(f"tag-{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = all_records(connect())
    for before, record in zip([None, *records], records, strict=False):
        check_successor(before, record)
    owner = {record.epoch: record.host for record in records if record.kind is CommitKind.FENCE}
    assert all(record.host == owner[record.epoch] for record in records if record.kind is CommitKind.SAVE)
    history = fresh(connect())
    assert saved
    assert all(history.record(record.seq) == record for record in saved)
    assert history.numbers() == list(range(1, len(history.numbers()) + 1))
    assert history.tags().keys() == {"tag-0", "tag-1"}
