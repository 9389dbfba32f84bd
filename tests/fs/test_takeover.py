"""The process that serves a mount is killed: what programs have open, and what had not been saved, is as before."""

import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from ckptfs.transfer.content_writer import CHUNK_BYTES
from tests.mounting import Mount, MountFailedError, Mounts, touch, wait_until
from tests.snapshot import assert_same, snapshot

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(passthrough_obstacle() is not None, reason=f"passthrough cannot work: {passthrough_obstacle()}"),
]


@pytest.fixture
def transport() -> str:
    """Only /dev/fuse itself can be handed over."""
    return "passthrough"


def take_over(mounted: Mount) -> None:
    """Kill the server; return when another answers."""
    pid = mounted.pid
    mounted.kill_server()
    assert mounted.status()["pid"] not in (pid, None)


def saved(mounted: Mount) -> int:
    """Save, and check that the version is what is shown, from the store."""
    seen = snapshot(mounted.root)
    version = mounted.save()
    mounted.sync()
    assert_same(seen, snapshot(mounted.root / ".versions" / str(version)), f"version {version}")
    return version


def change_times(directory: Path) -> dict[str, int]:
    """The ctimes of a directory and of what is in it."""
    return {".": directory.stat().st_ctime_ns} | {path.name: path.stat().st_ctime_ns for path in directory.iterdir()}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND])
def test_open_files_go_on(mount: Mounts, flags: int) -> None:
    mounted = mount()
    path = mounted.root / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, flags)
    for _ in range(2):
        take_over(mounted)
        if flags & os.O_ACCMODE != os.O_WRONLY:
            assert os.pread(fd, 10, 0) == b"0123456789"
        if flags & os.O_ACCMODE != os.O_RDONLY:
            os.write(fd, b"0123456789")
        assert os.fstat(fd).st_ino == path.stat().st_ino
        with path.open("rb") as other:
            assert other.read(10) == b"0123456789"
    os.close(fd)
    saved(mounted)


def test_open_files_that_lost_their_name_go_on(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "replacement").write_bytes(b"new")
    files = []
    for number, remove in enumerate((os.unlink, lambda path: os.rename(mounted.root / "replacement", path))):
        path = mounted.root / str(number)
        file = path.open("w+b", buffering=0)
        file.write(b"old")
        remove(path)
        files.append(file)
    nameless = os.open(mounted.root, os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, b"old")
    files.append(os.fdopen(nameless, "r+b", buffering=0))
    take_over(mounted)
    for file in files:
        file.seek(0)
        assert file.read() == b"old"
        file.write(b"er")
        assert os.fstat(file.fileno()).st_size == 5
        assert os.fstat(file.fileno()).st_nlink == 0
    root_fd = os.open(mounted.root, os.O_RDONLY | os.O_DIRECTORY)
    os.link(f"/proc/self/fd/{nameless}", "named", dst_dir_fd=root_fd, follow_symlinks=True)
    os.close(root_fd)
    for file in files:
        file.close()
    assert (mounted.root / "named").read_bytes() == b"older"
    assert sorted(os.listdir(mounted.root)) == ["1", "named"]
    saved(mounted)
    # nothing is kept for longer than it is open
    wait_until(lambda: not list((mounted.cache / "orphans").iterdir()), 10, "the spare directory is empty")


_DIES = """
import os, pathlib
from {module} import {owner}
act, die = {owner}.{method}, pathlib.Path(__file__).with_name("die")
def dies(*arguments):
    if not {before}:
        act(*arguments)
    if die.exists():
        die.unlink()
        os.kill(os.getpid(), 9)
    if {before}:
        act(*arguments)
{owner}.{method} = dies
"""


class Dying:
    """A mount whose server is killed once, right after it has done something, or before it does it."""

    def __init__(
        self, mount: Mounts, directory: Path, module: str, owner: str, method: str, *, before: bool = False
    ) -> None:
        self._die = directory / "site" / "die"
        self._die.parent.mkdir()
        text = _DIES.format(module=module, owner=owner, method=method, before=before)
        (directory / "site" / "sitecustomize.py").write_text(text)
        self.mounted = mount(env={"PYTHONPATH": os.fspath(directory / "site")})

    @contextmanager
    def dying(self) -> Iterator[None]:
        """It is killed in the block."""
        self._die.touch()
        yield
        assert not self._die.exists()


