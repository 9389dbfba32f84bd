"""Mounts of encrypted stores: all that other mounts do, and nothing of it to be read in the store; no key anywhere."""

import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.cli.scene import Run, ckptfs
from tests.mounting import Mount, MountFailedError, Mounts, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(180)]

KEY = b"0f1e2d3c4b5a69788796a5b4c3d2e1f0-the-key"
# what is written, named and said in these tests, and what records, leases and packs say by themselves; of 5 bytes and
# more, that are not in 10 MB of noise by chance
_HOST = f'"host":"{socket.gethostname()}"'.encode()
PLAIN = (b"PLAIN", _HOST, b'"pid"', b"/cache/", b"ckptfsC", b"ckptfsP", b"ckptfsM")


def objects(store: str) -> list[Path]:
    return [path for path in Path(store.removeprefix("file://")).rglob("*") if path.is_file()]


def assert_nothing_readable(store: str) -> None:
    for path in objects(store):
        body = path.read_bytes()
        found = [word for word in PLAIN if word in body]
        assert found == [], (path, found)


def processes(mount: Mount) -> list[int]:
    pids = [mount.keeper_pid, mount.server_pid(), mount.upload_pid()]
    assert None not in pids
    return [pid for pid in pids if pid is not None]


def assert_key_not_shown(pids: Iterable[int], cache_dir: Path, *texts: str) -> None:
    forms = (KEY, KEY.hex().encode())
    shown = [Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ", "comm")]
    shown += [path.read_bytes() for path in cache_dir.rglob("*") if path.is_file() and "live" not in path.parts]
    shown += [text.encode() for text in texts]
    assert not any(form in text for form in forms for text in shown)


def write(mount: Mount, step: int, weights: bytearray) -> None:
    weights[step * 5000 : step * 5000 + 400] = os.urandom(400)
    (mount.root / "PLAIN-directory").mkdir(exist_ok=True)
    (mount.root / "PLAIN-directory" / "model.bin").write_bytes(weights)
    (mount.root / "log.txt").write_text("PLAIN words\n" * (step + 1) * 100)
    os.setxattr(mount.root / "log.txt", "user.PLAIN", b"PLAIN value")


def test_an_encrypted_store_goes_through_what_any_store_does_and_shows_nothing(mount: Mounts) -> None:
    store = mount.file_store
    weights = bytearray(os.urandom(6 << 20))
    writer = mount(encrypt=True, key=KEY)
    follower = mount.prepare(name="follower", cache="other", read_only=True, follow=True, key=KEY)
    for step in range(4):
        write(writer, step, weights)
        assert_nothing_readable(store)
        writer.save(f"PLAIN-note={step}")
        writer.sync()
        assert_nothing_readable(store)
        if step == 0:
            follower.start()
        elif step == 1:
            writer.kill_server()
        elif step == 2:
            assert writer.kill_upload_process()
    # deltas: 400 bytes of 6 MiB changed each time
    assert sum(path.stat().st_size for path in objects(store)) < 10 << 20
    wait_until(lambda: follower.status()["version"] == 4, 60.0, "the follower shows version 4")
    assert (follower.root / "PLAIN-directory" / "model.bin").read_bytes() == weights
    assert (follower.root / ".versions" / "1" / "log.txt").read_text() == "PLAIN words\n" * 100
    with pytest.raises(MountFailedError) as refused:
        mount(name="second", cache="cache-of-another", key=KEY)
    assert socket.gethostname() in refused.value.fact
    wait_until(lambda: writer.upload_pid() is not None, 30.0, "there is an upload process again")
    assert_key_not_shown(processes(writer), writer.cache_dir, writer.log, str(writer.status()), str(writer.marker()))
    writer.restore(1)
    assert (writer.root / "log.txt").read_text() == "PLAIN words\n" * 100
    (writer.root / "unsaved").write_text("PLAIN")
    writer.kill()
    again = mount(cache="a-third", key=KEY, takeover=True)
    assert (again.root / "PLAIN-directory" / "model.bin").read_bytes() == weights
    assert again.save() == 5
    assert again.unmount() == 0
    assert_nothing_readable(store)


def mount_by_command(mounts: Mounts, *arguments: str, env: dict[str, str] | None = None) -> Run:
    (mounts.directory / "mnt").mkdir(exist_ok=True)
    cache = ("--cache-dir", str(mounts.directory / "cache"))
    return ckptfs("mount", mounts.file_store, mounts.directory / "mnt", *cache, *arguments, env=env)


def test_the_key_in_the_environment_is_given_to_the_mount_and_to_no_environment(mount: Mounts) -> None:
    made = mount_by_command(mount, "--encrypt", env={"CKPTFS_KEY": KEY.decode()})
    root = mount.directory / "mnt"
    try:
        assert made.code == 0, made.err
        (root / "file").write_text("PLAIN")
        assert ckptfs("save", root, "--wait").code == 0
        status = ckptfs("status", root, "--json")
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_of(path, mount.directory)]
        assert len(pids) >= 3
        assert_key_not_shown(pids, mount.directory / "cache", status.out)
    finally:
        assert ckptfs("umount", root).code == 0
    assert_nothing_readable(mount.file_store)


