"""What the upload process says, and how often: each line wakes the process that serves programs."""

import json
import os

import pytest

from ckptfs.transfer.events import Events


class Heard:
    """Takes down what is said."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._reads_fd, self._writes_fd = os.pipe()
        self.events = Events(self._writes_fd, lambda: self.now_s)

    def close(self) -> list[tuple[str, int]]:
        """Return the names, and how much is done by each."""
        os.close(self._writes_fd)
        with open(self._reads_fd, "rb") as lines:
            return [(event["event"], event.get("bytes_done", 0)) for event in map(json.loads, lines)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_progress_of_a_version_that_is_quickly_done_is_not_told(heard: Heard) -> None:
    heard.events.begin(1)
    heard.events.progress(0, 100)
    heard.now_s += 0.1
    heard.events.progress(100, 100)
    assert heard.close() == [("uploading", 0)]


def test_progress_of_one_that_takes_long_is_told_five_times_a_second(heard: Heard) -> None:
    heard.events.begin(1)
    heard.events.progress(0, 100)
    for done in range(1, 101):
        heard.now_s += 0.0625
        heard.events.progress(done, 100)
    told = heard.close()
    assert told[0] == ("uploading", 0)
    assert [done for _, done in told[1:]] == list(range(4, 101, 4))
