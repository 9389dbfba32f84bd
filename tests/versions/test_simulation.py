"""Many short schedules of writers, taggers and collectors over a network that loses, delays and repeats."""

import pytest

from ckptfs.errors import CkptfsError
from tests.versions.memory_store import MemoryStore
from tests.versions.simulation import BrokenPromiseError, Simulation

_BLOCK = 100
"""Schedules in one test, about 1.5 s: a failure names its seed, and the others still run."""


@pytest.mark.parametrize("block", range(15))
def test_no_schedule_breaks_a_promise(block: int) -> None:
    for seed in range(block * _BLOCK, (block + 1) * _BLOCK):
        try:
            Simulation(seed).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_on_a_store_that_overwrites_the_same_schedules_do_break_promises() -> None:
    broken = 0
    for seed in range(30):
        try:
            Simulation(seed, store=MemoryStore(honours_create=False)).run()
        except (BrokenPromiseError, CkptfsError):
            broken += 1
    assert broken > 10
