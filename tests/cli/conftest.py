from pathlib import Path

import pytest

from tests.cli.scene import StoreWithVersions


@pytest.fixture
def store(tmp_path: Path) -> StoreWithVersions:
    """Three versions: two files, one of them rewritten, one more file in a directory."""
    store = StoreWithVersions(tmp_path)
    store.save({"a.bin": b"a" * 1000, "b.bin": b"b" * 500}, {"step": 1})
    store.save({"a.bin": b"A" * 1000}, "better\nnow")
    store.save({"d/c.bin": b"", "d/\udcff\x1b": b"c" * 10})
    return store
