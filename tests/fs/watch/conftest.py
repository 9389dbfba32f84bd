"""Watches for the tests of watching."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watching import Watches, made_for


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watches]:
    """Makes watches of directories below tmp_path."""
    yield from made_for(tmp_path)