def test_an_open_file_whose_name_was_about_to_go_takes_no_room_when_it_is_closed(mount: Mounts, tmp_path: Path) -> None:
    server = Dying(mount, tmp_path, "ckptfs.fs.live.open_inodes", "OpenInodes", "_keep")
    mounted = server.mounted
    (mounted.root / "file").write_bytes(b"0123456789")
    fd = os.open(mounted.root / "file", os.O_RDONLY)
    with server.dying():
        (mounted.root / "file").unlink()
    assert os.pread(fd, 10, 0) == b"0123456789"
    assert len(os.listdir(mounted.cache / "orphans")) == 1
    os.close(fd)
    wait_until(lambda: not os.listdir(mounted.cache / "orphans"), 20, "nothing is kept of it")


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
def test_what_is_written_to_a_file_that_was_just_given_its_name_is_saved(
    mount: Mounts, tmp_path: Path, flags: int
) -> None:
    server = Dying(mount, tmp_path, "ckptfs.fs.live.nameless_files", "NamelessFiles", "link")
    mounted = server.mounted
    directory = os.open(mounted.root, os.O_RDONLY)
    fd = os.open(".", os.O_TMPFILE | flags, dir_fd=directory)
    os.write(fd, b"first")
    with server.dying():
        os.link(f"/proc/self/fd/{fd}", "file", dst_dir_fd=directory, follow_symlinks=True)
    assert os.fstat(fd).st_nlink == 1
    for turn in range(3):
        saved(mounted)
        os.pwrite(fd, b"later %d" % turn, 0)
    saved(mounted)
    os.close(fd)
    os.close(directory)


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY])
def test_an_open_file_goes_on_under_a_name_that_nobody_has_looked_up(mount: Mounts, flags: int) -> None:
    mounted = mount()
    (mounted.root / "known").write_bytes(b"first")
    os.link(mounted.root / "known", mounted.root / "other")
    saved(mounted)
    assert mounted.unmount() == 0
    mounted = mount()
    fd = os.open(mounted.root / "known", flags)
    (mounted.root / "known").unlink()
    saved(mounted)
    os.fchmod(fd, 0o600)
    saved(mounted)
    os.setxattr(fd, "user.of", b"the other")
    saved(mounted)
    take_over(mounted)
    assert os.fstat(fd).st_nlink == 1
    for turn in range(3):
        os.pwrite(fd, b"later %d" % turn, 0)
        saved(mounted)
        assert (mounted.root / "other").read_bytes() == b"later %d" % turn
    os.close(fd)
    wait_until(lambda: not os.listdir(mounted.cache / "orphans"), 20, "nothing is kept of it")


def test_the_mtime_that_a_file_without_data_was_given_outlives_a_server_that_is_killed_while_it_fetches(
    mount: Mounts, tmp_path: Path
) -> None:
    # each chunk that is written moves the file's own mtime
    server = Dying(mount, tmp_path, "ckptfs.fs.hydration", "hydrator", "set_times", before=True)
    mounted = server.mounted
    (mounted.root / "file").write_bytes(b"first")
    touch(mounted.root)
    (mounted.root / "file").write_bytes(b"other")
    mounted.save()
    mounted.sync()
    mounted.restore(1)
    os.utime(mounted.root / "file", ns=(10**18, 10**18))
    with server.dying():
        assert (mounted.root / "file").read_bytes() == b"first"
    assert [entry.stat().st_mtime_ns for entry in os.scandir(mounted.root)] == [10**18]
    saved(mounted)


def test_locks_are_kept(mount: Mounts) -> None:
    mounted = mount()
    with (mounted.root / "file").open("w+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX, 10)
        take_over(mounted)
        program = f"""
import fcntl, sys
file = open({os.fspath(mounted.root / "file")!r}, "r+b")
for call, arguments in ((fcntl.flock, ()), (fcntl.lockf, (10,))):
    try:
        call(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *arguments)
        sys.exit("not locked")
    except BlockingIOError:
        pass
"""
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        assert other.returncode == 0, other.stderr


@pytest.mark.parametrize("how", ["mediated", "past the server"])
def test_a_mapping_lives_on_and_its_stores_are_saved(mount: Mounts, how: str) -> None:
    mounted = mount()
    path = mounted.root / "file"
    path.write_bytes(bytes(8192))
    reader = path.open("rb") if how != "mediated" else None
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 8192)
    if reader is not None:
        reader.close()
    mapping[:3] = b"one"
    mounted.save()
    take_over(mounted)
    mapping[4096:4099] = b"two"
    take_over(mounted)
    assert path.read_bytes()[4096:4099] == b"two"
    version = mounted.save()
    mounted.sync()
    data = (mounted.root / ".versions" / str(version) / "file").read_bytes()
    assert (data[:3], data[4096:4099]) == (b"one", b"two")
    mapping.close()


