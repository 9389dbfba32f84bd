"""A captured version whose local data are gone: it is said, no later save pretends, and nothing else is lost."""

import errno
import os
import shutil
import signal

import pytest

from tests.cli.scene import assert_failed, ckptfs
from tests.mounting import Mount, Mounts, wait_until


def upload_process(mount: Mount) -> int:
    """Return the pid of a mount's upload process, once it runs."""
    lock = mount.cache / "upload.lock"
    wait_until(lambda: lock.exists() and lock.read_text().strip() != "", 20, "an upload process")
    return int(lock.read_text())


def lose_the_second_version(mounted: Mount) -> int:
    """Make a durable version, then one whose local data vanish before they are stored; return the first's number."""
    (mounted.root / "f").write_text("one")
    first = mounted.save()
    mounted.sync()
    pid = upload_process(mounted)
    os.kill(pid, signal.SIGSTOP)
    try:
        (mounted.root / "f").write_text("two")
        second = mounted.save()
        (pending,) = (mounted.cache / "pending").glob(f"*{second}.*")
        shutil.rmtree(pending / "data")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: mounted.marker()["state"] == "failed", 20, "version 2 failed")
    return first


@pytest.mark.expects_errors
def test_a_version_whose_local_data_vanished_fails_and_so_does_every_later_save(mount: Mounts) -> None:
    mounted = mount()
    first = lose_the_second_version(mounted)
    for _ in range(2):
        with pytest.raises(OSError) as failure:
            mounted.save()
        assert failure.value.errno == errno.EIO
    for wait in ((), ("--wait",)):
        run = ckptfs("save", mounted.root, *wait)
        assert_failed(run, f"nothing was saved at {mounted.root}: ", "mount.log")
        assert "pending" in run.err, "which file vanished"
    assert (mounted.root / "f").read_text() == "two"
    assert os.listdir(mounted.root / ".versions") == [str(first), "latest"]


@pytest.mark.expects_errors
def test_after_a_failed_version_the_next_mount_goes_on_from_the_store(mount: Mounts) -> None:
    mounted = mount()
    lose_the_second_version(mounted)
    (mounted.root / "g").write_text("never saved")
    mounted.unmount()
    again = mount()
    assert (again.root / "f").read_text() == "one"
    assert any(path.read_text() == "never saved" for path in again.cache.glob("unsaved/*/g"))
    (again.root / "f").write_text("three")
    again.save()
    again.sync()
    assert again.marker()["state"] == "durable"
