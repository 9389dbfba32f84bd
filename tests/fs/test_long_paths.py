"""Paths from the mount's root may be longer than a system call takes: programs get there in steps."""

import os
from pathlib import Path

import pytest

from tests.mounting import Mounts

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(100)]

_NAME = "n" * 127
_LEVELS = 35  # of 128 bytes each: PATH_MAX is 4096


def _go_down(root: Path) -> None:
    os.chdir(root)
    for _ in range(_LEVELS):
        os.chdir(_NAME)


def _text() -> str:
    with open("f") as file:
        return file.read()


def _found() -> list[object]:
    return [sorted(os.listdir(".")), _text(), os.readlink("l"), os.getxattr("f", "user.a"), os.stat("g").st_nlink]


def test_what_is_deeper_than_the_longest_path_is_saved_and_comes_back(
    mount: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = mount()
    monkeypatch.chdir(m.root)  # back to where it was in the end
    for _ in range(_LEVELS):
        os.mkdir(_NAME)
        os.chdir(_NAME)
    with open("f", "w") as file:
        file.write("one")
    os.link("f", "g")
    os.symlink("f", "l")
    os.setxattr("f", "user.a", b"1")
    os.mkdir("empty")
    first = m.save()
    os.truncate("f", 2)
    before = _found()
    m.save()
    os.chdir("/")
    m.unmount()
    for cache in ("cache", "another cache"):
        m = mount(cache=cache)
        _go_down(m.root)
        assert _found() == before
        _go_down(m.root / ".versions" / str(first))
        assert _text() == "one"
        os.chdir("/")
        m.restore(first)
        _go_down(m.root)
        assert _text() == "one"
        os.chdir("/")
        m.unmount()
