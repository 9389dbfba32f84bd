"""A trainer that rewrites its checkpoint in place: from the second version on, only what changed of its numbers is
stored, and every version reads back.
"""

from pathlib import Path

import numpy as np
import pytest

from ckptfs.store.file import FileStore
from ckptfs.transfer.verify import verify
from ckptfs.versions.history import open_history
from tests.mounting import Mounts

pytestmark = pytest.mark.fuse

MIB = 1 << 20


@pytest.mark.timeout(120)
def test_a_version_of_weights_that_drifted_adds_clearly_less_than_the_first(mount: Mounts) -> None:
    random = np.random.default_rng(3)
    weights = random.standard_normal(3 * MIB).astype(np.float32)
    mounted = mount()
    contents = []
    for _ in range(3):
        contents.append(weights.tobytes())
        (mounted.root / "model.bin").write_bytes(contents[-1])
        mounted.save()
        mounted.sync()
        weights = (weights + 1e-4 * random.standard_normal(len(weights))).astype(np.float32)
    for version, content in enumerate(contents, 1):
        assert (mounted.root / ".versions" / str(version) / "model.bin").read_bytes() == content
    mounted.unmount()

    store = FileStore(Path(mounted.store.removeprefix("file://")))
    history = open_history(store)
    added = [history.resolve(version).bytes_added for version in (1, 2, 3)]
    assert added[1] < 0.65 * added[0]
    assert added[2] < 0.65 * added[0]
    assert verify(history, store, read_data=True) == []
    # with an empty cache, a lazily fetched file comes from a delta and its base
    again = mount(cache="other-cache")
    assert (again.root / "model.bin").read_bytes() == contents[-1]
