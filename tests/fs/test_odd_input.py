"""What a stranger tries: odd notes, odd names, and tags that have just been given."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.scene import ckptfs
from tests.mounting import Mounts

pytestmark = pytest.mark.fuse


def odd(name: bytes) -> str:
    """Return a name that is no UTF-8, as Python has it."""
    return os.fsdecode(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts in a mount namespace of its own")
def test_names_need_not_be_utf_8_not_even_those_of_mount_point_store_and_cache(tmp_path: Path, transport: str) -> None:
    store = f"file://{tmp_path}/{odd(b'st, re' + bytes([0xFE]))}"
    mountpoint = tmp_path / odd(b"m, \xff")
    mountpoint.mkdir()
    script = """
        set -e
        # not to hold the mounts of tests beside this one
        grep fuse.ckptfs /proc/self/mountinfo | cut -d" " -f5 | xargs -r umount -l || true
        ckptfs() { "$PYTHON" -m ckptfs "$@"; }
        ckptfs mount "$1" "$2" --cache-dir "$3" --transport "$4"
        echo content >"$2/$5"
        ln -s "$5" "$2/link"
        ckptfs save "$2" --wait -m "$5" >&2
        cat "$2/.versions/latest/$5" "$2/.status"
        ckptfs status "$2" >&2
        ckptfs umount "$2" >&2
    """
    # whoever else reads the table of mounts now is not to stumble over it
    words = [store, mountpoint, tmp_path / odd(b"c\xfd"), transport, odd(b"f\xfb")]
    command = ["unshare", "-m", "sh", "-c", script, "sh", *map(str, words)]
    env = os.environ | {"PYTHON": sys.executable}
    run = subprocess.run(command, env=env, capture_output=True, timeout=90, check=False)
    assert run.returncode == 0, run.stderr
    content, status = run.stdout.splitlines()
    assert content == b"content"
    assert json.loads(status)["mountpoint"] == str(mountpoint)
    assert json.loads(status)["newest"]["note"] == "f\\xfb"
    shown = ckptfs("show", store, "1", odd(b"f\xfb"), "--json").json
    assert [entry["path"] for entry in shown["entries"]] == [odd(b"f\xfb")]
    assert [version["note"] for version in ckptfs("log", store, "--json").json] == ["f\\xfb"]
    assert ckptfs("restore", store, tmp_path / odd(b"out\xf7")).code == 0
    assert os.readlink(tmp_path / odd(b"out\xf7") / "link") == odd(b"f\xfb")


def test_a_time_that_no_version_can_hold_becomes_the_nearest_and_keeps_no_save_from_being_made(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "file").touch()
    year_2400_ns = 13_569_465_600 * 10**9
    os.utime(mounted.root / "file", ns=(0, year_2400_ns))
    latest_ns = (1 << 63) - 1
    assert (mounted.root / "file").stat().st_mtime_ns == latest_ns
    mounted.save()
    mounted.sync()
    mounted.unmount()
    again = mount(cache="another")
    assert (again.root / "file").stat().st_mtime_ns == latest_ns


def test_a_note_of_any_bytes_is_kept_and_read_back(mount: Mounts) -> None:
    mounted = mount()
    deep = b'{"a":' * 3000 + b"1" + b"}" * 3000
    notes = {
        b'{"step": 100, "loss": 0.12}': {"step": 100, "loss": 0.12},
        b"step=100 loss=0.1 best=true name=x\n": {"step": 100, "loss": 0.1, "best": True, "name": "x"},
        b'{"half": "\\ud800"}': '{"half": "\\ud800"}',
        b'{"inf": Infinity, "nan": NaN}': {"inf": "Infinity", "nan": "NaN"},
        b"\xff\xfe": "\\xff\\xfe",
        b"nul\0in it": "nul\0in it",
        b"[1, 2]": "[1, 2]",
        b"{broken": "{broken",
        b"a=1 and more": "a=1 and more",
        deep: deep.decode(),
        b"  \n": None,
    }
    for text, note in notes.items():
        fd = os.open(mounted.root / ".save", os.O_WRONLY)
        os.write(fd, text)
        os.close(fd)
        assert mounted.marker()["note"] == note
        assert mounted.status()["newest"]["note"] == note
    mounted.sync()
    logged = ckptfs("log", mounted.root, "--json").json
    assert [version["note"] for version in reversed(logged)] == list(notes.values())
    assert ckptfs("log", mounted.root).code == 0


def test_a_tag_is_there_as_soon_as_it_was_given(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"first")
    mounted.save()
    mounted.sync()
    (mounted.root / "model.bin").write_bytes(b"second")
    mounted.save()
    mounted.sync()
    tags = mounted.root / ".versions"
    for name in ("best", "best2"):
        assert not (tags / name).exists()
        assert ckptfs("tag", mounted.root, "1", name).code == 0
        assert os.readlink(tags / name) == "1"
        assert (tags / name / "model.bin").read_bytes() == b"first"
        assert name in os.listdir(tags)
        # given a moment ago, and not in 1970
        assert 0 <= time.time() - os.lstat(tags / name).st_mtime < 60
    mounted.restore("best")
    assert (mounted.root / "model.bin").read_bytes() == b"first"
    for text, number in (("nobody", errno.ENOENT), ("99", errno.ENOENT), ("é", errno.EINVAL), ("1 2", errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            mounted.restore(text)
        assert caught.value.errno == number, text
    # what a watched directory shows there comes with it when that is copied into a mount
    mounted.restore("2 ")
    # `: > .restore` says nothing
    mounted.restore("")
    assert (mounted.root / "model.bin").read_bytes() == b"first"
    assert json.loads((mounted.root / ".restore").read_bytes()) == 2


def test_versions_of_a_store_that_is_not_there_now_cannot_be_read_and_are_not_missing(mount: Mounts) -> None:
    writer = mount(name="writer")
    (writer.root / "file").write_text("content")
    writer.save()
    writer.sync()
    assert writer.unmount() == 0
    mounted = mount(cache="other")
    store = Path(mount.file_store.removeprefix("file://"))
    # as when the filesystem that holds it is not mounted
    store.rename(store.with_name("elsewhere"))
    for look in (
        lambda: os.listdir(mounted.root / ".versions"),
        lambda: os.readlink(mounted.root / ".versions" / "latest"),
        lambda: os.listdir(mounted.root / ".versions" / "1"),
        lambda: (mounted.root / "file").read_bytes(),
        lambda: mounted.restore(1),
    ):
        with pytest.raises(OSError) as raised:
            look()
        assert raised.value.errno == errno.EIO
    store.with_name("elsewhere").rename(store)
    assert sorted(os.listdir(mounted.root / ".versions")) == ["1", "latest"]
    mounted.restore(1)
    assert (mounted.root / "file").read_text() == "content"
