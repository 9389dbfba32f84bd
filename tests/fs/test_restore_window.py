"""What reaches a file while a `.restore` gives its name another: never the wrong file, and never EIO.

The server is patched to stay for a while in the moment when the tree is the other version and nobody was told of it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.mounting import Mount, Mounts, touch, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(passthrough_obstacle() is not None, reason="through libfuse: names")]

# long enough for all calls of a test to have come, on a busy machine
_DELAY_S = 1.0

_PATCH = f"""
import pathlib, time
from ckptfs.fs.restorer import LiveRestorer

replace = LiveRestorer._replace
swapped = pathlib.Path(__file__).with_name("swapped")
def stay(flag):
    if swapped.with_name(flag).exists():
        swapped.touch()
        time.sleep({_DELAY_S})
def slow(*arguments):
    replace(*arguments)
    stay("slow")
LiveRestorer._replace = slow

adopted = LiveRestorer._adopted
def slow_adopted(*arguments):
    stay("early")
    adopted(*arguments)
LiveRestorer._adopted = slow_adopted

restore = LiveRestorer.restore
def held(*arguments):
    while swapped.with_name("held").exists():
        time.sleep(0.02)
    restore(*arguments)
LiveRestorer.restore = held

from ckptfs.transfer.materialize import TreeWriter
make_node = TreeWriter.make_node
def refused(self, entry):
    if entry.path.endswith(b"c") and pathlib.Path(__file__).with_name("full").exists():
        raise OSError(28, "No space left on device")
    return make_node(self, entry)
