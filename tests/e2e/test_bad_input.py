"""What a user gets wrong and what is broken around: a line that says what, one that says what to do, nothing lost."""

import errno
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptfs.cli.application import run
from ckptfs.errors import CacheError, MountError
from ckptfs.fs import launch
from ckptfs.fs.options import MountOptions
from ckptfs.fs.transport import choice, fusepy
from demo.seaweedfs import Identity, SeaweedFS
from tests import disks
from tests.cli.scene import Run, StoreWithVersions, assert_failed, ckptfs
from tests.e2e.careless_s3 import CarelessS3
from tests.fs.system_calls import in_child
from tests.mounting import MountFailedError, Mounts, clear_away, let_others_in, touch, wait_until
from tests.snapshot import Snapshot, assert_same, snapshot

pytestmark = [pytest.mark.fuse]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")


def mount_fails(
    mounts: Mounts,
    fact: str,
    hint: str | None,
    *,
    store: str | None = None,
    arguments: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> Run:
    """Run `ckptfs mount`, which must fail as every command does, and leave nothing mounted."""
    mountpoint = mounts.directory / "mnt"
    mountpoint.mkdir(exist_ok=True)
    cache = () if "--cache-dir" in arguments else ("--cache-dir", str(mounts.directory / "cache"))
    try:
        run = ckptfs("mount", store or mounts.file_store, mountpoint, *cache, *arguments, env=env)
        assert not os.path.ismount(mountpoint)
    finally:
        clear_away(mountpoint)
    assert fact in run.err, run.err
    assert hint is None or hint in run.err, run.err
    assert_failed(run, fact, hint)
    return run


@pytest.fixture
def store(mount: Mounts) -> StoreWithVersions:
    """A store in a directory, with two versions."""
    store = StoreWithVersions(mount.directory)
    store.save({"a.bin": b"first"})
    store.save({"a.bin": b"second", "b.bin": bytes(100)}, note={"step": 2})
    return store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB."""
    with disks.small_disk(tmp_path / "disk", "size=8m") as path:
        yield path


# the store


@pytest.mark.s3
def test_a_missing_bucket(mount: Mounts, bucket: str) -> None:
    mount_fails(mount, "no-such-bucket", "create the bucket", store="s3://no-such-bucket/models")


@pytest.mark.s3
def test_wrong_credentials(mount: Mounts, bucket: str) -> None:
    env = {"AWS_SECRET_ACCESS_KEY": "wrong"}
    run = mount_fails(mount, bucket, "AWS_SECRET_ACCESS_KEY", store=bucket, env=env)
    assert "wrong" not in run.err.replace("is wrong", "")
    env = {"AWS_ACCESS_KEY_ID": "nobody-knows-me"}
    mount_fails(mount, bucket, "AWS_ACCESS_KEY_ID", store=bucket, env=env)


@pytest.mark.s3
def test_no_credentials(mount: Mounts, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    mount_fails(mount, "credentials", "AWS_PROFILE", store=bucket)


@pytest.mark.s3
def test_no_permission_to_write_still_lets_one_read(mount: Mounts, bucket: str, seaweedfs: SeaweedFS) -> None:
    writer = mount(bucket, name="writer", cache="cache-2")
    (writer.root / "model.bin").write_bytes(b"readable")
    touch(writer.root)
    writer.sync()
    writer.unmount()
    reader = seaweedfs.env_for(Identity.READER)
    mount_fails(mount, "cannot", "these credentials need s3:GetObject, PutObject", store=bucket, env=reader)
    mounted = mount(bucket, name="reader", cache="cache-3", read_only=True, env=reader)
    assert (mounted.root / "model.bin").read_bytes() == b"readable"
    nobody = seaweedfs.env_for(Identity.NOBODY)
    mount_fails(mount, "cannot read", "these credentials need", store=bucket, env=nobody, arguments=("--read-only",))


def test_a_place_that_is_no_store(mount: Mounts) -> None:
    path = mount.directory / "store"
    path.write_text("a file")
    mount_fails(mount, "Not a directory", "")
    path.unlink()
    (path / "c").mkdir(parents=True)
    (path / "c" / "main.c").write_text("int main(void) {}")
    mount_fails(mount, "it is not a ckptfs store", "choose an empty place")
    assert [each.name for each in path.iterdir()] == ["c"]
    shutil.rmtree(path)
    path.mkdir()
    (path / "format.json").write_text('{"format": "parquet"}')
    mount_fails(mount, "format.json", "")
    assert (path / "format.json").read_text() == '{"format": "parquet"}'


def test_reading_a_place_that_is_no_store_makes_none(mount: Mounts) -> None:
    mount_fails(mount, "No such file or directory", "", arguments=("--read-only",))
    (mount.directory / "store").mkdir()
    mount_fails(mount, "is not a ckptfs store", "is the address right?", arguments=("--read-only",))
    assert list((mount.directory / "store").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "fact", "hint"),
    [
        ("gs://bucket/prefix", "gs:// is not a store", "s3://BUCKET/PREFIX or file:///DIRECTORY"),
        ("s3://key:secret@bucket/prefix", "holds no credentials", "AWS_PROFILE"),
        ("file://relative/path", "names no directory", "file:///DIRECTORY"),
        ("/srv/models", "is not a store", "file:///srv/models"),
        ("./models", "is not a store", f"write {Path.cwd().as_uri()}/models"),
    ],
)
def test_a_malformed_address(mount: Mounts, url: str, fact: str, hint: str) -> None:
    run = mount_fails(mount, fact, hint, store=url)
    assert "secret" not in run.err


def test_a_store_of_a_newer_format(mount: Mounts, store: StoreWithVersions) -> None:
    path = store.directory / "format.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps(fields | {"version": 2}))
    mount_fails(mount, "version 2", "install a newer ckptfs")
    path.write_text(json.dumps(fields | {"features": ["encryption"]}))
    mount_fails(mount, "encryption", "install a newer ckptfs")
    mount_fails(mount, "encryption", "install a newer ckptfs", arguments=("--read-only",))
    assert_failed(ckptfs("log", store.url), "encryption", "install a newer ckptfs")


def test_a_damaged_format_json(mount: Mounts, store: StoreWithVersions) -> None:
    path = store.directory / "format.json"
    good = path.read_bytes()
    for damaged in (b"", good[:-5]):
        path.write_bytes(damaged)
        mount_fails(mount, f"{store.url}/format.json is not JSON", "put format.json back")
        assert_failed(ckptfs("verify", store.url), "format.json is not JSON", "put format.json back")
    path.write_bytes(good)
    assert ckptfs("verify", store.url, "--read-data").code == 0


def test_a_damaged_commit_record(mount: Mounts, store: StoreWithVersions) -> None:
    newest = min((store.directory / "c").iterdir())
    good = newest.read_bytes()
    for damaged in (good[:-1], good[:100] + bytes([good[100] ^ 1]) + good[101:], b""):
        newest.write_bytes(damaged)
        before = snapshot(store.directory)
        for arguments in ((), ("--read-only",), ("--takeover",)):
            mount_fails(mount, newest.name, "ckptfs verify", arguments=arguments)
        # but for the time of the probe for create-only
        assert_same_but_for_times(before, snapshot(store.directory))
        assert_failed(ckptfs("restore", store.url, mount.directory / "out"), newest.name, "ckptfs verify")
    newest.write_bytes(good)
    assert ckptfs("verify", store.url, "--read-data").code == 0


@pytest.mark.s3
def test_a_store_that_ignores_if_none_match(mount: Mounts, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with CarelessS3() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        url = "s3://bucket/prefix"
        mount_fails(mount, "although asked only to create it", "--unsafe-single-writer", store=url)
        assert list(server.objects) == ["prefix/format.json"]
        mounted = mount(url, unsafe_single_writer=True)
        (mounted.root / "model.bin").write_bytes(b"on my own responsibility")
        touch(mounted.root)
        mounted.sync()
        mounted.unmount()
        again = mount(url, cache="cache-2", unsafe_single_writer=True)
        assert (again.root / "model.bin").read_bytes() == b"on my own responsibility"


# the mount point


def test_a_mount_point_that_is_missing_or_a_file(mount: Mounts, tmp_path: Path) -> None:
    cache = ("--cache-dir", str(tmp_path / "cache"))
    missing = tmp_path / "missing"
    assert_failed(ckptfs("mount", mount.file_store, missing, *cache), f"{missing} does not exist", "mkdir -p")
    file = tmp_path / "file"
    file.write_text("kept")
    assert_failed(ckptfs("mount", mount.file_store, file, *cache), f"{file} is not a directory", "directory")
    assert file.read_text() == "kept"
    # nothing was made of the store either
    assert not (tmp_path / "store").exists()


def test_a_mount_point_in_use(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"in use")
    with pytest.raises(MountFailedError) as caught:
        mount(f"file://{mount.directory}/other")
    assert caught.value.fact == f"{mounted.root} is already mounted"
    assert "ckptfs status" in (caught.value.hint or "")
    assert (mounted.root / "model.bin").read_bytes() == b"in use"


def test_a_dead_mount_is_cleared_away_by_the_next(mount: Mounts) -> None:
    dead = mount()
    (dead.root / "model.bin").write_bytes(b"saved")
    touch(dead.root)
    os.stat(dead.root)  # what the kernel remembers is no sign of life
    dead.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(dead.root)
    # ECONNABORTED: the kernel was still taking the connection down
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert_failed(ckptfs("status", dead.root), "process of the mount", "ckptfs umount")
    again = mount()
    assert (again.root / "model.bin").read_bytes() == b"saved"
    table = Path("/proc/self/mountinfo").read_text()
    assert table.count(f" {again.root} ") == 1
    again.kill()
    assert ckptfs("umount", again.root).code == 0
    assert not os.path.ismount(again.root)


# versions


def test_a_version_that_does_not_exist(mount: Mounts, store: StoreWithVersions, tmp_path: Path) -> None:
    mount_fails(mount, "no version 9", "ckptfs log", arguments=("--version", "9"))
    mount_fails(mount, "no tag 'best'", "ckptfs log", arguments=("--version", "best"))
    mount_fails(mount, "neither a version number, nor a tag", None, arguments=("--version", "a/b"))
    target = tmp_path / "out"
    assert_failed(ckptfs("restore", store.url, target, "--version", "9"), "no version 9", "ckptfs log")
    assert_failed(ckptfs("show", store.url, "9"), "no version 9", "ckptfs log")
    assert_failed(ckptfs("tag", store.url, "9", "best"), "no version 9", "ckptfs log")
    assert_failed(ckptfs("diff", store.url, "1", "9"), "no version 9", "ckptfs log")
    assert not target.exists()


def test_restoring_a_version_that_does_not_exist_changes_nothing(mount: Mounts) -> None:
    mounted = mount()
    (mounted.root / "model.bin").write_bytes(b"unsaved work")
    touch(mounted.root)
    mounted.sync()
    (mounted.root / "model.bin").write_bytes(b"more unsaved work")
    before = snapshot(mounted.root)
    for spec, number in (("9", errno.ENOENT), ("best", errno.ENOENT), ("a/b", errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            mounted.restore(spec)
        assert caught.value.errno == number, spec
        run = subprocess.run(
            ["sh", "-c", f"echo {spec} > {mounted.root}/.restore"], capture_output=True, check=False, timeout=30
        )
        assert run.returncode != 0
    with pytest.raises(FileNotFoundError):
        os.stat(mounted.root / ".versions" / "9")
    assert_same(before, snapshot(mounted.root), "the live tree")
    assert list((mounted.cache / "unsaved").iterdir()) == []


# the cache directory


def test_a_cache_directory_that_cannot_be_one(mount: Mounts, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    mount_fails(mount, "cache directory", "choose another with --cache-dir", arguments=("--cache-dir", str(file)))
    mount_fails(mount, "cache directory", "choose another", arguments=("--cache-dir", str(file / "below")))
    mount_fails(mount, "cache directory", "choose another", arguments=("--cache-dir", "/proc/nowhere"))
    assert file.read_text() == "kept"


@needs_root
def test_a_cache_directory_that_cannot_be_written(mount: Mounts, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, timeout=30)
    arguments = ("--cache-dir", str(small_disk / "cache"))
    mount_fails(mount, "Read-only file system", "choose another with --cache-dir", arguments=arguments)


@needs_root
def test_a_cache_directory_that_can_no_longer_be_written(mount: Mounts, small_disk: Path) -> None:
    mounted = mount(cache="disk/cache")
    mounted.save()
    mounted.sync()
    mounted.unmount()
    remount = ["mount", "-o", "remount,ro", os.fspath(small_disk)]
    # what belonged to the mount ends a moment after it
    wait_until(lambda: subprocess.run(remount, check=False).returncode == 0, 60, "nobody has a file open for writing")
    arguments = ("--cache-dir", str(small_disk / "cache"))
    mount_fails(mount, "Read-only file system", "choose another with --cache-dir", arguments=arguments)
    mount_fails(mount, "Read-only file system", "nothing can be written", arguments=(*arguments, "--read-only"))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space there, or choose another directory with --cache-dir"),
        (errno.EROFS, "nothing can be written there, so choose another directory with --cache-dir"),
        (errno.EMFILE, "raise `ulimit -n`"),
    ],
)
def test_what_keeps_a_cache_directory_from_being_used_has_its_remedy(
    mount: Mounts, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/cache/journal")

    monkeypatch.setattr(launch, "WritingMount", fail)
    place = mount.directory / "place"
    place.mkdir()
    options = MountOptions(store=mount.file_store, mountpoint=place, cache_dir=mount.directory / "cache")

    def serve() -> tuple[str, str | None]:
        with pytest.raises(CacheError) as caught:
            launch.serve(options)
        return caught.value.fact, caught.value.hint

    assert tuple(in_child(serve)) == (f"cannot use /cache/journal: {os.strerror(number)}", remedy)


@needs_root
def test_a_cache_disk_that_is_full_from_the_start(mount: Mounts, small_disk: Path) -> None:
    disks.fill(small_disk)
    arguments = ("--cache-dir", str(small_disk / "cache"))
    mount_fails(mount, "No space left on device", "", arguments=arguments)


@needs_root
def test_a_cache_disk_that_fills_up_loses_nothing_and_goes_on_when_there_is_room(
    mount: Mounts, small_disk: Path
) -> None:
    mounted = mount(cache="disk/cache")
    (mounted.root / "first.bin").write_bytes(secrets.token_bytes(1 << 20))
    touch(mounted.root)
    mounted.sync()
    first = snapshot(mounted.root)
    for number in range(3):
        (mounted.root / f"more-{number}.bin").write_bytes(secrets.token_bytes(1 << 20))
    with pytest.raises(OSError) as caught:
        (mounted.root / "more-than-fits.bin").write_bytes(secrets.token_bytes(8 << 20))
    assert caught.value.errno == errno.ENOSPC
    disks.fill(small_disk)
    before = snapshot(mounted.root)
    with pytest.raises(OSError) as caught:
        touch(mounted.root)
    assert caught.value.errno == errno.ENOSPC
    run = ckptfs("save", mounted.root)
    assert_failed(run, "its cache directory is full", "free some space")
    assert_same(before, snapshot(mounted.root), "the live tree")
    assert mounted.marker()["version"] == 1
    # what is in the way can be removed, though nothing can be written
    for path in mounted.root.glob("more-*"):
        path.unlink()
    (small_disk / "filling").unlink()
    assert_same_but_for_times(first, snapshot(mounted.root))
    assert mounted.save() == 2
    mounted.sync()
    mounted.kill()
    again = mount(cache="disk/cache")
    assert_same_but_for_times(first, snapshot(again.root))
    assert list((again.cache / "unsaved").iterdir()) == []


@needs_root
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_version_that_does_not_fit_on_the_cache_disk_shows_all_names_and_reads_what_fits(
    mount: Mounts, small_disk: Path, prefetch: bool
) -> None:
    writer = mount()
    contents = {"large.bin": secrets.token_bytes(12 << 20), "small.bin": secrets.token_bytes(100_000)}
    for name, content in contents.items():
        (writer.root / name).write_bytes(content)
    touch(writer.root)
    writer.unmount()
    for read_only in (False, True):
        mounted = mount(cache="disk/cache", prefetch=prefetch, read_only=read_only)
        assert (mounted.root / "large.bin").stat().st_size == 12 << 20
        with pytest.raises(OSError) as caught:
            (mounted.root / "large.bin").read_bytes()
        assert caught.value.errno == errno.ENOSPC
        if not read_only:
            # what was fetched of it is given up
            os.truncate(mounted.root / "large.bin", 0)
        assert (mounted.root / "small.bin").read_bytes() == contents["small.bin"]
        mounted.unmount()


@needs_root
def test_changing_what_is_pending_on_a_full_disk_fails_and_leaves_both_as_they_are(
    mount: Mounts, small_disk: Path, tmp_path: Path
) -> None:
    mounted = mount(cache="disk/cache")
    wait_until(lambda: mounted.upload_pid() is not None, 10, "the upload process runs")
    pid = mounted.upload_pid()
    assert pid is not None
    (mounted.root / "model.bin").write_bytes(secrets.token_bytes(2 << 20))
    # the version stays pending
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = snapshot(mounted.root)
        touch(mounted.root)
        disks.fill(small_disk)
        with open(mounted.root / "model.bin", "r+b", buffering=0) as file, pytest.raises(OSError) as caught:
            # the pending version needs a copy of its own first
            file.write(b"no room for this")
        assert caught.value.errno == errno.ENOSPC
        assert_same(seen, snapshot(mounted.root), "the live tree")
    finally:
        os.kill(pid, signal.SIGCONT)
    mounted.sync()
    assert ckptfs("restore", mount.file_store, tmp_path / "out").code == 0
    assert_same(seen, snapshot(tmp_path / "out"), "version 1")


def assert_same_but_for_times(expected: Snapshot, actual: Snapshot) -> None:
    """Compare two snapshots, the root's time aside."""
    without = [{path: node for path, node in each.items() if path} for each in (expected, actual)]
    assert without[0] == without[1]


# the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ("mount",),
        ("mount", "file:///srv/store"),
        ("mount", "file:///srv/store", "/mnt", "--transport", "carrier-pigeon"),
        ("mount", "file:///srv/store", "/mnt", "--drain-timeout", "soon"),
        ("mount", "file:///srv/store", "/mnt", "--max-pending-bytes", "much"),
        ("unmount", "/mnt"),
        ("restore", "file:///srv/store"),
    ],
)
def test_usage_errors_are_two_lines_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    run = ckptfs(*arguments)
    assert run.code == 2
    lines = run.err.splitlines()
    assert lines[0].startswith("ckptfs: error: ")
    assert lines[1].startswith("  hint: ")
    assert len(lines) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("mount", "", "/mnt"),
        ("watch", "", "/mnt"),
        ("log", ""),
        ("show", "", "1"),
        ("diff", "", "1", "2"),
        ("restore", " ", "/mnt"),
        ("tag", ""),
        ("prune", "", "--keep-last", "1"),
        ("verify", ""),
        ("doctor", ""),
        ("mount", "file:///srv/store", ""),
        ("mount", "file:///srv/store", "/mnt", "--lease", "0"),
        ("mount", "file:///srv/store", "/mnt", "--lease", "2d"),
        ("mount", "file:///srv/store", "/mnt", "--drain-timeout", "-1"),
        ("mount", "file:///srv/store", "/mnt", "--max-pending-bytes", "-5"),
        ("mount", "file:///srv/store", "/mnt", "--version", ""),
        ("restore", "file:///srv/store", ""),
        ("restore", "file:///srv/store", "/mnt", "--version", ""),
        ("verify", "file:///srv/store", "--version", ""),
        ("umount", ""),
    ],
)
def test_values_that_cannot_be_and_empty_paths_are_usage_errors(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    fact, hint = capsys.readouterr().err.splitlines()
    assert fact.startswith("ckptfs: error: Invalid value for ")
    assert hint.startswith("  hint: `ckptfs ")


def test_one_version_may_always_wait_however_small_the_limit(mount: Mounts) -> None:
    mounted = mount(max_pending_bytes=0)
    for version in (1, 2):
        (mounted.root / "model.bin").write_bytes(b"%d" % version)
        assert mounted.save() == version
    mounted.sync()


@needs_root
@pytest.mark.parametrize("wanted", ["fusepy", "auto", "passthrough"])
def test_a_mount_that_fusermount_would_refuse_writes_nothing_to_the_store(mount: Mounts, wanted: str) -> None:
    """A fence would end the mount that holds the store."""
    nobody = 65534
    let_others_in(mount.directory)
    for name in ("store", "cache"):
        (mount.directory / name).mkdir(mode=0o700)
        os.chown(mount.directory / name, nobody, nobody)
    place = mount.directory / "not-theirs"
    place.mkdir(mode=0o755)
    options = MountOptions(
        store=(mount.directory / "store").as_uri(),
        mountpoint=place,
        cache_dir=mount.directory / "cache",
        transport=wanted,
    )

    def mount_as_nobody() -> str:
        os.setgid(nobody)
        os.setuid(nobody)
        with pytest.raises(MountError) as caught:
            launch.serve(options)
        return caught.value.fact

    said = "passthrough cannot work here" if wanted == "passthrough" else f"{place} is not this user's"
    assert said in in_child(mount_as_nobody)
    assert list((mount.directory / "store").iterdir()) == []


@needs_root
@pytest.mark.parametrize("wanted", ["auto", "passthrough", "mediated", "fusepy"])
def test_a_mount_without_its_device_writes_nothing_to_the_store(mount: Mounts, wanted: str) -> None:
    place = mount.directory / "place"
    place.mkdir()
    # nobody may open a device there, whoever it is, in this process alone
    script = 'mount --bind /dev/null /dev/fuse && mount -o remount,bind,nodev /dev/fuse && exec "$@"'
    words = [
        "mount",
        mount.file_store,
        str(place),
        "--cache-dir",
        str(mount.directory / "cache"),
        "--transport",
        wanted,
    ]
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "ckptfs", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    fact, hint = run.stderr.splitlines()
    assert fact == "ckptfs: error: cannot open /dev/fuse: Permission denied"
    assert hint.startswith("  hint: chmod 666 /dev/fuse; ")
    assert [path.name for path in mount.directory.iterdir()] == ["place"]


@pytest.mark.parametrize(
    ("text", "lets"),
    [("user_allow_other\n", True), ("  user_allow_other", True), ("#user_allow_other\n", False), ("", False)],
)
def test_it_is_known_whether_users_may_let_others_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lets: bool
) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text(text)
    monkeypatch.setattr(choice, "_FUSE_CONF", conf)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)

    def require() -> None:
        choice.require_local("fusepy", tmp_path, allow_other=True, connection=None)

    if lets:
        require()
    else:
        with pytest.raises(MountError, match="does not let users mount with --allow-other"):
            require()


@needs_root
def test_what_libfuse_says_is_the_one_line_of_the_error(mount: Mounts, capfd: pytest.CaptureFixture[str]) -> None:
    def mount_as_nobody() -> str:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(MountError) as caught:
            fusepy.serve(
                SimpleNamespace(writable=None),  # type: ignore[arg-type]  # it is not asked for anything
                mount.directory,
                name="store",
                allow_other=True,
                read_only=False,
                flusher_pid=lambda: 0,
                ready=lambda _: None,
            )
        return caught.value.fact

    fact = in_child(mount_as_nobody)
    # of /dev/fuse, of the directory or of --allow-other, as the machine is set up
    assert fact.startswith(f"libfuse could not mount on {mount.directory}: fuse")
    assert capfd.readouterr().err == ""