def test_a_directory_is_listed_to_its_end(mount: Mounts) -> None:
    mounted = mount()
    names = {f"file-{number:04}" for number in range(2000)}
    for name in names:
        (mounted.root / name).touch()
    found = []
    with os.scandir(mounted.root) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) in (10, 1000):
                take_over(mounted)
    assert sorted(found) == sorted(names)


def test_what_was_not_saved_stays_and_is_saved(mount: Mounts) -> None:
    mounted = mount()
    root = mounted.root
    (root / "d").mkdir()
    for name in ("kept", "changed", "removed", "moved", "d/below", "linked"):
        (root / name).write_bytes(name.encode())
    os.link(root / "linked", root / "d" / "linked too")
    saved(mounted)
    (root / "changed").write_bytes(b"other")
    (root / "removed").unlink()
    (root / "moved").rename(root / "elsewhere")
    (root / "d").rename(root / "e")
    (root / "new").write_bytes(b"new")
    (root / "kept").chmod(0o600)
    os.link(root / "new", root / "new too")
    os.setxattr(root / "elsewhere", "user.a", b"1")
    seen = snapshot(root)
    take_over(mounted)
    assert_same(seen, snapshot(root), "after a takeover")
    assert not list((mounted.cache / "unsaved").iterdir())
    version = saved(mounted)
    assert mounted.unmount() == 0
    again = mount(cache="empty")
    assert again.marker()["version"] == version
    assert_same(seen, snapshot(again.root), "on another machine")


def test_a_write_through_a_name_that_has_gone_is_saved_under_the_other(mount: Mounts) -> None:
    mounted = mount()
    first, second = mounted.root / "first", mounted.root / "second"
    for takes_over in (False, True):
        second.write_bytes(b"before")
        os.link(second, first)
        saved(mounted)
        first.write_bytes(b"after")
        first.chmod(0o600)
        if takes_over:
            take_over(mounted)
        first.unlink()
        if takes_over:
            take_over(mounted)
        saved(mounted)
        second.unlink()


def test_files_without_data_are_fetched_after_it(mount: Mounts) -> None:
    first = mount(name="first", cache="first-cache")
    for number in range(6):
        (first.root / str(number)).write_bytes(os.urandom(100_000))
    seen = snapshot(first.root)
    first.save()
    first.sync()
    assert first.unmount() == 0
    mounted = mount(cache="second-cache")
    root = mounted.root
    assert (root / "0").read_bytes() == seen[b"0"].content
    (root / "1").rename(root / "renamed")
    os.link(root / "2", root / "linked")
    os.utime(root / "3", ns=(5, 5))
    (root / "4").unlink()
    take_over(mounted)
    assert mounted.status()["not_fetched_files"] == 4
    version = mounted.save()
    take_over(mounted)
    assert (root / "renamed").read_bytes() == seen[b"1"].content
    assert (root / "linked").read_bytes() == (root / "2").read_bytes() == seen[b"2"].content
    assert (root / "3").stat().st_mtime_ns == 5
    assert (root / "5").stat().st_mtime_ns == seen[b"5"].mtime_ns
    assert (root / "3").read_bytes() == seen[b"3"].content
    assert (root / "3").stat().st_mtime_ns == 5
    mounted.sync()
    assert_same(snapshot(root), snapshot(root / ".versions" / str(version)), "what was saved without data")


def test_reading_goes_on_of_files_that_are_partly_here(mount: Mounts) -> None:
    first = mount(name="first", cache="first-cache")
    contents = {name: os.urandom(3 * CHUNK_BYTES) for name in ("named", "removed", "restored", "streamed")}
    for name, content in contents.items():
        (first.root / name).write_bytes(content)
    first.save()
    (first.root / "restored").write_bytes(b"two")
    first.save()
    first.sync()
    assert first.unmount() == 0
    mounted = mount(cache="second-cache")
    mounted.restore(1)
    fds = {name: os.open(mounted.root / name, os.O_RDONLY) for name in contents}
    for name in ("named", "removed", "restored"):
        assert os.pread(fds[name], 10, CHUNK_BYTES) == contents[name][CHUNK_BYTES:][:10]
    (mounted.root / "removed").unlink()
    mounted.restore(2)
    mounted.save()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.extend(iter(lambda: os.read(fds["streamed"], 50_000), b"")))
    reader.start()
    for _ in range(2):
        take_over(mounted)
        assert os.pread(fds["removed"], 10, CHUNK_BYTES) == contents["removed"][CHUNK_BYTES:][:10]
    reader.join(60)
    assert b"".join(found) == contents["streamed"]
    for name in ("named", "removed", "restored"):
        assert os.pread(fds[name], 3 * CHUNK_BYTES, 0) == contents[name]
        os.close(fds[name])
    os.close(fds["streamed"])
    assert (mounted.root / "restored").read_bytes() == b"two"
    wait_until(lambda: not list((mounted.cache / "orphans").iterdir()), 10, "the spare directory is empty")
    saved(mounted)


