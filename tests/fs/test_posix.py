"""A mount is an ordinary file tree: what programs do there returns and leaves what it does on the local filesystem
(PRODUCT.md 1, "The mount").
"""

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fs.posix_cases import CASES, UNPRIVILEGED, outcome
from tests.mounting import Mount
from tests.snapshot import Snapshot, assert_same, snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

NOBODY = 65534
# what saving could get in the way of
WITH_SAVES = [
    "truncating_at_open_keeps_the_inode",
    "appending_by_two_handles_keeps_all",
    "truncate_and_extend",
    "fallocate_in_its_modes",
    "direct_io",
    "a_large_file_reads_back",
    "a_shared_mapping_is_the_file",
    "a_mapping_grows_and_shrinks_with_its_file",
    "numpy_memmap",
    "sqlite_with_a_write_ahead_log",
    "renaming",
    "replacing_an_open_file",
    "an_unlinked_file_lives_while_it_is_open",
    "hard_links_are_one_file",
    "a_file_with_a_name_left_is_written_through_an_unlinked_one",
    "a_directory_counts_its_subdirectories",
    "threads_that_make_rename_and_delete",
    "archives_go_in_and_out",
]
# times set by a case are older: 2001
_NOW_NS = 10**18


def _without_times_of_now(tree: Snapshot) -> Snapshot:
    return {path: node._replace(mtime_ns=min(node.mtime_ns, _NOW_NS)) for path, node in tree.items()}


def assert_same_trees(native: Path, mounted: Path) -> None:
    assert_same(_without_times_of_now(snapshot(native)), _without_times_of_now(snapshot(mounted)), "left behind")


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A directory of the local filesystem."""
    path = tmp_path / "native"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_on_the_local_filesystem(name: str, place: Path, native: Path) -> None:
    expected = outcome(CASES[name], native)
    assert outcome(CASES[name], place) == expected
    assert_same_trees(native, place)


@pytest.mark.parametrize("name", WITH_SAVES)
def test_it_is_as_on_the_local_filesystem_while_saves_are_made(
    name: str, shared: Mount, place: Path, native: Path
) -> None:
    expected = outcome(CASES[name], native)
    saving = subprocess.Popen(["sh", "-c", "while sleep 0.02; do touch .save || exit 1; done"], cwd=shared.root)
    try:
        assert outcome(CASES[name], place) == expected
        assert saving.poll() is None
    finally:
        saving.terminate()
        saving.wait(10)
    assert_same_trees(native, place)


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_it_is_as_on_the_local_filesystem_for_another_user(name: str, place: Path, native: Path) -> None:
    for above in native.parents[:3]:
        above.chmod(above.stat().st_mode | 0o111)
    expected = _as_nobody(name, native)
    assert _as_nobody(name, place) == expected
    assert_same_trees(native, place)


def _as_nobody(name: str, directory: Path) -> str:
    home = directory / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    (directory / "of-root").write_text("x")
    for shared, mode in (("sticky", 0o1777), ("shared", 0o2777)):
        (directory / shared).mkdir()
        (directory / shared).chmod(mode)
        (directory / shared / "of-root").write_text("x")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(write, repr(outcome(UNPRIVILEGED[name], home)).encode())
        except BaseException as error:
            os.write(write, f"failed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], 30)
    said = os.read(read, 65536).decode() if ready else "failed: it hangs"
    os.close(read)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not said.startswith("failed"), said
    return said
