"""What a mount keeps to itself: its files, its credentials, and what runs in its name."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from demo.seaweedfs import SeaweedFS
from tests.mounting import MountFailedError, Mounts

pytestmark = [pytest.mark.fuse]

PROGRAM = Path(sys.executable).with_name("ckptfs")
REFUSED = {
    "AWS_ACCESS_KEY_ID": "AKIAWHOEVERREADSTHIS",
    "AWS_SECRET_ACCESS_KEY": "hidden/as/it/should/be",
    "AWS_SESSION_TOKEN": "a-token-of-this-session",
}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_ours_is_private_whatever_the_umask(mount: Mounts, umask: int) -> None:
    before = os.umask(umask)
    try:
        mounted = mount()
    finally:
        os.umask(before)
    (mounted.root / "public.bin").write_bytes(bytes(100))
    assert stat.S_IMODE(os.stat(mounted.root / "public.bin").st_mode) == 0o644
    mounted.save("a note")
    mounted.sync()
    pid = mounted.upload_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        (mounted.root / "more.bin").write_bytes(bytes(100))
        assert (mounted.root / ".versions" / "1" / "public.bin").read_bytes() == bytes(100)
        mounted.save()
        store = mount.directory / "store"
        ours = [path for top in (mounted.cache, store) for path in (top, *top.rglob("*"))]
        # what has the modes of the files in the mount, two directories down
        live = mounted.cache / "live"
        open_to_others = [
            path
            for path in ours
            if path.lstat().st_mode & 0o077 and live not in (path, *path.parents) and path.parent.name != "data"
        ]
        assert open_to_others == []
        assert {"journal", "session.json", "mount.log", "version.json", "manifest", "format.json"} <= {
            path.name for path in ours
        }
    finally:
        os.kill(pid, signal.SIGCONT)
    mounted.sync()


def test_a_cache_directory_that_others_could_exchange_is_refused(mount: Mounts, tmp_path: Path) -> None:
    (tmp_path / "everybodys").mkdir()
    (tmp_path / "everybodys").chmod(0o777)
    with pytest.raises(MountFailedError) as caught:
        mount(cache="everybodys/cache")
    assert f"any user may put another {tmp_path}/everybodys/cache in its place" in caught.value.fact
    assert "--cache-dir" in (caught.value.hint or "")


def test_nothing_of_the_directory_where_the_user_is_is_run_or_kept_busy(mount: Mounts, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "logging", "resource", "fcntl", "ckptfs"):
        (trap / f"{name}.py").write_text("open('sprung', 'w')\n")
    mounted = mount.prepare()
    arguments = ["--cache-dir", mounted.cache_dir]
    subprocess.run([PROGRAM, "mount", mount.file_store, mounted.root, *arguments], cwd=trap, check=True, timeout=60)
    try:
        mounted.save()
        mounted.sync()
        status = mounted.status()
        assert [Path(f"/proc/{status[name]}/cwd").readlink() for name in ("pid", "keeper")] == [Path("/")] * 2
    finally:
        subprocess.run([PROGRAM, "umount", mounted.root], cwd=trap, check=True, timeout=60)
    assert not (trap / "sprung").exists()


@pytest.mark.s3
def test_credentials_are_in_no_log_no_state_and_no_command_line(
    mount: Mounts, bucket: str, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    mounted = mount(bucket, verbose=True)
    (mounted.root / "model.bin").write_bytes(os.urandom(1000))
    mounted.save()
    mounted.sync()
    said = [(mounted.root / name).read_bytes() for name in (".status", ".save")]
    said += [path.read_bytes() for path in mounted.cache.rglob("*") if path.is_file()]
    pids = [mounted.keeper_pid, mounted.pid, mounted.upload_pid()]
    for pid in pids:
        said.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        assert "Max core file size        0 " in Path(f"/proc/{pid}/limits").read_text()
    secrets = [seaweedfs.env[name].encode() for name in REFUSED if name in seaweedfs.env]
    assert len(secrets) >= 2
    assert [secret for secret in secrets if secret in b"".join(said)] == []
    mounted.unmount()
    arguments = ["-v", "mount", bucket, mounted.root, "--cache-dir", tmp_path / "cache-2"]
    run = subprocess.run([PROGRAM, *arguments], env=os.environ | REFUSED, capture_output=True, timeout=60, check=False)
    assert run.returncode == 1
    assert [secret for secret in REFUSED.values() if secret.encode() in run.stdout + run.stderr] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
def test_umount_ends_a_mount_that_a_container_has_too(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"saved")
    script = """
        # of this mount alone
        grep fuse.ckptfs /proc/self/mountinfo | cut -d" " -f5 | grep -vFx "$1" | xargs -r umount -l || true
        ls "$1"; exec sleep 100
    """
    words = ["unshare", "-m", "sh", "-c", script, "sh", mounted.root]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as container:
        try:
            assert container.stdout is not None
            assert container.stdout.readline() == "model.bin\n"
            assert mounted.save() == 1
            run = subprocess.run(
                [PROGRAM, "umount", mounted.root], capture_output=True, text=True, timeout=60, check=True
            )
            assert run.stdout == f"unmounted {mounted.root}\n"
            assert mounted.wait(10) == 0
        finally:
            container.kill()
    again = mount()
    assert (again.root / "model.bin").read_bytes() == b"saved"