TreeWriter.make_node = refused
"""


class Window:
    """A mount whose restores can be slow at the moment in question."""

    def __init__(self, mount: Mounts, directory: Path, transport: str) -> None:
        self._site = directory / "site"
        self._site.mkdir()
        (self._site / "sitecustomize.py").write_text(_PATCH)
        self.mounted: Mount = mount(transport=transport, env={"PYTHONPATH": os.fspath(self._site)})
        self.root = self.mounted.root

    def flag(self, name: str, is_set: bool) -> None:
        """Have restores from now on stay in the window ("slow"), stay there before the journal knows of all ("early"),
        not begin ("held"), or find no room for one of the files ("full").
        """
        if is_set:
            (self._site / name).touch()
        else:
            (self._site / name).unlink(missing_ok=True)

    @contextmanager
    def restoring(self, spec: int, flag: str = "slow") -> Iterator[None]:
        """Run a block while the tree is another one and nodes have not followed; ends when the restore has."""
        self.flag(flag, True)
        thread = threading.Thread(target=self.mounted.restore, args=(spec,))
        thread.start()
        try:
            wait_until((self._site / "swapped").exists, 30, "the tree is another")
            yield
        finally:
            for each in ("held", flag):
                self.flag(each, False)
            thread.join()
            (self._site / "swapped").unlink(missing_ok=True)


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Make calls at the same time; return what each returned, or the OSError that it raised."""
    results: list[object] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except OSError as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(params=["passthrough", "mediated"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def window(mount: Mounts, tmp_path: Path, transport: str) -> Window:
    """A mount of two versions, in which all files of a directory differ."""
    window = Window(mount, tmp_path, transport)
    (window.root / "run").mkdir()
    for byte in (b"1", b"2"):
        for name in ("a", "b", "c", "d"):
            (window.root / "run" / name).write_bytes(byte * 5000)
            (window.root / "run" / name).chmod(0o640)
        touch(window.root)
        window.mounted.sync()
    return window


def have_gone_on(turns: list[int], beyond: list[int]) -> bool:
    """True if each has had more turns than that."""
    return all(now > least for now, least in zip(turns, beyond, strict=True))


def test_what_is_done_to_an_open_file_in_the_window_reaches_no_other_file(window: Window) -> None:
    directory = window.root / "run"
    fds = [os.open(directory / name, os.O_RDWR) for name in ("a", "b", "c", "d")]
    mtime_ns = 10**18
    try:
        with window.restoring(1):
            done = at_once(
                lambda: os.fchmod(fds[0], 0o600),
                lambda: os.utime(fds[0], ns=(mtime_ns, mtime_ns)),
                lambda: os.setxattr(fds[1], "user.new", b"of the old file"),
                # by the node alone, without a handle
                lambda: os.truncate(f"/proc/self/fd/{fds[2]}", 10),
                lambda: os.close(os.open(f"/proc/self/fd/{fds[3]}", os.O_WRONLY | os.O_TRUNC)),
            )
        assert done == [None] * 5
        for name in ("a", "b", "c", "d"):
            status = (directory / name).stat()
            assert (status.st_mode & 0o7777, status.st_size) == (0o640, 5000)
            assert status.st_mtime_ns != mtime_ns
            assert os.listxattr(directory / name) == []
            assert (directory / name).read_bytes() == b"1" * 5000
        assert os.fstat(fds[0]).st_mode & 0o7777 == 0o600
        assert os.fstat(fds[0]).st_mtime_ns == mtime_ns
        assert os.listxattr(fds[1]) == ["user.new"]
        assert [os.fstat(fd).st_size for fd in fds] == [5000, 5000, 10, 0]
    finally:
        for fd in fds:
            os.close(fd)


def test_a_server_that_takes_over_in_the_window_reaches_no_other_file_either(window: Window) -> None:
    directory = window.root / "run"
    fds = [os.open(directory / name, os.O_RDWR) for name in ("a", "b")]
    try:
        with window.restoring(1):
            window.flag("slow", False)
            killer = threading.Timer(0.5, window.mounted.kill_server)
            killer.start()
            done = at_once(
                lambda: os.fchmod(fds[0], 0o600),
                lambda: os.truncate(f"/proc/self/fd/{fds[1]}", 10),
                lambda: (directory / "c").chmod(0o600),
            )
            killer.join()
        assert done == [None] * 3
        assert (directory / "a").stat().st_mode & 0o7777 == 0o640
        assert os.fstat(fds[0]).st_mode & 0o7777 == 0o600
        assert os.fstat(fds[1]).st_size == 10
        assert [(directory / name).read_bytes() for name in ("a", "b", "c", "d")] == [b"1" * 5000] * 4
    finally:
        for fd in fds:
            os.close(fd)


def test_a_restore_that_fails_half_way_leaves_no_file_without_its_data(window: Window) -> None:
    directory = window.root / "run"
    window.flag("full", True)
    with pytest.raises(OSError, match="No space left"):
        window.mounted.restore(1)
    window.flag("full", False)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"a": b"1" * 5000, "b": b"1" * 5000}
    version = window.mounted.save()
    window.mounted.sync()
    saved = window.root / ".versions" / str(version) / "run"
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == {"a": b"1" * 5000, "b": b"1" * 5000}
    window.mounted.restore(1)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == dict.fromkeys("abcd", b"1" * 5000)


def test_a_server_that_takes_over_in_the_window_shows_no_file_without_its_data(window: Window) -> None:
    directory = window.root / "run"
    with window.restoring(1, "early"):
        window.flag("early", False)
        window.flag("held", True)
        window.mounted.kill_server()
        # before the restore has been done again
        shown = {path.name: path.read_bytes() for path in directory.iterdir()}
        version = window.mounted.save()
    assert shown == dict.fromkeys("abcd", b"1" * 5000)
    window.mounted.sync()
    saved = window.root / ".versions" / str(version) / "run"
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == shown
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == shown


def test_what_is_done_by_name_in_the_window_is_done_to_the_new_file_though_the_old_one_is_open(window: Window) -> None:
    directory = window.root / "run"
    fds = [os.open(directory / name, os.O_RDONLY) for name in ("a", "b", "c")]
    try:
        with window.restoring(1):
            done = at_once(
                lambda: (directory / "a").read_bytes(),
                lambda: (directory / "b").chmod(0o600),
                lambda: os.truncate(directory / "c", 100),
                lambda: (directory / "d").stat().st_size,
            )
        assert done[0] in (b"1" * 5000, b"2" * 5000)
        assert done[1:] == [None, None, 5000]
        # done before the restore, or after it; the old files are what programs have open
        assert [os.pread(fd, 1, 0) for fd in fds] == [b"2", b"2", b"2"]
        assert (directory / "b").stat().st_mode & 0o7777 in (0o600, 0o640)
        assert (directory / "a").read_bytes() == b"1" * 5000
        assert (directory / "c").read_bytes() in (b"1" * 100, b"1" * 5000)
    finally:
        for fd in fds:
            os.close(fd)


def test_programs_that_hammer_names_meet_no_error_while_restores_replace_them(mount: Mounts, transport: str) -> None:
    mounted = mount(transport=transport)
    directory = mounted.root / "run"
    directory.mkdir()
    names = [f"{number}.bin" for number in range(12)]
    for byte in (b"1", b"2"):
        for name in names:
            (directory / name).write_bytes(byte * 3000)
        (directory / f"only-{byte.decode()}").write_bytes(byte * 3000)
        (directory / "only-1").unlink() if byte == b"2" else None
        touch(mounted.root)
        mounted.sync()
    over = threading.Event()
    wrong: list[object] = []
    turns = [0, 0, 0, 0]

    def hammer(which: int) -> None:
        held: list[int] = []
        while not over.is_set():
            turns[which] = turn = turns[which] + 1
            path = directory / [*names, "only-1", "only-2"][turn % (len(names) + 2)]
            try:
                if which == 0:
                    path.chmod(0o600 + turn % 2 * 0o40)
                elif which == 1:
                    path.stat()
                else:
                    held.append(os.open(path, (os.O_RDONLY, os.O_RDWR, os.O_WRONLY)[turn % 3]))
                    if turn % 3 != 2:
                        content = os.pread(held[-1], 5000, 0)
                        if content not in (b"1" * 3000, b"2" * 3000):
                            wrong.append((path.name, len(content), set(content)))
            except FileNotFoundError as error:
                if not path.name.startswith("only"):
                    wrong.append(error)
            except OSError as error:
                wrong.append(error)
            if len(held) > 20:
                os.close(held.pop(0))
        for fd in held:
            os.close(fd)

    threads = [threading.Thread(target=hammer, args=(which,)) for which in range(len(turns))]
    for thread in threads:
        thread.start()
    for turn in range(12):
        mounted.restore(turn % 2 + 1)
        # the kernel looks up once what it finds stale: a call that two restores overtake gets ESTALE
        wait_until(partial(have_gone_on, turns, [turn + 2 for turn in turns]), 30, "all have gone on")
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    mounted.restore(1)
    assert {(directory / name).read_bytes() for name in names} == {b"1" * 3000}