def _is_of(process: Path, directory: Path) -> bool:
    try:
        return str(directory).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("arguments", "key", "fact"),
    [
        (["--encrypt"], None, "is to be encrypted, and no key is given"),
        ([], "a key", "would not be encrypted"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_left(
    mount: Mounts, arguments: list[str], key: str | None, fact: str
) -> None:
    run = mount_by_command(mount, *arguments, env={"CKPTFS_KEY": key} if key else None)
    assert run.code == 1
    assert fact in run.err
    assert len(run.err.splitlines()) == 2
    assert objects(mount.file_store) == []


def test_a_mount_that_follows_says_when_the_store_is_put_back(mount: Mounts) -> None:
    store = mount.directory / "store"
    writer = mount(encrypt=True, key=KEY)
    writer.save()
    writer.sync()
    shutil.copytree(store, mount.directory / "older")
    writer.save()
    assert writer.unmount() == 0
    follower = mount(read_only=True, follow=True, key=KEY, cache="other")
    assert follower.status()["version"] == 2
    store.rename(mount.directory / "newer")
    (mount.directory / "older").rename(store)
    wait_until(lambda: "this machine has seen commit 3" in str(follower.status()["error"]), 30, "it says so")
    assert follower.status()["version"] == 2
    store.rename(mount.directory / "older")
    (mount.directory / "newer").rename(store)
    wait_until(lambda: follower.status()["error"] is None, 30, "it is well again")
    assert follower.log.count("could not follow") <= 3


@pytest.mark.parametrize("read_only", [False, True])
def test_no_mount_without_the_key_and_none_of_a_store_that_was_put_back(mount: Mounts, read_only: bool) -> None:
    writer = mount(encrypt=True, key=KEY)
    (writer.root / "file").write_text("PLAIN")
    writer.save()
    writer.sync()
    older = mount.directory / "older"
    shutil.copytree(mount.directory / "store", older)
    writer.save()
    assert writer.unmount() == 0
    for key, fact in ((b"", "no key was given"), (b"another", "is not the key")):
        with pytest.raises(MountFailedError, match=fact) as refused:
            mount(key=key, read_only=read_only)
        assert "--key-file" in (refused.value.hint or "")
    shutil.rmtree(mount.directory / "store")
    older.rename(mount.directory / "store")
    with pytest.raises(MountFailedError, match="this machine has seen commit 3") as refused:
        mount(key=KEY, read_only=read_only)
    assert "--accept-rollback" in (refused.value.hint or "")
    accepted = mount(key=KEY, read_only=read_only, accept_rollback=True)
    assert (accepted.root / "file").read_text() == "PLAIN"
    assert accepted.unmount() == 0