def test_change_times_stay_what_they_were_shown_as(mount: Mounts) -> None:
    """Ours move when a version is made, is durable, or a file gets its data; `git diff-files` looks at them."""
    mounted = mount()
    root = mounted.root
    for name in ("durable", "changed", "linked", "pending", "fetched", "truncated"):
        (root / name).write_bytes(name.encode() * 1000)
    touch(root)
    mounted.sync()
    mounted.restore(1)
    (root / "fetched").write_bytes(b"other")
    touch(root)
    mounted.sync()
    mounted.restore(1)
    assert (root / "fetched").read_bytes() == b"fetched" * 1000
    (root / "changed").chmod(0o600)
    os.link(root / "linked", root / "further")
    os.kill(mounted.upload_pid() or 0, signal.SIGSTOP)
    (root / "pending").write_bytes(b"pending")
    touch(root)
    (root / "truncated").write_bytes(b"after the save")
    shown, real = change_times(root), change_times(mounted.cache / "live")
    assert {"durable", "pending", "fetched"} <= {name for name in shown if shown[name] != real[name]}
    for _ in range(2):
        take_over(mounted)
        assert change_times(root) == shown
    (root / "durable").chmod(0o600)
    assert (root / "durable").stat().st_ctime_ns > shown["durable"]


def test_a_restored_tree_stays_restored(mount: Mounts) -> None:
    mounted = mount()
    root = mounted.root
    for step in (b"one", b"two"):
        (root / "model").write_bytes(step * 10_000)
        (root / step.decode()).write_bytes(step)
        saved(mounted)
    mounted.restore(1)
    (root / "one").rename(root / "uno")
    take_over(mounted)
    assert (root / "model").read_bytes() == b"one" * 10_000
    take_over(mounted)
    assert (root / "uno").read_bytes() == b"one"
    assert not (root / "two").exists()
    assert saved(mounted) == 3


