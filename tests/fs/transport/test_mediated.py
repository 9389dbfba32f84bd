"""Our own server without passthrough, as where it has no privileges: what it shows and saves is the same."""

import pytest

import tests.fs.transport.test_passthrough as past
from tests.mounting import Mount, Mounts

pytestmark = pytest.mark.fuse

test_a_file_without_a_name_can_be_given_one = past.test_a_file_without_a_name_can_be_given_one
test_a_pending_version_keeps_its_bytes = past.test_a_pending_version_keeps_its_bytes
test_a_restore_is_seen_at_once = past.test_a_restore_is_seen_at_once
test_an_unlinked_open_file_lives_on = past.test_an_unlinked_open_file_lives_on
test_copy_file_range_copies = past.test_copy_file_range_copies
test_stores_into_a_shared_mapping_are_in_the_next_version = (
    past.test_stores_into_a_shared_mapping_are_in_the_next_version
)


@pytest.fixture
def fast(mount: Mounts) -> Mount:
    """A mount whose data all go through the server."""
    mounted = mount(transport="mediated")
    assert mounted.status()["transport"] == "mediated"
    return mounted


def test_what_was_read_stays_in_the_page_cache_and_is_forgotten_by_a_restore(fast: Mount) -> None:
    path = fast.root / "f"
    path.write_bytes(b"a" * 100_000)
    first = fast.save()
    path.write_bytes(b"b" * 100_000)
    fast.save()
    fast.sync()
    assert path.read_bytes() == b"b" * 100_000
    fast.restore(first)
    for _ in range(2):
        assert path.read_bytes() == b"a" * 100_000
