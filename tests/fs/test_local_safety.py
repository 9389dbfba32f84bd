"""Other users of the machine: what they get to see of a mount, through every transport."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptfs.cli.mounts import ClosedMountError, read_control
from ckptfs.errors import MountError
from ckptfs.fs.mountpoint import unmount
from tests.fs.system_calls import OWNER, User, call, in_child
from tests.mounting import Mounts, touch

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users"),
]

STRANGER = User(65532, (65532,))


def as_user(user: User, *actions: Callable[[], Any]) -> list[Any]:
    """Return what actions return, or their errno's name, done by a process that belongs to a user for good."""

    def act() -> list[Any]:
        os.setgroups(user.groups)
        os.setgid(user.groups[0])
        os.setuid(user.uid)
        return [call(action) for action in actions]

    return list(in_child(act))


def said_of(root: Path) -> str:
    """Return what a command says that asks a mount."""
    try:
        return str(read_control(root, ".status"))
    except ClosedMountError as error:
        return error.fact


def write(path: Path, content: bytes) -> None:
    """Write in place: a file that is not there is not made."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def looks(root: Path) -> list[Callable[[], Any]]:
    """Return all ways to look into a mount."""
    return [
        lambda: os.listdir(root),
        lambda: (root / "public.bin").read_bytes(),
        lambda: os.stat(root / "public.bin"),
        lambda: (root / ".status").read_bytes(),
        lambda: (root / ".save").read_bytes(),
        lambda: os.listdir(root / ".versions" / "latest"),
        lambda: touch(root),
        lambda: write(root / ".restore", b"1"),
    ]


def populate(root: Path) -> None:
    """Make files of several owners, and a version of them."""
    for name, mode, uid, gid in (
        ("public.bin", 0o644, 0, 0),
        ("secret.bin", 0o600, 0, 0),
        ("group.bin", 0o640, 0, OWNER.groups[0]),
        ("theirs.bin", 0o600, OWNER.uid, OWNER.groups[0]),
    ):
        (root / name).write_bytes(name.encode())
        os.chown(root / name, uid, gid)
        (root / name).chmod(mode)
    for name in ("home", "hidden"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"in it")
        os.chown(root / name, OWNER.uid, OWNER.groups[0])
    (root / "home").chmod(0o755)
    (root / "hidden").chmod(0o700)


def test_nobody_else_enters_a_mount_that_was_not_opened_to_others(mount: Mounts) -> None:
    mounted = mount()
    populate(mounted.root)
    mounted.root.chmod(0o777)
    assert mounted.save() == 1
    cache = mounted.cache
    inside: list[Callable[[], Any]] = [
        lambda: os.listdir(cache),
        lambda: (cache / "live" / "public.bin").read_bytes(),
        lambda: (cache / "session.json").read_bytes(),
        lambda: (cache / "mount.log").read_bytes(),
    ]
    for user in (STRANGER, OWNER):
        assert set(as_user(user, *looks(mounted.root), *inside)) == {"EACCES"}
    assert as_user(STRANGER, lambda: said_of(mounted.root)) == [f"the mount at {mounted.root} is another user's"]
    assert mounted.save() == 2
    mounted.sync()
    mounted.unmount()
    reader = mount(read_only=True)
    assert set(as_user(STRANGER, *looks(reader.root))) == {"EACCES"}


def test_a_user_is_told_that_a_mount_is_somebody_elses_to_unmount(mount: Mounts) -> None:
    mounted = mount(allow_other=True)

    def fails() -> tuple[str, str | None]:
        with pytest.raises(MountError) as caught:
            unmount(mounted.root)
        return caught.value.fact, caught.value.hint

    (said,) = as_user(STRANGER, fails)
    assert tuple(said) == (f"{mounted.root} was mounted by another user", "unmount it as that user, or as root")
    assert os.path.ismount(mounted.root)


def test_others_are_let_in_as_owners_and_modes_allow(mount: Mounts) -> None:
    mounted = mount(allow_other=True)
    populate(mounted.root)
    assert mounted.save() == 1
    mounted.sync()

    def reads(root: Path) -> list[Callable[[], Any]]:
        names = ("public.bin", "secret.bin", "group.bin", "theirs.bin", "home/file", "hidden/file")
        return [lambda name=name: len((root / name).read_bytes()) for name in names]

    expected = {
        STRANGER: [10, "EACCES", "EACCES", "EACCES", 5, "EACCES"],
        OWNER: [10, "EACCES", 9, 10, 5, 5],
        User(STRANGER.uid, (STRANGER.uid, OWNER.groups[0])): [10, "EACCES", 9, "EACCES", 5, "EACCES"],
    }
    for user, seen in expected.items():
        assert as_user(user, *reads(mounted.root)) == seen
        assert as_user(user, *reads(mounted.root / ".versions" / "1")) == seen, "in an old version"
    # who may make files in a directory may save and restore there, and who may list it may read what was saved
    root, home, hidden = mounted.root, mounted.root / "home", mounted.root / "hidden"
    tries: list[Callable[[], Any]] = [
        lambda: touch(root),
        lambda: touch(home),
        lambda: touch(hidden),
        lambda: write(root / ".restore", b"1"),
        lambda: bool((root / ".status").read_bytes()),
        lambda: write(root / ".status", b"1"),
        lambda: (root / "made.bin").write_bytes(b""),
        lambda: (root / "public.bin").unlink(),
        lambda: (root / "public.bin").chmod(0o666),
        lambda: write(root / ".versions" / "1" / "public.bin", b"x"),
    ]
    no = "EACCES"
    assert as_user(STRANGER, *tries) == [no, no, no, no, True, no, no, no, "EPERM", no]
    assert mounted.marker()["version"] == 1
    assert as_user(OWNER, *tries) == [no, None, None, no, True, no, no, no, "EPERM", no]
    assert mounted.marker()["version"] == 3
    mounted.root.chmod(0o711)
    listing, public, _, status, marker = as_user(STRANGER, *looks(root)[:5])
    assert (listing, public, status, marker) == (no, b"public.bin", no, no)
    mounted.root.chmod(0o755)
    mounted.sync()
    mounted.unmount()
    reader = mount(read_only=True, allow_other=True)
    for user, seen in expected.items():
        assert as_user(user, *reads(reader.root)) == seen
    assert as_user(OWNER, lambda: touch(reader.root / "home")) == ["EROFS"]