def test_an_fsync_of_the_marker_waits_on(mount: Mounts, tmp_path: Path) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    store = tmp_path / "store"
    store.rename(tmp_path / "away")
    errors: list[OSError] = []

    def save_durably() -> None:
        fd = os.open(mounted.root / ".save", os.O_WRONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            errors.append(error)
        os.close(fd)

    thread = threading.Thread(target=save_durably)
    thread.start()
    wait_until(lambda: mounted.status()["version"] == 1, 20, "it is captured")
    (tmp_path / "away").rename(store)
    mounted.kill_server()
    thread.join(60)
    assert not thread.is_alive()
    assert not errors
    state = mounted.marker()
    assert (state["version"], state["state"]) == (1, "durable")


@pytest.mark.parametrize("is_mount_point", [False, True], ids=["directory gone", "mount point empty"])
def test_a_store_whose_filesystem_is_not_mounted_is_waited_for(
    mount: Mounts, tmp_path: Path, is_mount_point: bool
) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    store = tmp_path / "store"
    store.rename(tmp_path / "away")
    if is_mount_point:
        store.mkdir()
    assert mounted.save() == 1
    with (mounted.root / "file").open("r+b") as file:
        mounted.kill_server()
        # more often than a failure that does not pass is tried again
        wait_until(lambda: mounted.log.count("cannot go on with ") > 5, 60, "it was tried again and again")
        assert store.exists() == is_mount_point
        if is_mount_point:
            store.rmdir()
        (tmp_path / "away").rename(store)
        file.write(b"DATA")
    mounted.sync()
    assert (mounted.root / "file").read_bytes() == b"DATA"
    assert mounted.save() == 2


def test_a_touch_goes_on_and_makes_one_version(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    fd = os.open(mounted.root / ".save", os.O_WRONLY)
    os.write(fd, b"step=")
    take_over(mounted)
    os.write(fd, b"7")
    other = os.dup(fd)
    os.close(fd)
    take_over(mounted)
    os.close(other)
    assert (mounted.marker()["version"], mounted.marker()["note"]) == (1, {"step": 7})
    reader = os.open(mounted.root / ".save", os.O_RDONLY)
    shown = os.read(reader, 10)
    touch(mounted.root, "other")
    take_over(mounted)
    assert b'"step"' in shown + os.read(reader, 1000)
    os.close(reader)


def test_a_read_only_mount_shows_on_what_it_showed(mount: Mounts) -> None:
    writer = mount(name="writer-mount")
    (writer.root / "file").write_bytes(b"one")
    writer.save()
    writer.sync()
    reader = mount(name="reader-mount", cache="reader-cache", read_only=True)
    file = (reader.root / "file").open("rb", buffering=0)
    (writer.root / "file").write_bytes(b"two")
    writer.save()
    writer.sync()
    take_over(reader)
    assert file.read() == b"one"
    assert (reader.root / "file").read_bytes() == b"one"
    with pytest.raises(OSError) as raised:
        (reader.root / "other").touch()
    assert raised.value.errno == errno.EROFS
    file.close()
    assert reader.unmount() == 0


def test_a_server_without_a_keeper_serves_on(mount: Mounts) -> None:
    mounted = mount()
    server = mounted.pid
    os.kill(mounted.keeper_pid, 9)
    assert mounted.process is not None
    mounted.process.wait(30)
    (mounted.root / "file").write_bytes(b"data")
    assert mounted.save() == 1
    subprocess.run(["umount", mounted.root], check=True, timeout=30)
    wait_until(lambda: not Path(f"/proc/{server}").exists(), 30, "the server has ended")
    assert mount().marker()["version"] == 1


def test_a_server_that_is_killed_before_it_is_ready_is_followed_by_another(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    killed: set[int] = set()
    while len(killed) < 10:
        wait_until(lambda: mounted.server_pid() not in (None, *killed), 10, "the next server has been started")
        pid = mounted.server_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert (mounted.root / "file").read_bytes() == b"data"
    saved(mounted)
    assert mounted.terminate() == 0


def test_a_keeper_that_is_told_to_end_drains(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    mounted.save()
    take_over(mounted)
    assert mounted.terminate() == 0
    assert mount(cache="empty").marker()["state"] == "durable"


def test_a_mount_that_was_taken_away_is_not_served_again(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    mounted.save()
    os.kill(mounted.keeper_pid, 19)
    mounted.kill_server()
    subprocess.run(["umount", "-l", mounted.root], check=True, timeout=30)
    os.kill(mounted.keeper_pid, 18)
    again = mount()
    assert again.marker()["version"] == 1
    assert mounted.wait() == 1


@pytest.mark.expects_errors
def test_a_live_tree_that_cannot_be_known_again_is_taken_away(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").write_bytes(b"data")
    (mounted.cache / "journal").unlink()
    mounted.kill_server()
    assert mounted.wait() == 1
    assert "journal is missing or not whole" in mounted.log
    again = mount()
    assert os.listdir(again.root) == []
    (kept,) = again.cache.glob("unsaved/*/file")
    assert kept.read_bytes() == b"data"


def test_what_libfuse_serves_is_mounted_anew(mount: Mounts) -> None:
    mounted = mount(transport="fusepy")
    (mounted.root / "file").write_bytes(b"data")
    mounted.save()
    file = (mounted.root / "file").open("rb", buffering=0)
    pid = mounted.pid
    mounted.kill_server()

    def answers() -> bool:
        try:
            return bool(mounted.status()["pid"] != pid)
        except OSError:
            return False

    wait_until(answers, 20, "it is mounted again")
    with pytest.raises(OSError) as raised:
        file.read()
    assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with suppress(OSError):
        file.close()
    assert (mounted.root / "file").read_bytes() == b"data"
    assert "cannot be handed over, mounting again" in mounted.log


@pytest.mark.parametrize("options", [{"cache": "mnt/cache"}, {"cache": "mnt"}, {"store": "file://{}/mnt/store"}])
def test_a_mount_that_would_keep_its_data_in_itself_is_refused(
    mount: Mounts, tmp_path: Path, options: dict[str, str]
) -> None:
    options = {name: value.format(tmp_path) for name, value in options.items()}
    with pytest.raises(MountFailedError, match="would be inside the mount"):
        mount(options.pop("store", None), **options)


@pytest.mark.expects_errors
def test_a_keeper_that_waits_for_a_store_rests_in_between_and_ends_when_it_is_told_to(mount: Mounts) -> None:
    mounted = mount()
    store = Path(mounted.store.removeprefix("file://"))
    store.rename(store.with_name("away"))
    mounted.kill_server()
    wait_until(lambda: "cannot go on" in mounted.log, 30, "it waits")
    time.sleep(2)
    # every 0.2 s; without a rest every 4 ms
    assert mounted.log.count("cannot go on") < 40
    assert mounted.process is not None
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(30) == 1
    assert "Traceback" not in mounted.log
