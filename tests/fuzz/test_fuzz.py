"""The quick run of the fuzzer: all inputs that are kept, and some thousand new ones, the same each time."""

import random

import pytest

from ckptfs.format.lease import decode_lease
from tests.fuzz.mutating import Explorer
from tests.fuzz.targets import CORPUS, TARGETS, Target

# 12 targets together take some 6 s of one core (`make fuzz` goes on for longer, and looks where it gets)
INPUTS = 4000


@pytest.mark.parametrize("name", TARGETS)
def test_every_example_is_understood_or_refused_as_it_was(name: str) -> None:
    target = TARGETS[name]
    outcomes = [target.run(data) for data in target.seeds(name)]
    examples = len(target.golden) + len(target.written)
    if name == "commit":
        assert [target.run(target.repair(data)) for data in target.seeds(name)[:examples]].count(True) >= 2
    else:
        assert all(outcomes[:examples])


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_bytes_are_refused_or_understood_and_nothing_else(name: str) -> None:
    target = TARGETS[name]
    explorer = Explorer(target, target.seeds(name), random.Random(name))
    understood = sum(explorer.step() for _ in range(INPUTS))
    # were all refused, or none, the mutations would show nothing
    assert 0 < understood < INPUTS


def test_a_planted_fault_is_found() -> None:
    def decode(data: bytes) -> None:
        if decode_lease(data).counter not in (17, 1, 7):
            raise IndexError("planted")

    target = Target(decode, TARGETS["lease"].golden)

    explorer = Explorer(target, target.seeds("none"), random.Random(1))
    with pytest.raises(IndexError, match="planted"):
        [explorer.step() for _ in range(20_000)]


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in files) < 300_000
