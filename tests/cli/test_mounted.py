"""The commands on a real mount of a store in a directory."""

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptfs.cli import progress
from ckptfs.cli.commands import umount
from ckptfs.mount_table import mount_at
from tests.cli.scene import Run, StoreWithVersions, assert_failed, ckptfs
from tests.mounting import check_apart, wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse is missing"),
]


class Place:
    """A store, a mount point and a cache directory."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self.url = f"file://{self.store}"
        self.mountpoint = directory / "ckpt"
        self.mountpoint.mkdir()
        self.cache = directory / "cache"

    def mount(self, *options: str) -> Run:
        return ckptfs("mount", self.url, self.mountpoint, "--cache-dir", self.cache, *options)

    def pid(self) -> int:
        return int(ckptfs("status", self.mountpoint, "--json").json["pid"])

    def end(self) -> None:
        """Kill all processes of the mount, first of all the one that would have another take over."""
        status = ckptfs("status", self.mountpoint, "--json").json
        end(int(status["keeper"]))
        end(int(status["pid"]))

    @contextmanager
    def unreachable_store(self) -> Iterator[None]:
        self.store.rename(self.store.with_name("away"))
        try:
            yield
        finally:
            self.store.with_name("away").rename(self.store)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if mount_at(place.mountpoint) is not None:
        place.end()
        subprocess.run(["umount", "--lazy", place.mountpoint], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def mounted(place: Place) -> Place:
    run = place.mount("--drain-timeout", "2s", "--sync-timeout", "1s")
    assert (run.code, run.out) == (0, ""), run.err
    return place


def end(pid: int) -> None:
    """Kill a process and wait until it is gone."""
    with os.fdopen(os.pidfd_open(pid)) as process:
        os.kill(pid, signal.SIGKILL)
        assert select.select([process], [], [], 30)[0]


def test_save_makes_a_version_with_its_note_and_says_its_number(mounted: Place) -> None:
    (mounted.mountpoint / "a.bin").write_bytes(b"a" * 1000)
    assert ckptfs("save", mounted.mountpoint, "-m", "step=7 best").out.startswith("saved version 1")
    (mounted.mountpoint / "d").mkdir()
    run = ckptfs("save", mounted.mountpoint / "d", "-m", '{"step": 8}', "--wait", "--json")
    assert (run.json["version"], run.json["state"], run.json["note"]) == (2, "durable", {"step": 8})
    assert [row["version"] for row in ckptfs("log", mounted.url, "--json").json] == [2, 1]
    assert ckptfs("save", mounted.mountpoint, "--wait").out == "saved version 3, durable\n"


def test_what_a_save_that_waited_has_uploaded_is_what_the_log_says(mounted: Place) -> None:
    (mounted.mountpoint / "a.bin").write_bytes(os.urandom(10_000))
    saved = ckptfs("save", mounted.mountpoint, "--wait", "--json").json
    (row,) = ckptfs("log", mounted.url, "--json").json
    assert saved["bytes_uploaded"] == row["bytes_added"] > 10_000


def test_recover_does_not_say_that_all_is_in_the_store_while_the_mount_holds_what_is_not(mounted: Place) -> None:
    (mounted.mountpoint / "a.bin").write_bytes(b"a")
    run = ckptfs("recover", mounted.mountpoint)
    assert (run.code, run.out) == (0, "")
    assert "changed since the last save" in run.err
    ckptfs("save", mounted.mountpoint, "--wait")
    assert ckptfs("recover", mounted.mountpoint).err == "nothing: all is in the store\n"


def test_commands_take_the_mount_point_in_place_of_the_store(mounted: Place) -> None:
    (mounted.mountpoint / "a.bin").write_bytes(b"a")
    ckptfs("save", mounted.mountpoint, "--wait")
    assert ckptfs("log", mounted.mountpoint, "--json").json == ckptfs("log", mounted.url, "--json").json
    assert len(ckptfs("show", mounted.mountpoint, "latest", "--json").json["entries"]) == 2
    assert ckptfs("verify", mounted.mountpoint, "--read-data").out == "1 version checked: every byte hashes right\n"
    assert ckptfs("recover", mounted.mountpoint, "--json").json == []


def test_status_shows_one_mount_or_all(mounted: Place) -> None:
    one = ckptfs("status", mounted.mountpoint, "--json").json
    assert (one["store"], one["mountpoint"], one["version"]) == (mounted.url, str(mounted.mountpoint), 0)
    assert str(mounted.mountpoint) in [each["mountpoint"] for each in ckptfs("status", "--json").json]
    assert f"store              {mounted.url}" in ckptfs("status", mounted.mountpoint).out


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
def test_a_check_fails_where_no_mount_is_or_one_is_dead(mounted: Place) -> None:
    assert check_apart() == 1
    assert check_apart(mounted.mountpoint) == 0
    mounted.end()
    assert check_apart(mounted.mountpoint) == 1
    assert ckptfs("umount", mounted.mountpoint).code == 0


def test_a_mount_made_through_a_symlink_is_one_as_any_other(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place.mountpoint)
    assert ckptfs("mount", place.url, link, "--cache-dir", place.cache).code == 0
    (link / "a.bin").write_bytes(b"a")
    status = ckptfs("status", link, "--json").json
    assert status["mountpoint"] == str(place.mountpoint)
    if status["transport"] == "passthrough":
        end(int(status["pid"]))
        assert (link / "a.bin").read_bytes() == b"a", "another has taken over"
    keeper = int(status["keeper"])
    with os.fdopen(os.pidfd_open(keeper)) as process:
        os.kill(keeper, signal.SIGTERM)
        assert select.select([process], [], [], 30)[0]
    assert mount_at(place.mountpoint) is None, "it has taken its mount away"


def test_a_note_over_the_limit_is_refused_and_nothing_is_saved(mounted: Place) -> None:
    assert_failed(ckptfs("save", mounted.mountpoint, "-m", "x" * 65537), "the note has 65537 bytes", "at most 64 KiB")
    assert ckptfs("log", mounted.url, "--json").json == []


def test_saving_through_a_read_only_mount_is_refused(store: StoreWithVersions, place: Place) -> None:
    assert ckptfs("mount", store.url, place.mountpoint, "--cache-dir", place.cache, "--read-only").code == 0
    assert (place.mountpoint / "a.bin").read_bytes() == b"A" * 1000
    assert_failed(ckptfs("save", place.mountpoint), "nothing can be saved", "ckptfs status")
    assert ckptfs("umount", place.mountpoint).code == 0


def test_waiting_for_a_store_that_is_away_fails_and_the_version_stays(mounted: Place) -> None:
    ckptfs("save", mounted.mountpoint, "--wait")
    with mounted.unreachable_store():
        (mounted.mountpoint / "a.bin").write_bytes(b"a")
        assert_failed(ckptfs("save", mounted.mountpoint, "--wait"), "version 2 is not durable: ", "kept on local disk")
        assert [each["version"] for each in ckptfs("status", mounted.mountpoint, "--json").json["pending"]] == [2]
    # the upload process asks the store again at least every 5 s
    deadline = time.monotonic() + 30
    while [row["version"] for row in ckptfs("log", mounted.url, "--json").json] != [2, 1]:
        assert time.monotonic() < deadline


def test_umount_unmounts_and_ends_the_process(mounted: Place) -> None:
    (mounted.mountpoint / "a.bin").write_bytes(b"a")
    ckptfs("save", mounted.mountpoint)
    pid = mounted.pid()
    run = ckptfs("umount", mounted.mountpoint)
    assert (run.code, run.out) == (0, f"unmounted {mounted.mountpoint}\n"), run.err
    # a zombie at most: who reaps it is up to the machine
    assert not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()
    assert mount_at(mounted.mountpoint) is None
    assert [row["version"] for row in ckptfs("log", mounted.url, "--json").json] == [1]


@pytest.mark.parametrize(("left", "said"), [(0, ""), (2, "making versions durable: 0 of 2\n")])
def test_umount_shows_progress_only_where_something_is_to_be_uploaded(
    left: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with subprocess.Popen(["sleep", "0.3"]) as process:
        umount.wait_for_end(os.pidfd_open(process.pid), None, lambda: left)
    assert capsys.readouterr().err == said


def test_umount_leaves_no_process_that_keeps_the_cache_directory_busy() -> None:
    with subprocess.Popen(["sleep", "0.2"]) as process, subprocess.Popen(["sleep", "0.6"]) as keeper:
        umount.wait_for_end(os.pidfd_open(process.pid), os.pidfd_open(keeper.pid), lambda: 0)
        assert keeper.poll() == 0


def test_umount_of_a_mount_in_use_is_refused_and_leaves_it_alone(mounted: Place) -> None:
    with (mounted.mountpoint / "a.bin").open("w") as file:
        assert_failed(ckptfs("umount", mounted.mountpoint), "is in use", "fuser")
        file.write("still works")
    assert (mounted.mountpoint / "a.bin").read_text() == "still works"


def test_umount_that_cannot_drain_says_what_is_left_and_the_next_mount_finishes_it(mounted: Place) -> None:
    with mounted.unreachable_store():
        (mounted.mountpoint / "a.bin").write_bytes(b"left")
        ckptfs("save", mounted.mountpoint)
        run = ckptfs("umount", mounted.mountpoint)
    assert_failed(run, "1 version (4 B) is not durable", str(mounted.cache))
    assert [each["kind"] for each in ckptfs("recover", mounted.cache, "--json").json] == ["pending"]
    assert mounted.mount().code == 0
    assert ckptfs("save", mounted.mountpoint, "--wait").code == 0
    assert [row["version"] for row in ckptfs("log", mounted.url, "--json").json] == [2, 1]
    assert ckptfs("recover", mounted.cache, "--json").json == []


def test_a_mount_is_made_and_ended_by_programs_whose_standard_streams_are_closed(place: Place) -> None:
    program = f"{shlex.quote(sys.executable)} -m ckptfs"
    words = [place.url, place.mountpoint, "--cache-dir", place.cache]
    for line in (
        f"mount {shlex.join(map(str, words))}",
        f"save {place.mountpoint} --wait",
        f"umount {place.mountpoint}",
    ):
        done = subprocess.run(["sh", "-c", f"exec {program} {line} <&- >&- 2>&-"], check=False, timeout=60)
        assert done.returncode == 0, line
    assert [each["version"] for each in ckptfs("log", place.url, "--json").json] == [1]


def test_a_dead_mount_is_told_as_such_and_cleared_away(mounted: Place) -> None:
    mounted.end()
    assert_failed(ckptfs("status", mounted.mountpoint), "is gone", "ckptfs umount")
    assert [each["error"] for each in ckptfs("status", "--json").json if each["mountpoint"] == str(mounted.mountpoint)]
    run = ckptfs("umount", mounted.mountpoint)
    assert (run.code, run.out) == (0, f"cleared away the dead mount at {mounted.mountpoint}\n")
    assert mount_at(mounted.mountpoint) is None


def test_a_mount_point_that_cannot_be_is_one_error_with_a_hint(mounted: Place, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    other = f"file://{tmp_path}/other"
    assert_failed(
        ckptfs("mount", other, tmp_path / "none", "--cache-dir", tmp_path / "c"), "does not exist", "mkdir -p"
    )
    assert_failed(ckptfs("mount", other, tmp_path / "file", "--cache-dir", tmp_path / "c"), "is not a directory")
    assert_failed(ckptfs("mount", other, mounted.mountpoint, "--cache-dir", tmp_path / "c"), "already mounted")


def test_a_second_writer_is_refused_by_the_name_of_the_holder(mounted: Place, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    run = ckptfs("mount", mounted.url, tmp_path / "second", "--cache-dir", tmp_path / "other-cache")
    assert_failed(run, f"mounted read-write by {socket.gethostname()} (pid {mounted.pid()}", "--takeover")


def test_follow_without_read_only_is_a_usage_error(place: Place) -> None:
    assert place.mount("--follow").code == 2


def test_foreground_stays_tells_systemd_when_ready_and_ends_on_sigterm(place: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(30)
        command = [
            sys.executable,
            "-m",
            "ckptfs",
            "mount",
            "--foreground",
            place.url,
            place.mountpoint,
            "--cache-dir",
            place.cache,
        ]
        env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert notify.recv(100) == b"READY=1"
            (place.mountpoint / "a.bin").write_bytes(b"a")
            ckptfs("save", place.mountpoint)
            process.terminate()
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), err
    assert "Traceback" not in err
    assert mount_at(place.mountpoint) is None
    assert [row["version"] for row in ckptfs("log", place.url, "--json").json] == [1]


def test_a_tag_is_followed_to_where_it_moves_and_a_number_stays_what_it_is(
    place: Place, store: StoreWithVersions
) -> None:
    def mount(version: str) -> bool:
        run = ckptfs(
            *("mount", store.url, place.mountpoint, "--cache-dir", place.cache, "--version", version, "--follow")
        )
        assert run.code == 0, run.err
        return bool(ckptfs("status", place.mountpoint, "--json").json["follow"])

    assert ckptfs("tag", store.url, "1", "best").code == 0
    assert mount("best")
    assert (place.mountpoint / "a.bin").read_bytes() == b"a" * 1000
    assert ckptfs("tag", store.url, "2", "best").code == 0
    wait_until(lambda: (place.mountpoint / "a.bin").read_bytes() == b"A" * 1000, 60, "it shows version 2")
    assert not (place.mountpoint / "d").exists()
    assert ckptfs("umount", place.mountpoint).code == 0
    assert not mount("2")
