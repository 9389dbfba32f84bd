"""Access control lists are those of the local filesystem, under passthrough: they decide, are handed down, and are part
of a version.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.fs.access_list_cases import ACCESS, DEFAULT, TABLES, list_of, lists_of
from tests.fs.local_filesystems import mounted_at
from tests.fs.system_calls import OTHER, acting_as, call, differences, in_child, run_in_child
from tests.mounting import Mount, Mounts

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(passthrough_obstacle()), reason=passthrough_obstacle() or ""),
    pytest.mark.parametrize("transport", ["passthrough"], indirect=True, scope="module"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

_LETS_OTHER_READ = list_of(6, 0, 0, user=4)


@pytest.mark.parametrize("name", TABLES)
def test_they_are_as_on_the_local_filesystem(name: str, place: Path, tmp_path: Path) -> None:
    def tick() -> None:
        time.sleep(0.05)  # of the clock that stamps files: listing what was just made is to be seen, or not, on both

    cases = list(TABLES[name]())
    expected = run_in_child(cases, tmp_path, before=tick)
    assert not differences(expected, run_in_child(cases, place, before=tick))


def _as_other(path: Path) -> Any:
    def read() -> Any:
        with acting_as(OTHER):
            return call(path.read_bytes)

    return in_child(read)


def test_they_are_part_of_a_version_and_decide_there_after_restoring_and_on_the_next_mount(mount: Mounts) -> None:
    m = mount(allow_other=True)
    path, directory = m.root / "f", m.root / "d"
    path.write_bytes(b"data")
    path.chmod(0o600)
    directory.mkdir()
    assert _as_other(path) == "EACCES"
    os.setxattr(path, ACCESS, _LETS_OTHER_READ)
    os.setxattr(directory, DEFAULT, _LETS_OTHER_READ)
    assert _as_other(path) == b"data"
    version = m.save()
    m.sync()
    before = lists_of(str(path)), lists_of(str(directory))
    os.removexattr(path, ACCESS)
    os.removexattr(directory, DEFAULT)
    path.chmod(0o600)
    assert _as_other(path) == "EACCES"
    m.save()
    m.sync()
    assert _as_other(m.root / ".versions" / str(version) / "f") == b"data"
    (m.root / ".restore").write_text(str(version))
    assert _as_other(path) == b"data"
    assert (lists_of(str(path)), lists_of(str(directory))) == before
    m.save()
    m.unmount()
    m = mount(allow_other=True, cache="another")
    assert _as_other(path) == b"data"
    assert (lists_of(str(path)), lists_of(str(directory))) == before
    (directory / "new").write_bytes(b"new")
    assert _as_other(directory / "new") == b"new"


def test_where_the_local_filesystem_has_none_the_mode_decides(mount: Mounts, tmp_path: Path) -> None:
    (tmp_path / "ram").mkdir()
    with mounted_at(tmp_path / "ram", "-t", "ramfs", "ramfs"):
        m = mount(allow_other=True, cache=str(tmp_path / "ram" / "cache"))
        path = m.root / "f"
        path.write_bytes(b"data")
        path.chmod(0o664)
        assert _as_other(path) == b"data"
        assert call(os.setxattr, path, ACCESS, _LETS_OTHER_READ) == "ENOTSUP"
        path.chmod(0o660)
        assert _as_other(path) == "EACCES"
        m.unmount()


def test_attributes_that_only_root_may_read_are_listed_for_nobody_else(shared: Mount, place: Path) -> None:
    path = place / "f"
    path.touch()
    os.setxattr(path, "trusted.a", b"1")
    os.setxattr(path, "user.b", b"2")
    assert sorted(os.listxattr(path)) == ["trusted.a", "user.b"]

    def listed() -> Any:
        with acting_as(OTHER):
            return os.listxattr(path)

    assert in_child(listed) == ["user.b"]
