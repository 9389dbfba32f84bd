"""A name that is truncated gets a fresh inode while a pending version has the old one: the two are never mixed up."""

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.mounting import Mounts, touch, wait_until
from tests.strace import injected

pytestmark = pytest.mark.fuse

_DELAY_S = 2


def test_a_number_comes_back_only_when_its_name_is_known_to_have_another(mount: Mounts) -> None:
    """Under load a version became durable, its inode went, and a new file got the number by which the truncated one was
    still known: the kernel took the two for one."""
    mounted = mount(transport="passthrough")
    root, live = mounted.root, mounted.cache / "live"
    wait_until(lambda: mounted.upload_pid() is not None, 20, "the upload process runs")
    upload_pid = mounted.upload_pid() or 0
    truncated = root / "truncated"
    truncated.write_bytes(b"old")
    ino = (live / truncated.name).stat().st_ino
    os.kill(upload_pid, signal.SIGSTOP)
    touch(root)
    # what it does last when it gives a name a fresh inode
    with injected(mounted.pid, "utimensat", f"delay_exit={_DELAY_S * 1_000_000}"):
        writer = threading.Thread(target=truncated.write_bytes, args=(b"new",))
        writer.start()
        wait_until(lambda: (live / truncated.name).stat().st_ino != ino, 20, "the name has a fresh inode")
        os.kill(upload_pid, signal.SIGCONT)
        wait_until(lambda: not os.listdir(mounted.cache / "pending"), 20, "the version is durable")
        made: list[Path] = []
        while writer.is_alive():
            made.append(root / f"made-{len(made)}")
            made[-1].write_bytes(made[-1].name.encode())
        writer.join()
    assert truncated.read_bytes() == b"new"
    assert [path.read_bytes() for path in made] == [path.name.encode() for path in made]
    assert len({path.stat().st_ino for path in (truncated, *made)}) == 1 + len(made)


def test_a_fresh_inode_is_not_truncated_once_more(mount: Mounts) -> None:
    """What was truncated is brought to the disk when it is closed (ext4), and closing waits for that."""
    mounted = mount(transport="passthrough")
    wait_until(lambda: mounted.upload_pid() is not None, 20, "the upload process runs")
    upload_pid = mounted.upload_pid() or 0
    model = mounted.root / "model"
    model.write_bytes(b"old and longer")
    os.kill(upload_pid, signal.SIGSTOP)
    touch(mounted.root)
    with injected(mounted.pid, "truncate,ftruncate", "error=EIO"):
        model.write_bytes(b"new")
        with pytest.raises(OSError, match="Input/output error"):
            model.write_bytes(b"newest")  # this inode no version has
    assert model.read_bytes() == b"new"
    os.kill(upload_pid, signal.SIGCONT)
    touch(mounted.root)
    wait_until(lambda: not os.listdir(mounted.cache / "pending"), 20, "both versions are durable")
    assert [(mounted.root / ".versions" / number / "model").read_bytes() for number in "12"] == [
        b"old and longer",
        b"new",
    ]


_WAITS = """
import pathlib, time
from contextlib import contextmanager
from ckptfs.fs.live.open_files import OpenFiles
turn, wait = OpenFiles._turn, pathlib.Path(__file__).with_name("wait")
@contextmanager
def late(self, ino, *, truncates):
    if truncates and wait.exists():
        wait.unlink()
        time.sleep(1.0)
    with turn(self, ino, truncates=truncates):
        yield
OpenFiles._turn = late
"""


@pytest.mark.parametrize("is_pending", [False, True])
def test_who_truncates_a_name_that_is_renamed_meanwhile_truncates_one_file(
    mount: Mounts, tmp_path: Path, is_pending: bool
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WAITS)
    mounted = mount(transport="passthrough", env={"PYTHONPATH": os.fspath(tmp_path / "site")})
    log, older, new = (mounted.root / name for name in ("log", "log.1", "new"))
    log.write_bytes(b"old")
    new.write_bytes(b"new")
    wait_until(lambda: mounted.upload_pid() is not None, 20, "the upload process runs")
    upload_pid = mounted.upload_pid() or 0
    if is_pending:
        os.kill(upload_pid, signal.SIGSTOP)
        touch(mounted.root)
    wait = tmp_path / "site" / "wait"
    wait.touch()
    opener = threading.Thread(target=lambda: os.close(os.open(log, os.O_WRONLY | os.O_TRUNC)))
    opener.start()
    wait_until(lambda: not wait.exists(), 20, "it is being opened")
    log.rename(older)
    new.rename(log)
    opener.join()
    # one that is stopped would outlive its mount
    os.kill(upload_pid, signal.SIGCONT)
    # which one, is a matter of who came first
    assert (older.read_bytes(), log.read_bytes()) in ((b"", b"new"), (b"old", b""))


@pytest.mark.parametrize("transport", ["passthrough", "mediated"])
@pytest.mark.parametrize("replaces", [False, True])
def test_what_is_written_to_an_open_file_is_read_by_a_name_that_is_looked_up_when_its_own_has_gone(
    mount: Mounts, transport: str, replaces: bool
) -> None:
    mounted = mount(transport=transport)
    (mounted.root / "known").write_bytes(b"first")
    os.link(mounted.root / "known", mounted.root / "other")
    touch(mounted.root)
    assert mounted.unmount() == 0
    mounted = mount(transport=transport)
    known, other = mounted.root / "known", mounted.root / "other"
    (mounted.root / "new").write_bytes(b"new")
    writes = os.open(known, os.O_RDWR)
    if replaces:
        (mounted.root / "new").rename(known)
    else:
        known.unlink()
    reads = os.open(other, os.O_RDONLY)
    try:
        # what the kernel remembers of one must be what it remembers of the other
        assert os.pread(reads, 10, 0) == b"first"
        os.pwrite(writes, b"later", 0)
        assert os.pread(reads, 10, 0) == b"later"
        assert os.fstat(reads) == os.fstat(writes)
    finally:
        os.close(reads)
        os.close(writes)
