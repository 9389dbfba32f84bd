"""Every object of format version 1 is read, and written, as it was on the day that the version was laid down."""

import pytest

from tests.data.make_golden import DIRECTORY, GOLDEN, Golden

EACH = pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)


@EACH
def test_golden_bytes_decode_to_the_known_value(golden: Golden) -> None:
    assert golden.decode((DIRECTORY / golden.name).read_bytes()) == golden.value


@pytest.mark.parametrize("golden", [each for each in GOLDEN if each.is_reproducible], ids=lambda golden: golden.name)
def test_the_known_value_encodes_to_the_golden_bytes(golden: Golden) -> None:
    assert golden.encode() == (DIRECTORY / golden.name).read_bytes()


@EACH
def test_what_is_written_today_is_read_back(golden: Golden) -> None:
    assert golden.decode(golden.encode()) == golden.value


def test_every_golden_file_is_read_by_a_test() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {golden.name for golden in GOLDEN}
