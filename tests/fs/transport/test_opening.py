"""The opening rules: every pair of (already open as, now opened as)."""

import os

import pytest

from ckptfs.fs.transport.opening import Openings

WAYS = {"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR}


class Backings:
    """Counts backing ids that are given out and back."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.alive: set[int] = set()

    def register(self, fd: int) -> int:
        self.given.append(len(self.given) + 1)
        self.alive.add(self.given[-1])
        return self.given[-1]

    def release(self, backing_id: int) -> None:
        self.alive.remove(backing_id)


@pytest.fixture
def backings() -> Backings:
    return Backings()


@pytest.fixture
def openings(backings: Backings) -> Openings:
    return Openings(backings.register, backings.release)


def null() -> int:
    return os.open(os.devnull, os.O_RDWR)


@pytest.mark.parametrize("now", WAYS)
@pytest.mark.parametrize("already", ["nothing", *WAYS])
def test_an_inode_goes_one_way_at_a_time(openings: Openings, already: str, now: str) -> None:
    first = openings.open(5, WAYS[already], null) if already != "nothing" else None
    second = openings.open(5, WAYS[now], null)
    if first is None:
        assert bool(second) == (now != "both")
    else:
        assert second == first


@pytest.mark.parametrize("now", WAYS)
def test_a_file_that_may_be_mapped_is_never_mediated(openings: Openings, now: str) -> None:
    assert openings.open(5, WAYS[now], null, maybe_mapped=True)


def test_one_backing_id_serves_all_handles_and_is_given_back_with_the_last(
    openings: Openings, backings: Backings
) -> None:
    for _ in range(3):
        openings.open(5, os.O_RDONLY, null)
    assert backings.given == [1]
    openings.close(5)
    openings.close(5)
    assert backings.alive == {1}
    openings.close(5)
    assert backings.alive == set()


def test_a_file_that_gets_no_backing_id_is_mediated_until_its_last_release(openings: Openings) -> None:
    def refused() -> int:
        raise PermissionError

    assert openings.open(5, os.O_RDONLY, refused) == 0
    assert openings.open(5, os.O_WRONLY, null) == 0
    openings.close(5)
    openings.close(5)
    assert openings.open(5, os.O_WRONLY, null) != 0


def test_inodes_do_not_know_of_each_other(openings: Openings) -> None:
    assert openings.open(5, os.O_RDWR, null) == 0
    assert openings.open(6, os.O_RDONLY, null) != 0
