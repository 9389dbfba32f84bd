"""What a touch promises, what its note may be, what fsync of the marker waits for, and what the reserved names allow
(PRODUCT.md 1).
"""

import errno
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.fs.touching import Counter, ran, run
from tests.mounting import Mount, Mounts, touch, wait_until

pytestmark = pytest.mark.fuse


def test_a_touch_in_a_subdirectory_saves_the_whole_mount(shared: Mount, place: Path) -> None:
    below = place / "a" / "b"
    below.mkdir(parents=True)
    (place / "above").write_text("saved too")
    (below / ".save").touch()
    shared.sync()
    version = shared.marker()["version"]
    assert (shared.root / ".versions" / str(version) / place.name / "above").read_text() == "saved too"


def test_a_touch_in_a_directory_that_is_not_there_says_so(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        (place / "nowhere" / ".save").touch()
    (place / "file").touch()
    with pytest.raises(NotADirectoryError):
        (place / "file" / ".save").touch()


def test_two_touches_by_one_process_are_two_versions(place: Path, counter: Counter) -> None:
    for _ in range(3):
        (place / ".save").touch()
    assert counter.made == 3
    os.utime(place / ".save")
    os.utime(place / ".save")
    assert counter.made == 5
    (place / ".save").write_text("a")
    (place / ".save").write_text("b")
    assert counter.made == 7


def test_times_set_by_name_after_something_changed_are_a_touch(place: Path, counter: Counter) -> None:
    (place / ".save").touch()
    (place / "model").write_text("changed")
    os.utime(place / ".save", (1, 2))
    assert counter.made == 2


def test_programs_that_touch_at_the_same_moment_make_one_version_each(
    place: Path, counter: Counter, toucher: Path
) -> None:
    lines = [
        "touch .save",
        "echo {note} > .save",
        f"'{toucher}' 'open close'",
        "for i in 1 2; do echo $i > f{note}; done; : > .save",
    ]
    processes = [
        subprocess.Popen(
            ["bash", "-c", f"read; {lines[number % 4].format(note=number)}"], cwd=place, stdin=subprocess.PIPE
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(30) for process in processes] == [0] * 8
    assert counter.made == 8


def test_touches_in_a_loop_by_several_processes_lose_none(place: Path, counter: Counter) -> None:
    line = "for i in $(seq 25); do touch .save || exit 1; echo $i > file-$$; done"
    processes = [subprocess.Popen(["bash", "-c", line], cwd=place) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert counter.made == 100


def test_a_touch_while_another_program_keeps_the_marker_open_is_not_held_up_for_long(
    place: Path, counter: Counter
) -> None:
    with open(place / ".save", "w") as file:
        os.close(os.dup(file.fileno()))  # captures
        ran("timeout 5 touch .save", place)
    assert counter.made == 2


def test_reading_the_marker_makes_no_version(place: Path, counter: Counter) -> None:
    ran("cat .save; stat .save; test -e .save; head -c1 .save; ls -l .save; wc -c .save; cp .save copy", place)
    assert counter.made == 0
    assert json.loads((place / "copy").read_text())["version"] == counter.version


def test_noclobber_sees_the_marker_as_an_existing_file(place: Path, counter: Counter) -> None:
    for shell in ("bash", "dash"):
        assert run(f"{shell} -c 'set -C; echo note > .save'", place).returncode != 0
    assert counter.made == 0


def test_marker_tells_about_the_newest_version(shared: Mount, place: Path, counter: Counter) -> None:
    ran("echo epoch=3 > .save", place)
    text = json.loads((place / ".save").read_text())
    assert text["version"] == counter.version
    assert text["note"] == {"epoch": 3}
    assert text["state"] in ("captured", "uploading", "durable")
    assert text["error"] is None
    assert text["files"] > 0
    assert text["bytes"] >= 1000
    shared.sync()
    durable = json.loads((place / ".save").read_text())
    assert durable["state"] == "durable"
    assert durable["bytes_uploaded"] > 0


# notes that are too long


@pytest.mark.parametrize("size", [65537, 200_000])
@pytest.mark.parametrize("way", ["shell", "python", "python append", "cp", "mv", "mv across", "dd", "pieces"])
def test_a_note_over_the_limit_is_refused_and_makes_no_version(
    size: int, way: str, place: Path, counter: Counter, tmp_path: Path
) -> None:
    text = place / "text"
    text.write_bytes(b"x" * size)
    across = tmp_path / "text"
    across.write_bytes(b"x" * size)
    lines = {
        "shell": "cat text > .save",
        "cp": "cp text .save",
        "mv": "mv text .save",
        "mv across": f"mv {across} .save",
        "dd": "dd if=text of=.save bs=1M",
    }
    if way in lines:
        result = run(lines[way], place)
        assert result.returncode != 0
        assert "File too large" in result.stderr
    else:
        with pytest.raises(OSError) as raised:
            _write(place / ".save", "ab" if way == "python append" else "wb", size, 1000 if way == "pieces" else size)
        assert raised.value.errno == errno.EFBIG
    assert counter.made == 0
    assert text.stat().st_size == across.stat().st_size == size
    ran("echo short > .save", place)
    assert (counter.made, counter.note) == (1, "short")


def _write(marker: Path, mode: str, size: int, step: int) -> None:
    with open(marker, mode, buffering=0) as file:
        for at in range(0, size, step):
            file.write(b"x" * min(step, size - at))


@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "r+b"])
def test_a_note_of_just_the_limit_is_kept(mode: str, place: Path, counter: Counter) -> None:
    with open(place / ".save", mode) as file:
        file.write(b"x" * 65536)
    assert counter.made == 1
    assert counter.note == "x" * 65536


def test_what_changed_before_a_refused_note_is_in_the_next_version(
    shared: Mount, place: Path, counter: Counter
) -> None:
    (place / "model").write_text("new")
    (place / "other").write_text("first")
    (place / ".save").touch()
    (place / "model").write_text("newer")
    (place / "other").unlink()
    (place / "third").mkdir()
    assert run("head -c 100000 /dev/zero > .save", place).returncode != 0
    (place / "fourth").touch()
    (place / ".save").touch()
    assert counter.made == 2
    shared.sync()
    saved = shared.root / ".versions" / str(counter.version) / place.name
    assert (saved / "model").read_text() == "newer"
    assert sorted(os.listdir(saved)) == ["fourth", "model", "third"]


# fsync


def test_sync_of_the_marker_waits_until_the_version_can_be_listed(shared: Mount, place: Path, counter: Counter) -> None:
    (place / "model").write_bytes(os.urandom(3_000_000))
    ran("touch .save; sync .save", place)
    assert shared.marker()["state"] == "durable"
    assert str(counter.version) in os.listdir(shared.root / ".versions")
    assert counter.made == 1


def test_fsync_of_a_reading_handle_makes_no_version(shared: Mount, place: Path, counter: Counter) -> None:
    (place / ".save").touch()
    fd = os.open(place / ".save", os.O_RDONLY)
    os.fsync(fd)
    assert shared.marker()["state"] == "durable"
    os.close(fd)
    assert counter.made == 1


def test_fsync_ends_an_unfinished_touch(shared: Mount, place: Path, counter: Counter) -> None:
    fd = os.open(place / ".save", os.O_WRONLY)
    os.write(fd, b"step=9")
    os.fsync(fd)
    state = shared.marker()
    assert (state["state"], state["note"]) == ("durable", {"step": 9})
    (place / "model").write_text("changed after the fsync")
    os.close(fd)
    assert counter.made == 1


def test_writing_on_after_fsync_makes_a_further_version(place: Path, counter: Counter) -> None:
    fd = os.open(place / ".save", os.O_WRONLY)
    os.write(fd, b"a")
    os.fsync(fd)
    os.write(fd, b"b")
    os.close(fd)
    assert (counter.made, counter.note) == (2, "ab")


def test_open_write_fsync_close_is_one_version_while_others_change_files(place: Path, counter: Counter) -> None:
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            (place / "busy").write_bytes(b"%d" % number)
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for turn in range(5):
            fd = os.open(place / ".save", os.O_WRONLY)
            os.write(fd, b"turn=%d" % turn)
            os.fsync(fd)
            os.close(fd)
            assert (counter.made, counter.note) == (turn + 1, {"turn": turn})
    finally:
        over.set()
        thread.join(30)


def test_sync_by_others_does_not_split_a_touch(shared: Mount, place: Path, counter: Counter) -> None:
    line = "for i in $(seq 20); do sync .save || exit 1; done"
    syncing = subprocess.Popen(["bash", "-c", line], cwd=shared.root)
    for number in range(40):
        (place / "model").write_text(str(number))
        ran(f"echo turn={number} > .save", place)
        assert (counter.made, counter.note) == (number + 1, {"turn": number})
    assert syncing.wait(60) == 0


def test_sync_of_the_very_marker_that_is_touched_loses_no_note(shared: Mount, place: Path, counter: Counter) -> None:
    # the kernel holds closes of a file back while it is being synced: an unfinished touch may then be two versions
    syncing = subprocess.Popen(["bash", "-c", "for i in $(seq 10); do sync .save || exit 1; done"], cwd=place)
    for number in range(20):
        ran(f"echo turn={number} > .save", place)
        assert counter.note == {"turn": number}
    assert syncing.wait(60) == 0
    assert 20 <= counter.made <= 30


# what does not save


def test_removing_the_marker_does_nothing(place: Path, counter: Counter) -> None:
    ran("rm .save; rm -f .save; unlink .save; test -e .save", place)
    os.remove(place / ".save")
    (place / ".save").unlink()
    assert (place / ".save").exists()
    assert counter.made == 0


def test_changing_the_markers_mode_and_owner_does_nothing(place: Path, counter: Counter) -> None:
    ran("chmod 600 .save; chmod +x .save; chown 1:1 .save; chgrp 5 .save", place)
    assert (place / ".save").stat().st_mode & 0o777 == 0o644
    assert counter.made == 0


@pytest.mark.parametrize("name", [".status", ".restore", ".save", ".versions"])
def test_reserved_names_are_not_listed_but_can_be_looked_up(name: str, shared: Mount) -> None:
    assert name not in os.listdir(shared.root)
    assert name not in ran("ls -a; find . -maxdepth 1", shared.root)
    assert (shared.root / name).exists()


@pytest.mark.parametrize("name", [".status", ".restore", ".save", ".versions"])
def test_reserved_names_cannot_be_taken(name: str, shared: Mount, place: Path, counter: Counter) -> None:
    taken = shared.root / name
    for attempt in (
        lambda: taken.mkdir(),
        lambda: taken.symlink_to("x"),
        lambda: taken.hardlink_to(place / "model"),
        lambda: os.mkfifo(taken),
        lambda: taken.rename(place / "x"),
        lambda: place.rename(taken),
    ):
        with pytest.raises(OSError) as raised:
            attempt()
        assert errno.errorcode[raised.value.errno] in {"EEXIST", "EPERM", "EISDIR", "EROFS", "ENOTDIR", "ENOTEMPTY"}
    assert counter.made == 0
    assert (place / "model").exists()


def test_only_regular_files_can_become_a_note(place: Path, counter: Counter) -> None:
    (place / "link").symlink_to("model")
    os.mkfifo(place / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(OSError) as raised:
            os.rename(place / name, place / ".save")
        assert raised.value.errno == errno.EINVAL
    assert counter.made == 0
    assert sorted(os.listdir(place)) == ["fifo", "link", "model"]


def test_rm_rf_of_everything_works(mount: Mounts) -> None:
    made = mount()
    ran("mkdir -p a/b c; touch a/f a/b/g c/h top; touch a/.save a/b/.save; ls a/.save; rm -rf *", made.root)
    assert os.listdir(made.root) == []
    (made.root / "d" / "e").mkdir(parents=True)
    (made.root / "d" / "e" / ".save").touch()
    shutil.rmtree(made.root / "d")
    assert os.listdir(made.root) == []
    ran("find . -mindepth 1 -delete", made.root)


# mounts that cannot save


def test_read_only_mount_refuses_every_touch(mount: Mounts) -> None:
    writing = mount()
    (writing.root / "model").write_text("x")
    writing.save("first")
    assert writing.unmount() == 0
    reading = mount(name="reading", cache="reading-cache", read_only=True)
    marker = reading.root / ".save"
    for attempt in (
        marker.touch,
        lambda: os.utime(marker),
        lambda: marker.write_text("x"),
        lambda: marker.open("x"),
        lambda: os.rename(reading.root / "model", marker),
        lambda: os.truncate(marker, 0),
        lambda: (reading.root / ".restore").write_text("1"),
    ):
        with pytest.raises(OSError) as raised:
            attempt()
        assert raised.value.errno == errno.EROFS
    assert run("touch .save", reading.root).returncode != 0
    assert json.loads(marker.read_text())["version"] == 1
    fd = os.open(marker, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@pytest.mark.s3
def test_touches_on_s3_make_one_version_each(mount: Mounts, bucket: str, tmp_path: Path) -> None:
    made = mount(bucket)
    (tmp_path / "text").write_text("moved")
    lines = [
        "touch .save",
        ": > .save",
        "echo note > .save",
        f"mv {tmp_path}/text .save",
        "sync .save; touch -c .save; sync .save",
    ]
    for number, line in enumerate(lines, 1):
        (made.root / "model").write_bytes(os.urandom(100_000))
        ran(line, made.root)
        assert made.marker()["version"] == number
    assert made.marker()["state"] == "durable"
    assert sorted(os.listdir(made.root / ".versions")) == ["1", "2", "3", "4", "5", "latest"]


@pytest.mark.parametrize("name", [".save", ".status"])
def test_who_looks_whether_a_version_is_durable_does_not_wait_until_more_are_gathered(
    mount: Mounts, tmp_path: Path, name: str
) -> None:
    # for ever, so that nothing but a look can have ended it
    patch = "import ckptfs.transfer.gathering as gathering\ngathering._WITHIN_S = gathering.GATHERED_S = 1e6\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(patch)
    made = mount(env={"PYTHONPATH": os.fspath(tmp_path / "site")})

    def state(number: int) -> str | None:
        found = json.loads((made.root / name).read_bytes())
        newest = found if name == ".save" else found["newest"]
        return newest["state"] if newest["version"] == number else None

    for number in range(1, 9):
        touch(made.root)
        wait_until(lambda number=number: state(number) == "durable", 20, "it is durable")  # type: ignore[misc]
    number = 8
    while not os.listdir(made.cache / "pending"):
        # the last look at the one before may come late, and hurry this one
        assert number < 12, "nothing is gathered"
        touch(made.root)
        time.sleep(0.5)
        number += 1
    wait_until(lambda: state(number) == "durable", 20, "it is durable")
