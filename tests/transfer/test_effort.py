"""How hard to encode: cheaper only while a version waits for encoding, and for nothing else."""

import pytest

from ckptfs.transfer.effort import EffortControl, Regime
from ckptfs.transfer.encoding import Effort


class Upload:
    """An upload whose waits are as the test says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.backlog = 0
        self.changes: list[Regime] = []
        self.control = EffortControl(lambda: self.backlog, self.changes.append, lambda: self.now_s)

    def goes_on(self, *, for_encoders: float = 0.0, for_store: float = 0.0) -> Effort:
        """Let a second pass of which the shares were spent waiting."""
        for _ in range(10):
            self.now_s += 0.1001
            self.control.waited(for_encoders_s=0.1 * for_encoders, for_store_s=0.1 * for_store)
        return self.control.effort


def test_with_nobody_waiting_it_is_as_dense_as_can_be_however_slow_that_is() -> None:
    upload = Upload()
    assert [upload.goes_on(for_encoders=0.9) for _ in range(5)] == [Effort.DENSE] * 5
    assert upload.changes == []


def test_a_version_that_waits_for_encoding_makes_it_cheaper_until_it_waits_no_more() -> None:
    upload = Upload()
    upload.backlog = 2
    assert upload.goes_on(for_encoders=0.9) is Effort.FRESH
    assert upload.goes_on(for_encoders=0.9) is min(Effort)
    upload.backlog = 0
    assert upload.goes_on(for_encoders=0.9) is Effort.DENSE
    assert [change.effort for change in upload.changes][-1] is Effort.DENSE
    assert "2 versions wait" in upload.changes[0].why


def test_bytes_are_what_counts_while_the_store_is_what_is_waited_for() -> None:
    upload = Upload()
    upload.backlog = 1
    assert upload.goes_on(for_store=0.9) is Effort.DENSE
    assert upload.goes_on(for_encoders=0.8) is Effort.FRESH
    for _ in range(len(Effort)):
        upload.goes_on(for_store=0.8)
    assert upload.control.effort is Effort.DENSE


@pytest.mark.parametrize("waits", [{}, {"for_encoders": 0.2}, {"for_encoders": 0.2, "for_store": 0.2}])
def test_what_is_waited_for_a_little_changes_nothing(waits: dict[str, float]) -> None:
    upload = Upload()
    upload.backlog = 1
    upload.goes_on(for_encoders=0.9)
    before = upload.control.effort
    assert upload.goes_on(**waits) is before
