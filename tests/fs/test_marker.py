"""Which calls make one touch, where the kernel does not say who makes them."""

from typing import Any

import pytest

from ckptfs.fs.marker import SaveMarker


class CountingSaver:
    """Numbers captures; a capture that replaces another keeps its number."""

    def __init__(self) -> None:
        self.versions = 0
        self.ended: list[int] = []

    def has_room(self) -> bool:
        return True

    def wait_for_room(self) -> None:
        raise AssertionError("there is room")

    def capture(self, note: Any, replace: Any) -> Any:
        if replace is None:
            self.versions += 1
        return replace or self.versions

    def close(self, captured: Any) -> None:
        self.ended.append(captured)

    def withdraw(self, captured: Any) -> None:
        raise AssertionError("no text is too long here")

    def has_changes(self) -> bool:
        return False

    def wait_durable(self) -> None:
        return None


@pytest.mark.parametrize("process", [4121, 0])
def test_the_calls_of_touch_make_one_version_whether_or_not_its_process_is_known(process: int) -> None:
    saver = CountingSaver()
    marker = SaveMarker(saver)
    for number in (1, 2):
        # open, dup2, close, utimensat, close: coreutils 9.1
        touch = marker.begin(process)
        marker.flush(touch)
        marker.set_times(process)
        marker.flush(touch)
        marker.release(touch)
        assert saver.versions == number
        assert saver.ended == list(range(1, number + 1))


def test_setting_times_is_a_touch_of_its_own_beside_another_programs() -> None:
    saver = CountingSaver()
    marker = SaveMarker(saver)
    marker.flush(marker.begin(4121))
    marker.set_times(4122)
    assert saver.versions == 2
