"""Mounts are found in the kernel's table, and a mount that hangs hangs nobody."""

import os
import time
from pathlib import Path

import pytest

from ckptfs import mount_table
from ckptfs.cli import mounts
from ckptfs.cli.mounts import read_control, require_mount
from ckptfs.errors import InvalidInputError, MountError
from ckptfs.mount_table import mount_at, real_mountpoint

TABLE = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 22 0:50 / /ckpt rw,nosuid shared:1 - fuse.ckptfs file:///data/a\\040b rw,user_id=0
41 22 0:51 / /other rw - fuse.sshfs host: rw
42 40 0:52 / /ckpt/inner rw - fuse.ckptfs s3://b/inner rw
43 22 0:53 / /with\\040space rw - fuse.ckptfs s3://b/space rw
44 22 0:54 / /ckpt rw - fuse.ckptfs s3://b/above rw
"""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(TABLE)
    monkeypatch.setattr(mount_table, "_TABLE", tmp_path / "mountinfo")


def test_only_mounts_of_ckptfs_are_listed_with_blanks_in_their_names() -> None:
    assert [(str(mount.mountpoint), mount.store) for mount in mount_table.mounts()] == [
        ("/ckpt", "file:///data/a b"),
        ("/ckpt/inner", "s3://b/inner"),
        ("/with space", "s3://b/space"),
        ("/ckpt", "s3://b/above"),
    ]


@pytest.mark.parametrize(
    ("path", "store"),
    [
        ("/ckpt", "s3://b/above"),
        ("/ckpt/run/x", "s3://b/above"),
        ("/ckpt/inner/../inner/deep", "s3://b/inner"),
        ("/with space", "s3://b/space"),
    ],
)
def test_a_path_is_in_the_innermost_and_uppermost_mount(path: str, store: str) -> None:
    assert require_mount(Path(path)).store == store


@pytest.mark.parametrize("path", ["/", "/ckptx", "/other", "/other/x"])
def test_a_path_outside_is_in_none(path: str) -> None:
    assert mount_at(Path(path)) is None
    with pytest.raises(InvalidInputError, match="is not in a ckptfs mount"):
        require_mount(Path(path))


def test_a_mount_point_is_named_as_the_kernel_will_name_it(tmp_path: Path) -> None:
    place = tmp_path / "real" / "ckpt"
    place.mkdir(parents=True)
    (tmp_path / "above").symlink_to("real")
    (tmp_path / "itself").symlink_to("above/ckpt")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("real/ckpt", "above/ckpt", "itself", "above/../real/ckpt"):
        assert real_mountpoint(tmp_path / name) == place, name
    assert real_mountpoint(tmp_path / "above" / "none") == tmp_path / "real" / "none"
    assert real_mountpoint(tmp_path / "loop") == tmp_path / "loop"


def test_a_relative_path_and_a_symlink_lead_to_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(f"40 22 0:50 / {tmp_path}/real rw - fuse.ckptfs s3://b/x rw\n")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert require_mount(Path("real/sub")).store == "s3://b/x"
    assert require_mount(Path("link")).store == "s3://b/x"


def test_a_control_file_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_ANSWER_TIMEOUT_S", 0.2)
    os.mkfifo(tmp_path / ".status")
    started = time.monotonic()
    with pytest.raises(MountError, match="did not answer within") as caught:
        read_control(tmp_path, ".status")
    assert time.monotonic() - started < 5
    assert f"fusermount3 -uz {tmp_path}" in str(caught.value.hint)


def test_a_control_file_that_cannot_be_read_or_is_no_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="No such file or directory"):
        read_control(tmp_path, ".status")
    (tmp_path / ".status").write_text("not json")
    with pytest.raises(MountError, match="is not JSON"):
        read_control(tmp_path, ".status")


def test_a_control_file_gives_its_object(tmp_path: Path) -> None:
    (tmp_path / ".status").write_text('{"version": 3}\n')
    assert read_control(tmp_path, ".status") == {"version": 3}
