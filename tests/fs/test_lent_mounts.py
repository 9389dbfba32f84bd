"""A server without any privilege serves a mount that somebody else made: data, mappings, saves are as on any mount."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptfs.errors import MountError
from ckptfs.fs.transport.device import mount_device, open_device
from ckptfs.fs.transport.lent import Wish, adopt, borrow
from tests.mapping import Mapping
from tests.mounting import Mount, MountFailedError, Mounts, clear_away, let_others_in, wait_until
from tests.snapshot import assert_same, snapshot

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK), reason="root and /dev/fuse are needed"
    ),
]

WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
STRANGER = 12345


class Lender:
    """`ckptfs lend`, for mounts below a directory.

    Args:
        directory: Where everything is.
        options: Of the command.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.root = directory / "mounts"
        self.socket = directory / "lend" / "socket"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Lender":
        command = ["lend", str(self.root), "--socket", str(self.socket), *self._options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ckptfs", *command], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens, 30, "the lender listens")
        return self

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knocking:
            try:
                knocking.connect(os.fspath(self.socket))
            except OSError:
                return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def wish(self, name: str, *, allow_other: bool = False) -> Wish:
        return Wish(str(self.root / name), "file:///nowhere", allow_other, read_only=False)

    def has(self, name: str) -> bool:
        return f" {self.root / name} " in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    lender = Lender(tmp_path, "--allow-other").start()
    try:
        yield lender
    finally:
        if lender.process is not None and lender.process.poll() is None:
            lender.stop()
        for path in lender.root.iterdir() if lender.root.exists() else ():
            clear_away(path)


@pytest.fixture
def transport() -> str:
    return "auto"


@pytest.fixture
def lent(lender: Lender, mount: Mounts) -> Callable[..., Mount]:
    """Starts servers without privileges of mounts that are lent."""

    def start(name: str = "a", **options: object) -> Mount:
        given = {"allow_other": True, "through": WITHOUT_PRIVILEGES, "fuse_socket": str(lender.socket), **options}
        return mount(name=f"mounts/{name}", **given)

    return start


def saved(mounted: Mount) -> None:
    """Save, and check that the version is what is shown, from the store."""
    version = mounted.save()
    mounted.sync()
    # not before: what was stored in a mapping sets the time when it is written back
    seen = snapshot(mounted.root)
    assert_same(seen, snapshot(mounted.root / ".versions" / str(version)), f"version {version}")


def test_data_mappings_and_saves_are_as_on_any_mount(lent: Callable[..., Mount]) -> None:
    first = lent()
    assert first.status()["transport"] == "mediated"
    (first.root / "d").mkdir()
    (first.root / "d/model").write_bytes(os.urandom(3 << 20))
    os.symlink("model", first.root / "d/link")
    fd = os.open(first.root / "mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    mapping = Mapping(fd, 1 << 20, writes=True)
    os.close(fd)
    mapping.view[5000:5005] = b"store"
    saved(first)
    assert (first.root / ".versions/1/mapped").read_bytes()[5000:5005] == b"store"
    with (first.root / "d/model").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")
    mapping.view[5000:5005] = b"again"
    saved(first)
    mapping.close()
    seen = snapshot(first.root)
    assert first.terminate() == 0
    second = lent("b", cache="fresh")
    assert_same(seen, snapshot(second.root), "the newest version, mounted from an empty cache")


def test_the_server_is_killed_and_open_files_go_on(lent: Callable[..., Mount]) -> None:
    mounted = lent()
    with (mounted.root / "file").open("w+b", buffering=0) as file:
        file.write(b"before")
        killed = mounted.pid
        mounted.kill_server()
        file.write(b" and after")
        assert mounted.status()["pid"] != killed
        file.seek(0)
        assert file.read() == b"before and after"
    saved(mounted)


def test_server_and_keeper_are_killed_and_the_name_is_mounted_again(lent: Callable[..., Mount], lender: Lender) -> None:
    mounted = lent()
    (mounted.root / "file").write_text("captured")
    mounted.save()
    mounted.kill()
    wait_until(lambda: not lender.has("a"), 20, "the dead mount is taken away")
    again = lent()
    assert (again.root / "file").read_text() == "captured"
    done = subprocess.run([sys.executable, "-m", "ckptfs", "umount", again.root], timeout=60, check=False)
    assert (done.returncode, again.wait()) == (0, 0)
    assert not lender.has("a")


def test_a_lender_that_ends_leaves_the_mounts_and_the_next_one_lends_no_name_that_is_served(
    lent: Callable[..., Mount], lender: Lender
) -> None:
    mounted = lent()
    assert lender.stop() == 0
    (mounted.root / "file").write_text("still here")
    saved(mounted)
    lender.start()
    with pytest.raises(MountError, match="already mounted"):
        borrow(lender.socket, lender.wish("a"))
    mounted.kill()
    again = lent()
    assert (again.root / "file").read_text() == "still here"


def test_what_others_make_belongs_to_a_server_that_may_not_give_it_away(lent: Callable[..., Mount]) -> None:
    mounted = lent()
    (mounted.root / "open").mkdir(mode=0o777)
    (mounted.root / "open").chmod(0o777)
    path = mounted.root / "open" / "file"
    program = ["sh", "-c", 'printf x > "$0"', path]
    subprocess.run(program, check=True, timeout=30, user=STRANGER, group=STRANGER, extra_groups=[])
    assert (path.stat().st_uid, path.read_text()) == (0, "x")
    with pytest.raises(PermissionError):
        os.chown(path, STRANGER, STRANGER)


def test_only_listed_users_are_heard_and_only_names_below_the_directory_are_lent(tmp_path: Path) -> None:
    lender = Lender(tmp_path, "--allow-uid", "0").start()
    try:
        let_others_in(tmp_path)
        assert "may not mount here" in refusal_of_a_stranger(lender)
        for name in ("../a", "b/c", ".hidden", "a b", ""):
            with pytest.raises(MountError, match="is not a mount point of this lender"):
                borrow(lender.socket, lender.wish("x")._replace(mountpoint=f"{lender.root}/{name}"))
        with pytest.raises(MountError, match="that others may enter"):
            borrow(lender.socket, lender.wish("a", allow_other=True))
        given = borrow(lender.socket, lender.wish("a"))
        assert given.is_there()
        with pytest.raises(MountError, match="already mounted"):
            borrow(lender.socket, lender.wish("a"))
        given.take_away()
        assert not lender.has("a")
        # as soon as nobody looks at it any more, be it only one who lists all mounts
        wait_until(lambda: not given.is_there(), 10, "the connection has ended")
        os.close(given.fd)
        given.close()
    finally:
        lender.stop()


def refusal_of_a_stranger(lender: Lender) -> str:
    """Ask as another user, in a child process; return why nothing is lent."""
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            borrow(lender.socket, lender.wish("a"))
        except MountError as error:
            os.write(says, error.fact.encode())
        finally:
            os._exit(0)
    os.close(says)
    os.waitpid(child, 0)
    with os.fdopen(said) as answer:
        return answer.read()


def test_the_directories_of_mounts_and_of_the_socket_are_made_if_they_are_missing(tmp_path: Path) -> None:
    lender = Lender(tmp_path / "not there" / "below").start()
    assert lender.stop() == 0
    assert list(lender.root.iterdir()) == []
    assert not lender.socket.parent.stat().st_mode & 0o022


def test_a_directory_that_others_may_write_to_is_no_place_for_mounts(tmp_path: Path) -> None:
    (tmp_path / "mounts").mkdir(mode=0o777)
    (tmp_path / "mounts").chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", "ckptfs", "lend", tmp_path / "mounts", "--socket", tmp_path / "s"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "others may write to" in done.stderr


def test_an_inherited_descriptor_is_served_until_whoever_mounted_it_unmounts(mount: Mounts, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    fd = open_device()
    mount_device(fd, tmp_path / "mnt", "test", owner=(0, 0), allow_other=False, read_only=False)
    mounted = mount(fuse_fd=fd, through=WITHOUT_PRIVILEGES)
    os.close(fd)
    (mounted.root / "file").write_bytes(b"x" * 300_000)
    saved(mounted)
    assert mounted.unmount() == 0
    again = open_device()
    mount_device(again, tmp_path / "mnt", "test", owner=(0, 0), allow_other=False, read_only=False)
    second = mount(fuse_fd=again, through=WITHOUT_PRIVILEGES)
    os.close(again)
    assert (second.root / "file").read_bytes() == b"x" * 300_000
    # it cannot unmount: it ends, and the mount is dead until somebody does
    assert second.terminate() == 0
    with pytest.raises(OSError) as raised:
        os.stat(second.root / "file")
    assert raised.value.errno == errno.ENOTCONN


def test_a_descriptor_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="there is no descriptor"):
        adopt(999)
    with (tmp_path / "file").open("w") as file, pytest.raises(MountError, match=r"not of /dev/fuse"):
        adopt(file.fileno())
    fd = open_device()
    try:
        with pytest.raises(MountError, match="nothing is mounted"):
            adopt(fd)
        (tmp_path / "mnt").mkdir()
        mount_device(fd, tmp_path / "mnt", "test", owner=(0, 0), allow_other=False, read_only=False)
        os.read(fd, 2 << 20)
        with pytest.raises(MountError, match="has been served already"):
            adopt(fd)
    finally:
        os.close(fd)
        clear_away(tmp_path / "mnt")


def test_without_a_lender_it_says_so(mount: Mounts, tmp_path: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(MountFailedError) as raised:
        mount(fuse_socket=str(tmp_path / "nothing"))
    assert "no mount from" in raised.value.fact
    assert "ckptfs lend" in str(raised.value.hint)
    assert time.monotonic() - began_s < 20
