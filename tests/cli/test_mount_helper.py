"""mount(8), umount(8) and /etc/fstab, with the helpers where they look for them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptfs.cli import mount_helper
from tests.cli.scene import Run, ckptfs

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has mounts and /sbin of its own"),
]

Shell = Callable[[str], Run]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a script in mounts and processes of its own, where the helpers are installed; all ends with it."""
    done = subprocess.run(
        # the packages are there already
        ["make", "install-mount-helper", "--old-file=.venv/.demo", f"DESTDIR={tmp_path}", f"BIN={sys.prefix}/bin"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("mnt", "other"):
        (tmp_path / name).mkdir()

    def run(script: str) -> Run:
        unshare = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        prepare = (
            f"mount -t overlay -o lowerdir={tmp_path}/sbin:/usr/sbin none /usr/sbin; mount -t tmpfs none /run/mount"
        )
        whole = f"set -e; mkdir -p /run/mount; {prepare}; cd {tmp_path}; set +e; {script}"
        environment = {"PATH": "/usr/bin:/usr/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}
        done = subprocess.run(
            [*unshare, "bash", "-c", whole], env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run


def test_the_helpers_of_a_directory_with_a_space_in_its_name_are_linked_for_all_users(tmp_path: Path) -> None:
    tree, sbin = tmp_path / "a tree", tmp_path / "a root" / "sbin"
    tree.mkdir()
    shutil.copy(Path(__file__).parents[2] / "Makefile", tree)
    make = ["make", "install-mount-helper", "--old-file=.venv/.demo", f"DESTDIR={sbin.parent}"]
    subprocess.run(make, cwd=tree, umask=0o077, check=True, timeout=60)
    helpers = {"mount.ckptfs", "mount.fuse.ckptfs", "umount.ckptfs", "umount.fuse.ckptfs"}
    assert {path.name for path in sbin.iterdir()} == helpers
    for name in helpers:
        assert os.readlink(sbin / name) == f"{tree}/.venv/bin/{name.replace('fuse.', '')}"
    assert sbin.stat().st_mode & 0o777 == 0o755


def test_mount_8_mounts_with_the_options_and_umount_8_waits_until_all_is_durable(shell: Shell, tmp_path: Path) -> None:
    run = shell(f"""
        mount -t ckptfs file://{tmp_path}/store mnt -o rw,_netdev,cache-dir={tmp_path}/c,upload_limit=1M,noexec || exit
        findmnt --noheadings --output FSTYPE,OPTIONS mnt
        head -c 1500000 /dev/urandom >mnt/weights
        touch mnt/.save && grep -o '"state": "[a-z]*"' mnt/.save
        umount mnt
    """)
    assert run.code == 0, run
    table, state, end = run.out.splitlines()
    assert table.startswith("fuse.ckptfs rw,nosuid,nodev,noexec,")
    assert state in ('"state": "captured"', '"state": "uploading"')
    assert end == f"unmounted {tmp_path}/mnt"
    assert [version["version"] for version in ckptfs("log", f"file://{tmp_path}/store", "--json").json] == [1]
    assert list((tmp_path / "c").glob("*/pending/*")) == []


def test_lines_of_fstab_are_mounted_by_mount_a_each_once_and_with_their_options(shell: Shell, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    (tmp_path / "variables").write_text(f'# of the mount\nCKPTFS_CACHE_DIR="{tmp_path}/cache"\n')
    (tmp_path / "fstab").write_text(
        f"{store} {tmp_path}/mnt ckptfs "
        f"_netdev,x-systemd.automount,nofail,defaults,rw,allow_other,save-on-exit,env-file={tmp_path}/variables 0 0\n"
        f"{store} {tmp_path}/other ckptfs noauto,ro,cache_dir={tmp_path}/cache2 0 0\n"
    )
    (tmp_path / "bad").write_text(
        f"file:///proc/nowhere {tmp_path}/other ckptfs nofail,cache_dir={tmp_path}/cache 0 0\n"
    )
    run = shell(f"""
        mount -a -T fstab; echo "code $?"
        mount -a -T fstab; echo "code $?"
        findmnt --noheadings --output FSTYPE,OPTIONS mnt
        echo hello >mnt/greeting
        touch mnt/.save; sync mnt/.save
        mount -T fstab {tmp_path}/other
        cat other/greeting
        echo more >other/more
        echo changed >mnt/greeting
        umount mnt; umount other
        mount -a -T bad
    """)
    assert run.code == mount_helper.FAILED, run
    first, second, table, greeting, *_ = run.out.splitlines()
    assert (first, second, greeting) == ("code 0", "code 0", "hello")
    assert table.startswith("fuse.ckptfs rw,")
    assert "allow_other" in table
    assert "Read-only file system" in run.err
    assert "ckptfs: error: " in run.err
    assert "/proc/nowhere" in run.err
    assert (tmp_path / "cache").is_dir(), "named by the env-file"
    assert [version["version"] for version in ckptfs("log", store, "--json").json] == [2, 1], "saved on exit"


def test_umount_8_says_what_is_left_when_the_store_is_away(shell: Shell, tmp_path: Path) -> None:
    run = shell(f"""
        mount -t ckptfs file://{tmp_path}/store mnt -o _netdev,cache-dir={tmp_path}/cache,drain_timeout=1s || exit 99
        mv store away
        echo hello >mnt/greeting; touch mnt/.save
        umount mnt
    """)
    assert run.code == mount_helper.FAILED, run
    assert "1 version (6 B) is not durable" in run.err
    assert f"they stay in {tmp_path}/cache" in run.err


@pytest.mark.parametrize(
    ("options", "code", "fact"),
    [
        ("cach_dir=/tmp/x", 1, "unknown mount option 'cach_dir=/tmp/x'"),
        ("allow_other=1", 1, "the mount option 'allow_other=1' takes no value"),
        ("cache_dir", 1, "the mount option 'cache_dir' needs a value"),
        ("remount", 1, "a mount's options cannot be changed in place"),
        ("env-file=/nowhere", 1, "cannot read the env-file /nowhere: No such file or directory"),
        ("lease=soon", 1, "Invalid value for '--lease'"),
        ("cache_dir=/proc/nowhere", 32, "cannot use /proc/nowhere"),
    ],
)
def test_what_cannot_be_mounted_says_why(
    options: str, code: int, fact: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mnt").mkdir()
    assert mount_helper.mount([f"file://{tmp_path}/store", f"{tmp_path}/mnt", "-n", "-o", f"rw,{options}"]) == code
    assert fact in capfd.readouterr().err


def test_fake_mounts_nothing_and_sloppy_leaves_out_what_it_does_not_know(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["s3://models/llama", str(tmp_path), "-sfv", "-o", 'ro,odd,version=4,cache_dir="/a,b",x-a=b,noatime']
    assert mount_helper.mount(arguments) == 0
    command = f"ckptfs mount s3://models/llama {tmp_path} --read-only --version=4 --cache-dir=/a,b"
    assert capfd.readouterr().out == f"mount.ckptfs: {command}\n"
    assert mount_helper.mount(arguments[:1]) == 1


def test_a_lazy_umount_does_not_wait(shell: Shell, tmp_path: Path) -> None:
    run = shell(f"""
        mount -t ckptfs file://{tmp_path}/store mnt -o _netdev,cache-dir={tmp_path}/cache || exit 99
        cd mnt; umount mnt 2>/dev/null; umount ../mnt; echo "code $?"
        umount -l ../mnt; echo "code $?"
    """)
    assert run.out.splitlines() == ["code 32", "code 0"], run
    assert "is in use" in run.err
