"""Local disk stays under --cache-size: what can be fetched again goes, and nothing else; on real mounts."""

import mmap
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import Mount, Mounts, touch, wait_until

pytestmark = pytest.mark.fuse

SIZE = 2 << 20
NAMES = [f"file-{number}" for number in range(6)]
CONTENTS = {name: os.urandom(SIZE) for name in NAMES}
ROOM = 3 * SIZE + (SIZE >> 1)
"""For three of them, and what else there is."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with one version."""
    mounts = Mounts(tmp_path_factory.mktemp("made"), 60.0)
    try:
        mounted = mounts()
        for name, content in CONTENTS.items():
            (mounted.root / name).write_bytes(content)
        touch(mounted.root)
        mounted.sync()
        assert mounted.unmount() == 0
        yield mounts.directory / "store"
    finally:
        mounts.close()


@pytest.fixture
def small(made: Path, mount: Mounts) -> Callable[..., Mount]:
    """Mounts it with room for half of it."""
    shutil.copytree(made, mount.directory / "store", copy_function=os.link)

    def start(**options: Any) -> Mount:
        return mount(cache_size_bytes=ROOM, **options)

    return start


def here(mounted: Mount, directory: str = "live") -> set[str]:
    """The files that have data on local disk."""
    return {path.name for path in (mounted.cache / directory).iterdir() if path.stat().st_blocks}


def evicted(mounted: Mount, *unsaved: str) -> bool:
    """True if no more is kept than there is room for, besides what is not saved."""
    places = [mounted.cache / name for name in ("live", "contents", "objects", "anchors")]
    used = 0
    for path in (path for place in places for path in place.rglob("*") if path.name not in unsaved):
        try:
            look = path.lstat()
        except FileNotFoundError:
            continue  # it has gone since it was listed, as files do here
        used += look.st_blocks * 512 * stat.S_ISREG(look.st_mode)
    return used <= ROOM


def test_the_longest_unused_goes_and_comes_back_as_it_was(small: Callable[..., Mount]) -> None:
    mounted = small()
    root = mounted.root
    looks = {name: (root / name).stat() for name in NAMES}
    over, seen = threading.Event(), set()

    def watch() -> None:
        while not over.is_set():
            seen.update((name, (root / name).stat().st_mtime_ns) for name in NAMES)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for names in (NAMES, [NAMES[0], NAMES[5]]):
            for name in names:
                assert (root / name).read_bytes() == CONTENTS[name]
            wait_until(lambda: evicted(mounted), 10, "there is no more than may be")
    finally:
        over.set()
        watching.join(10)
    assert seen == {(name, look.st_mtime_ns) for name, look in looks.items()}
    assert {NAMES[0], NAMES[5]} <= here(mounted)
    # of an older version as well
    for name in NAMES[:4]:
        assert (root / ".versions" / "1" / name).read_bytes() == CONTENTS[name]
    wait_until(lambda: evicted(mounted), 10, "there is no more than may be")
    for name in NAMES:
        look = (root / name).stat()
        for field in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_ino", "st_blocks"):
            assert getattr(look, field) == getattr(looks[name], field), f"{field} of {name}"
    assert mounted.save() == 2
    mounted.sync()
    assert mounted.marker()["bytes_uploaded"] < 10_000
    for name in NAMES:
        assert (root / ".versions" / "2" / name).read_bytes() == CONTENTS[name]


def test_what_is_changed_open_mapped_or_pending_stays(small: Callable[..., Mount]) -> None:
    mounted = small()
    root = mounted.root
    changed, opened, mapped = NAMES[:3]
    with (root / changed).open("r+b") as file:
        file.write(b"changed")
    with (root / mapped).open("rb") as file:
        file.read()
    with (root / mapped).open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with (root / opened).open("rb") as reader:
        assert reader.read(10) == CONTENTS[opened][:10]
        assert mapping[:10] == CONTENTS[mapped][:10]
        for _ in range(2):
            for name in NAMES[3:]:
                assert (root / name).read_bytes() == CONTENTS[name]
            wait_until(lambda: evicted(mounted, changed), 10, "the others go")
        assert {changed, opened, mapped} <= here(mounted)
        assert mapping[:] == CONTENTS[mapped]
        assert reader.read() == CONTENTS[opened][10:]
    mapping.close()
    upload_pid = mounted.upload_pid()
    assert upload_pid is not None
    os.kill(upload_pid, signal.SIGSTOP)
    touch(root)
    (root / "new").write_bytes(b"new" * SIZE)
    for name in NAMES[3:] * 2:
        assert (root / name).read_bytes() == CONTENTS[name]
    wait_until(lambda: evicted(mounted, changed, "new"), 10, "the others go")
    assert {changed, "new"} <= here(mounted)
    os.kill(upload_pid, signal.SIGCONT)
    mounted.sync()
    for name in NAMES[3:]:
        assert (root / name).read_bytes() == CONTENTS[name]
    wait_until(lambda: evicted(mounted, "new"), 10, "the pending one goes, too, when it is stored")
    assert (root / changed).read_bytes() == b"changed" + CONTENTS[changed][7:]
    assert (root / "new").read_bytes() == b"new" * SIZE


def test_killed_while_files_go_all_are_there_afterwards(small: Callable[..., Mount]) -> None:
    mounted = small()
    for _ in range(2):
        for name in NAMES[:5]:
            assert (mounted.root / name).read_bytes() == CONTENTS[name]
        mounted.kill()
        mounted = small()
    for name in NAMES:
        assert (mounted.root / name).read_bytes() == CONTENTS[name]
        if mounted.status()["transport"] == "passthrough":
            mounted.kill_server()
    assert not list((mounted.cache / "unsaved").iterdir())
    assert mounted.status()["changed_paths"] == 0


@pytest.mark.parametrize("read_only", [False, True])
def test_fetching_ahead_fills_the_room_that_there_is_and_begins_with_what_was_read_first_the_last_time(
    small: Callable[..., Mount], read_only: bool
) -> None:
    directory = "contents" if read_only else "live"
    mounted = small(read_only=read_only)
    for name in (NAMES[4], NAMES[2]):
        assert (mounted.root / name).read_bytes() == CONTENTS[name]
    assert mounted.unmount() == 0
    order = (mounted.cache / "read-order").read_bytes()
    assert order == f"{NAMES[4]}\0{NAMES[2]}\0".encode()
    cache = mounted.cache
    shutil.rmtree(cache.parent)
    cache.mkdir(parents=True)
    (cache / "read-order").write_bytes(order)
    again = small(read_only=read_only, prefetch=True)
    wait_until(lambda: len(here(again, directory)) == 3, 20, "three are here")
    wait_until(lambda: "prefetch stopped" in again.log, 10, "it has stopped")
    assert evicted(again)
    assert "evicted" not in again.log
    if not read_only:
        assert here(again) == {NAMES[4], NAMES[2], NAMES[0]}
        assert again.status()["not_fetched_files"] == 3
