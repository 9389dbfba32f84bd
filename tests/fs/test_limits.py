"""Many of something: names in a directory, open files; and too few descriptors, inodes or blocks for it."""

import concurrent.futures
import contextlib
import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import fill, small_disk
from tests.mounting import Mount, Mounts, touch, wait_until
from tests.snapshot import assert_same, snapshot
from tests.strace import injected

pytestmark = pytest.mark.fuse

MIB = 1 << 20
FILES = 1100
OPENS = {"passthrough": 10_000, "fusepy": 1_500}
_, MOST = resource.getrlimit(resource.RLIMIT_NOFILE)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="raises limits, mounts a small disk")


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    """Limit how many files this process may have open, and those that it starts until they ask for more."""
    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, MOST))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, MOST))


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 200 inodes."""
    with small_disk(tmp_path / "disk", "nr_inodes=200") as path:
        yield path


def names(mounted: Mount) -> set[str]:
    """List a mount by programs that ask for much at once, again and again, and for little."""
    listed = [set(os.listdir(mounted.root)) for _ in range(3)]
    for command in (["ls", "-f"], ["ls", "-l"]):
        subprocess.run([*command, mounted.root], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert listed[0] == listed[1] == listed[2]
    return listed[0]


@needs_root
def test_thousands_of_files_are_open_at_once_and_saved_and_a_thousand_short_names_are_listed(
    mount: Mounts, transport: str
) -> None:
    opens = OPENS[transport]
    assert opens + 500 < MOST, "this machine allows fewer open files than this test needs (ulimit -Hn)"
    mounted = mount.prepare()
    opened: list[int] = []
    with descriptors(256):
        # it raises its own limit
        mounted.start()
    with descriptors(MOST):
        try:
            for number in range(FILES):
                opened.append(os.open(mounted.root / f"{number}", os.O_RDWR | os.O_CREAT))
                os.write(opened[-1], b"%d" % number)
            for number in range(opens - FILES):
                opened.append(os.open(mounted.root / f"{number % FILES}", os.O_RDONLY))
            assert len(os.listdir(f"/proc/{mounted.pid}/fd")) > opens
            assert names(mounted) == {f"{number}" for number in range(FILES)}
            assert mounted.save() == 1
            assert os.pread(opened[-1], 10, 0) == b"%d" % ((opens - FILES - 1) % FILES)
            os.pwrite(opened[7], b"changed", 0)
        finally:
            for fd in opened:
                os.close(fd)
    assert mounted.save() == 2
    mounted.sync()
    versions = mounted.root / ".versions"
    assert [(versions / version / "7").read_bytes() for version in ("1", "2")] == [b"7", b"changed"]
    assert len(os.listdir(f"/proc/{mounted.pid}/fd")) < 100


@needs_root
def test_a_cache_disk_without_inodes_loses_nothing_and_goes_on_when_there_are_some(
    mount: Mounts, few_inodes: Path
) -> None:
    mounted = mount(cache="disk/cache")
    (mounted.root / "first.bin").write_bytes(b"first")
    assert mounted.save() == 1
    mounted.sync()
    wait_until(lambda: spares_are_whole(mounted), 20, "there are spares")
    assert fill_with_files(mounted.root) > 20
    # with what was made ahead
    assert mounted.save() == 2
    newest, made = save_until_no_inode_is_left(mounted)
    before = snapshot(mounted.root)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            touch(mounted.root)
        assert caught.value.errno == errno.ENOSPC
    assert mounted.marker()["version"] == newest
    assert mounted.status()["pending"] == []
    assert_same(before, snapshot(mounted.root), "the live tree")
    # what is there can be read, changed and removed
    (mounted.root / "first.bin").write_bytes(b"second")
    assert (mounted.root / "first.bin").read_bytes() == b"second"
    for number in range(10, made):
        (mounted.root / f"{number}").unlink()
    assert mounted.save() == newest + 1
    mounted.sync()
    assert (mounted.root / ".versions" / "1" / "first.bin").read_bytes() == b"first"
    saved = snapshot(mounted.root)
    mounted.kill()
    assert_same(saved, snapshot(mount(name="elsewhere", cache="cache-2", takeover=True).root), "on another machine")


def test_the_upload_process_gives_way_to_other_sessions(mount: Mounts) -> None:
    mounted = mount(upload_nice=7)
    touch(mounted.root)
    mounted.sync()
    upload = mounted.upload_pid()
    assert upload is not None
    assert os.getsid(upload) == upload
    # the tests may give way themselves
    expected = min(19, os.nice(0) + 7)
    assert os.getpriority(os.PRIO_PROCESS, upload) == expected
    # "/autogroup-<number> nice <niceness of the session>", where Linux divides processor time among sessions
    for pid, niceness in ((upload, str(expected)), (mounted.pid, "0")):
        group = Path(f"/proc/{pid}/autogroup")
        assert not group.exists() or group.read_text().split()[-1:] in ([], [niceness])


@needs_root
def test_a_full_cache_disk_fails_a_capture_that_must_copy_and_keeps_what_is_captured(
    mount: Mounts, tmp_path: Path, transport: str
) -> None:
    with small_disk(tmp_path / "disk", "size=24m"):
        mounted = mount(cache="disk/cache")
        wait_until(lambda: mounted.upload_pid() is not None, 20, "the upload process runs")
        pid = mounted.upload_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with open(mounted.root / "open.bin", "w+b", buffering=0) as file:
                file.write(b"1" * (4 * MIB))
                (mounted.root / "closed.bin").write_bytes(b"1" * MIB)
                assert mounted.save() == 1
                file.seek(0)
                file.write(b"2" * (4 * MIB))
                fill(tmp_path / "disk")
                if transport == "passthrough":
                    # written past us, so that a capture takes a copy
                    with pytest.raises(OSError) as caught:
                        touch(mounted.root)
                    assert caught.value.errno == errno.ENOSPC
                # a captured file is copied before it changes
                with open(mounted.root / "closed.bin", "r+b", buffering=0) as closed, pytest.raises(OSError) as caught:
                    closed.write(b"2")
                assert caught.value.errno == errno.ENOSPC
                assert [each["version"] for each in mounted.status()["pending"]] == [1]
                (tmp_path / "disk" / "filling").unlink()
                assert mounted.save() == 2
        finally:
            os.kill(pid, signal.SIGCONT)
        mounted.sync()
        versions = mounted.root / ".versions"
        for version in ("1", "2"):
            assert (versions / version / "open.bin").read_bytes() == version.encode() * (4 * MIB)
            assert (versions / version / "closed.bin").read_bytes() == b"1" * MIB
        mounted.unmount()


def spares_are_whole(mounted: Mount) -> bool:
    """Tell whether all that is made ahead is there: some files, and a directory that has all of its own."""
    spares = list((mounted.cache / "spares").iterdir())
    return len(spares) == 5 and [len(os.listdir(path)) for path in spares if path.is_dir()] == [4]


def save_until_no_inode_is_left(mounted: Mount) -> tuple[int, int]:
    """Return the newest version, and how many files there are, once a save finds no inode.

    What a durable version gives back may be made a spare again before the files take it: a save succeeds then.
    """
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        mounted.sync()
        made = fill_with_files(mounted.root)
        try:
            touch(mounted.root)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return int(mounted.marker()["version"]), made
    raise AssertionError("there are inodes still")


def fill_with_files(root: Path) -> int:
    """Make files until there is no room for one; return how many could be made."""
    number = 0
    try:
        while True:
            (root / f"{number}").write_bytes(b"")
            number += 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return number


def test_listing_many_versions_reads_none_of_them(mount: Mounts) -> None:
    mounted = mount()
    for _ in range(60):
        touch(mounted.root)
    mounted.sync()
    assert mounted.unmount() == 0
    reader = mount(name="elsewhere", cache="cache-2")
    records = mount.directory / "store" / "c"
    away = records.with_name("away")
    away.mkdir()
    # the newest four come first
    for record in sorted(records.iterdir())[4:]:
        record.rename(away / record.name)
    with os.scandir(reader.root / ".versions") as entries:
        listed = {entry.name: entry for entry in entries}
    assert list(listed) == [*map(str, range(1, 61)), "latest"]
    assert all(listed[str(number)].is_dir(follow_symlinks=False) for number in range(1, 61))
    assert listed["latest"].is_symlink()
    for name in ("60", "latest"):
        assert listed[name].inode() == os.lstat(reader.root / ".versions" / name).st_ino
    for record in away.iterdir():
        record.rename(records / record.name)
    assert os.listdir(reader.root / ".versions" / "1") == []


@pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module")
def test_requests_are_answered_though_no_more_threads_may_be_had(mount: Mounts) -> None:
    mounted = mount(deadline_s=60.0)
    names = [f"{number:02d}" for number in range(16)]

    def make(name: str) -> None:
        for number in range(40):
            (mounted.root / f"{name}-{number:02d}").mkdir()

    with injected(mounted.pid, "clone,clone3,vfork", "error=EAGAIN"):
        with concurrent.futures.ThreadPoolExecutor(len(names)) as programs:
            list(programs.map(make, names))
    assert len(os.listdir(mounted.root)) == 40 * len(names)
    mounted.save()
    mounted.sync()


@pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module")
@pytest.mark.parametrize("calls", ["clone,clone3,vfork", "clone3"], ids=["no processes", "no threads"])
def test_a_killed_server_is_followed_when_processes_and_threads_may_be_had_again(mount: Mounts, calls: str) -> None:
    mounted = mount(deadline_s=60.0)
    file = (mounted.root / "file").open("w+b", buffering=0)
    killed = mounted.pid
    with injected(mounted.keeper_pid, calls, "error=EAGAIN"):
        mounted.kill_server()
        # 5 refusals were the end of the mount
        wait_until(lambda: mounted.log.count("cannot go on") > 10, 30, "many were refused")
    file.write(b"data")
    assert mounted.status()["pid"] != killed
    file.close()
    mounted.save()
    mounted.sync()


@pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module")
def test_what_runs_beside_a_mount_begins_when_threads_may_be_had(mount: Mounts) -> None:
    mounted = mount(deadline_s=60.0)
    with injected(mounted.keeper_pid, "clone3", "error=EAGAIN:when=4+"):
        mounted.kill_server()
        wait_until(lambda: "what runs beside the mount" in mounted.log, 30, "some were refused")
        (mounted.root / "file").write_bytes(b"data")
        touch(mounted.root)
    mounted.sync()
    assert mounted.marker()["state"] == "durable"


@pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module")
def test_versions_are_read_though_no_more_threads_may_be_had(mount: Mounts) -> None:
    writer = mount()
    (writer.root / "file").write_bytes(os.urandom(MIB))
    seen = snapshot(writer.root)
    writer.save()
    writer.sync()
    assert writer.unmount() == 0
    reader = mount(name="elsewhere", cache="cache-2", prefetch=False, deadline_s=60.0)
    with injected(reader.pid, "clone,clone3,vfork", "error=EAGAIN"):
        assert_same(seen, snapshot(reader.root / ".versions" / "1"), "version 1")
        assert_same(seen, snapshot(reader.root), "the mount")
