"""What versions of a watched directory hold, and what becomes of it when a watch begins, restores or ends."""

import errno
import mmap
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from ckptfs.client import checkpoint, place
from ckptfs.errors import InvalidInputError, MountError, NoSuchVersionError
from ckptfs.store.open import open_store
from ckptfs.transfer.restore import restore
from ckptfs.versions.history import open_history
from ckptfs.versions.leasing import read_lease
from ckptfs.versions.prune import Pruner
from ckptfs.versions.retention import Retention
from ckptfs.versions.retry import Retry
from ckptfs.watch_table import is_alive, watch_at, watches
from tests.mounting import wait_until
from tests.snapshot import Snapshot, snapshot
from tests.watching import CONTROL, Watches, WatchFailedError, Watching, is_of_watch


def of_directory(watching: Watching) -> Snapshot:
    """What is in versions: all but the watch's own files, and the times that these gave the directory."""
    # they are written anew all the time
    held = snapshot(watching.root, skips=lambda path: is_of_watch(Path(os.fsdecode(path))))
    return held | {b"": held[b""]._replace(mtime_ns=0)}


def of_version(watching: Watching, number: int, target: Path) -> Snapshot:
    """What a version is restored to, by way of the store alone."""
    store = open_store(watching.store)
    history = open_history(store)
    restore(history, store, history.resolve(number), target)
    store.close()
    held = snapshot(target)
    return {**held, b"": held[b""]._replace(mtime_ns=0)}


def prune(watching: Watching) -> list[int]:
    """Keep one version if it may be; return which are dropped."""
    store = open_store(watching.store)
    dropped = Pruner(open_history(store), Retry(), host="cleaner", pid=1).prune(Retention(keep_last=1)).dropped
    store.close()
    return dropped


def change(root: Path, dice: random.Random) -> None:
    """Do one thing to a directory, also such as times alone do not tell of."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not is_of_watch(path))
    what = dice.randrange(12) if files else 0
    chosen = dice.choice(files) if files else root / "first"
    new = root / dice.choice(["", "a", "a/b", "c"]) / f"f{dice.randrange(20)}"
    new.parent.mkdir(parents=True, exist_ok=True)
    if what < 3:
        new.unlink(missing_ok=True)
        new.write_bytes(dice.randbytes(dice.randrange(100_000)))
    elif what == 3:
        # of the same size, and with the time set back
        status = chosen.stat()
        with chosen.open("r+b") as file:
            file.write(dice.randbytes(min(10, status.st_size)))
        os.utime(chosen, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif what == 4:
        chosen.rename(new)
    elif what == 5:
        new.unlink(missing_ok=True)
        new.hardlink_to(chosen)
    elif what == 6:
        new.unlink(missing_ok=True)
        new.symlink_to("nowhere")
    elif what == 7:
        chosen.chmod(dice.choice([0o600, 0o640, 0o755]))
    elif what == 8:
        os.setxattr(chosen, "user.mark", dice.randbytes(5))
    elif what == 9:
        chosen.unlink()
    elif what == 10:
        with chosen.open("ab") as file:
            file.write(b"more")
            file.truncate(file.tell() + dice.randrange(50_000))
    else:
        new.with_name(f"d{dice.randrange(5)}").mkdir(exist_ok=True)


def test_every_version_is_what_the_directory_held(watch: Watches) -> None:
    dice = random.Random(20261126)
    watching = watch.prepare()
    (watching.root / "there before").write_bytes(b"content of the first version")
    watching.start()
    held = []
    with (watching.root / "mapped").open("w+b") as file:
        file.truncate(3 * mmap.PAGESIZE)
        with mmap.mmap(file.fileno(), 0) as mapped:
            for step in range(8):
                for _ in range(dice.randrange(1, 12)):
                    change(watching.root, dice)
                # a store into a page that is dirty already moves no time
                mapped[step] = 65 + step
                assert watching.save(f"step={step}") == step + 1
                held.append(of_directory(watching))
    watching.save(sync=True)
    assert "there before" in watching.files() or held[0]
    for step, tree in enumerate(held):
        assert of_version(watching, step + 1, watch.directory / f"version-{step}") == tree


def _write_all_the_time(path: str) -> None:
    generation = 0
    with open(path, "r+b", buffering=0) as file:
        while True:
            generation = (generation + 1) % 256
            file.seek(0)
            for _ in range(64):
                file.write(bytes([generation]) * (64 << 10))


def test_a_file_that_never_holds_still_is_whole_or_said_to_be_torn(watch: Watches) -> None:
    watching = watch()
    path = watching.root / "busy"
    path.write_bytes(bytes(4 << 20))
    writer = multiprocessing.get_context("spawn").Process(target=_write_all_the_time, args=(str(path),))
    writer.start()
    try:
        wait_until(lambda: path.read_bytes()[:1] != b"\0", 60, "it is written to")
        for _ in range(3):
            number = watching.save(sync=True)
            (answer,) = (each for each in watching.answers()["answers"] if each["version"] == number)
            of_version(watching, number, target := watch.directory / f"version-{number}")
            content = (target / "busy").read_bytes()
            assert len(content) == 4 << 20
            # two generations: between two writes of one round, which is what a read would return as well
            rounds = len({content[at] for at in range(0, len(content), 64 << 10)})
            assert rounds <= 2 or answer["torn"] == 1
    finally:
        writer.kill()
        writer.join()
    number = watching.save(sync=True)
    assert watching.answers()["answers"][-1]["torn"] == 0, "it holds still now"


def _replace_all_the_time(directory: str) -> None:
    generation = 0
    while True:
        generation = (generation + 1) % 256
        for name in ("model", "linked"):
            Path(directory, "new").write_bytes(bytes([generation]) * 300_000)
            Path(directory, "other").unlink(missing_ok=True)
            Path(directory, "other").hardlink_to(Path(directory, "new"))
            Path(directory, "new").rename(Path(directory, name))
        Path(directory, "link").unlink(missing_ok=True)
        Path(directory, "link").symlink_to("model")


def test_a_file_that_is_replaced_all_the_time_is_whole_in_every_version(watch: Watches) -> None:
    watching = watch()
    writer = multiprocessing.get_context("spawn").Process(target=_replace_all_the_time, args=(str(watching.root),))
    writer.start()
    try:
        wait_until(lambda: (watching.root / "link").is_symlink(), 60, "it has begun")
        for _ in range(5):
            number = watching.save(sync=True)
            of_version(watching, number, target := watch.directory / f"version-{number}")
            for name in ("model", "linked"):
                content = (target / name).read_bytes() if (target / name).exists() else b""
                assert len(set(content)) <= 1, name
    finally:
        writer.kill()
        writer.join()


def test_what_was_captured_survives_kill_9_and_what_was_not_is_set_aside(watch: Watches) -> None:
    watching = watch(drain_timeout_s=1.0)
    (watching.root / "sub").mkdir()
    (watching.root / "sub/model").write_bytes(b"one")
    (watching.root / "kept").write_bytes(b"kept")
    assert watching.save(sync=True) == 1
    store = watch.directory / "store"
    store.rename(store.with_name("away"))
    (watching.root / "sub/model").write_bytes(b"two")
    assert watching.save("step=2") == 2
    (watching.root / "sub/model").write_bytes(b"never saved")
    (watching.root / "half").write_bytes(b"half a checkpoint")
    watching.kill()
    assert not is_alive(watching.root)
    with pytest.raises(MountError, match="nobody watches"):
        watching.save()
    store.with_name("away").rename(store)
    watching.start()
    assert watching.files() == {"sub/model": b"two", "kept": b"kept"}
    assert (watching.version(), watching.status()["set_aside_files"]) == (2, 2)
    (aside,) = watching.cache.glob("unsaved/*")
    assert (aside / "sub/model").read_bytes() == b"never saved"
    assert (aside / "half").read_bytes() == b"half a checkpoint"
    assert watching.save() == 3
    # what it ends with is in the store, and what another directory begins with
    watching.terminate()
    assert set(os.listdir(watching.root)) == {"sub", "kept"}
    other = watch("other", "other-cache")
    assert other.files() == watching.files()
    assert other.status()["restored"] == 3


def test_what_is_adopted_stays_where_it_is_and_is_saved_and_so_is_what_was_touched_meanwhile(watch: Watches) -> None:
    watching = watch()
    (watching.root / "model").write_bytes(b"one")
    assert watching.save(sync=True) == 1
    watching.kill()
    # the one may be written before or after the other
    os.utime(watching.root / ".save.status", ns=(0, (watching.root / ".save").stat().st_mtime_ns - 1))
    (watching.root / "model").write_bytes(b"two")
    (watching.root / "new").write_bytes(b"new")
    watching.start(adopt=True)
    assert watching.files() == {"model": b"two", "new": b"new"}
    assert watching.version() == 1
    assert watching.save(sync=True) == 2
    watching.kill()
    (watching.root / "new").unlink()
    (watching.root / ".save").touch()
    watching.start(adopt=True)
    watching.wait_version(3)
    assert watching.save(sync=True) == 4
    assert list(of_version(watching, 3, watch.directory / "version-3")) == [b"", b"model"]
    # an orderly end as well
    watching.terminate()
    (watching.root / "model").write_bytes(b"three")
    watching.start(adopt=True)
    assert watching.files() == {"model": b"three"}
    assert not list(watching.cache.glob("unsaved/*"))


def test_a_directory_that_was_made_anew_is_not_adopted_as_one_in_which_all_was_deleted(watch: Watches) -> None:
    watching = watch(adopt=True)
    (watching.root / "model").write_bytes(b"one")
    watching.save(sync=True)
    watching.kill()
    shutil.rmtree(watching.root)
    watching.root.mkdir()
    watching.start()
    assert watching.files() == {"model": b"one"}


def test_what_lies_in_a_directory_that_becomes_a_version_is_not_lost(watch: Watches) -> None:
    first = watch()
    (first.root / "name").mkdir()
    (first.root / "name/file").write_bytes(b"saved")
    (first.root / "same").write_bytes(b"same")
    first.save(sync=True)
    first.terminate()
    other = watch.prepare("other")
    (other.root / "name").write_bytes(b"a file where a directory is to be")
    (other.root / "same").write_bytes(b"same")
    (other.root / "own").mkdir()
    (other.root / "own/notes").write_bytes(b"somebody's notes")
    other.start()
    assert other.files() == {"name/file": b"saved", "same": b"same"}
    (aside,) = other.cache.glob("unsaved/*")
    kept = {path.relative_to(aside).as_posix(): path.read_bytes() for path in aside.rglob("*") if path.is_file()}
    assert kept == {"name": b"a file where a directory is to be", "own/notes": b"somebody's notes"}


def test_a_restore_keeps_what_was_not_saved_and_the_next_version_is_what_it_restored(watch: Watches) -> None:
    watching = watch()
    saved = checkpoint(watching.root / "run")
    (saved.directory / "model").write_bytes(b"one")
    (saved.directory / "old").write_bytes(b"old")
    assert saved.save({"step": 1}, wait=True).number == 1
    (saved.directory / "model").write_bytes(b"two")
    (saved.directory / "old").unlink()
    assert saved.save({"step": 2}).wait().state == "durable"
    (saved.directory / "model").write_bytes(b"never saved")
    with pytest.raises(NoSuchVersionError):
        saved.load(7)
    assert saved.load(1) == watching.root / "run"
    assert watching.files() == {"run/model": b"one", "run/old": b"old"}
    assert int((watching.root / ".restore").read_text()) == 2
    assert [path.read_bytes() for path in watching.cache.glob("unsaved/*/run/model")] == [b"never saved"]
    held = of_directory(watching)
    # what it restored is not pruned before that is saved
    assert prune(watching) == []
    assert saved.save(wait=True).number == 3
    assert of_version(watching, 3, watch.directory / "version-3") == held
    assert prune(watching) == [1, 2]
    saved.load("latest")
    assert watching.files() == {"run/model": b"one", "run/old": b"old"}


def test_the_newest_version_can_be_asked_for_by_the_number_that_is_there_already(watch: Watches) -> None:
    watching = watch()
    model, asked = watching.root / "model", watching.root / ".restore"
    model.write_bytes(b"saved")
    watching.save(sync=True)
    watching.terminate()
    watching.start()
    model.write_bytes(b"never saved")
    asked.write_text(f"{int(asked.read_text())}\n")
    wait_until(lambda: watching.status()["restore"] is not None, 30, "it is answered")
    assert (watching.status()["restore"]["version"], model.read_bytes()) == (1, b"saved")
    # a program that begins again
    model.write_bytes(b"half writt")
    checkpoint(watching.root).load()
    assert model.read_bytes() == b"saved"
    # a touch without text asks for nothing: it is served no later than that of the marker after the next
    model.write_bytes(b"to be kept")
    os.utime(asked)
    assert (watching.save(), watching.save(), model.read_bytes()) == (2, 3, b"to be kept")


def test_a_program_that_asks_for_no_version_is_told_so_and_does_not_wait_for_ever(watch: Watches) -> None:
    watching = watch()
    model = watching.root / "model"
    model.write_bytes(b"saved")
    saved = checkpoint(watching.root)
    saved.save(wait=True)
    model.write_bytes(b"never saved")
    for nothing in ("", "\n", "\0"):
        with pytest.raises(InvalidInputError, match="neither a version number, nor a tag"):
            saved.load(nothing)
    assert model.read_bytes() == b"never saved"
    # what reading the marker gives
    saved.load("1 ")
    assert model.read_bytes() == b"saved"


def test_a_copy_of_the_directory_that_is_put_back_asks_for_no_restore(watch: Watches) -> None:
    watching = watch()
    (watching.root / "model").write_bytes(b"old")
    watching.save(sync=True)
    wait_until(lambda: (watching.root / ".restore").read_text() == "1 \n", 30, "reading it gives the newest version")
    shutil.copytree(watching.root, copy := watch.directory / "copy")
    (watching.root / "model").write_bytes(b"new")
    (watching.root / "more").write_bytes(b"saved")
    watching.save(sync=True)
    (watching.root / "unsaved").write_bytes(b"never saved")
    (copy / "model").unlink()
    shutil.copytree(copy, watching.root, dirs_exist_ok=True)
    # the copy of the marker is a touch, and this is another
    assert watching.save() >= 3
    wait_until(lambda: (watching.root / ".restore").read_text() == f"{watching.version()} \n", 30, "it was taken")
    assert watching.files() == {"model": b"new", "more": b"saved", "unsaved": b"never saved"}
    assert watching.status()["restore"] is None


def test_who_waits_for_a_watch_that_was_killed_is_told_and_knows_what_its_versions_were(
    watch: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = watch()
    saved = checkpoint(watching.root)
    versions = [saved.save({"step": step}, wait=True) for step in (1, 2)]
    assert [(version.state, version.note) for version in versions] == [("durable", {"step": step}) for step in (1, 2)]
    store = Path(watching.store.removeprefix("file://"))
    store.rename(store.with_name("away"))
    third = saved.save({"step": 3})
    watching.kill()
    monkeypatch.setattr(place, "_STALE_S", 0.0)
    for call in (third.wait, saved.save, saved.info, lambda: checkpoint(watching.root)):
        with pytest.raises(MountError, match="nobody watches"):
            call()


def test_a_writer_that_was_taken_over_can_save_no_more_and_says_so(watch: Watches) -> None:
    watching = watch()
    (watching.root / "model").write_bytes(b"one")
    watching.save(sync=True)
    other = watch("other", "other-cache", takeover=True)
    assert other.files() == {"model": b"one"}
    (watching.root / "model").write_bytes(b"two")
    # it learns of it with the next commit
    with pytest.raises(OSError, match=r"another writer|taken over|took"):
        watching.save(sync=True)
    with pytest.raises(OSError, match=r"another writer|taken over|took") as caught:
        watching.save()
    assert caught.value.errno == errno.EROFS
    assert watching.status()["fenced"]
    assert other.save() == 2


def test_a_program_that_removes_all_that_it_finds_goes_on_saving(watch: Watches) -> None:
    watching = watch()
    (watching.root / "model").write_bytes(b"one")
    watching.save()
    for path in watching.root.iterdir():
        path.unlink(missing_ok=True)
    wait_until(lambda: set(os.listdir(watching.root)) >= CONTROL, 20, "they are there again")
    (watching.root / "model").write_bytes(b"two")
    assert watching.save() == 2


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_watch_ends_with_an_error_when_its_directory_is_removed_and_saves_nothing_of_it(
    watch: Watches, is_made_anew: bool
) -> None:
    watching = watch(save_on_exit=True)
    (watching.root / "model").write_bytes(b"one")
    watching.save(sync=True)
    (watching.root / "model").write_bytes(b"never saved")
    # not rmtree, under which the watch would put its files there again
    watching.root.rename(watching.root.with_name("away"))
    if is_made_anew:
        watching.root.mkdir()
    assert watching.wait_ended() == 1
    assert "was removed, or another is in its place" in watching.log
    assert "Traceback" not in watching.log
    assert watch_at(watching.root) is None
    watching.root.mkdir(exist_ok=True)
    watching.start()
    assert (watching.version(), watching.files()) == (1, {"model": b"one"})


def test_one_directory_has_one_watch_and_one_store_one_writer(watch: Watches) -> None:
    watching = watch()
    with pytest.raises(WatchFailedError, match="is watched already"):
        watch.prepare(cache="other-cache").start()
    held = watch.prepare("other")
    # as a watch that was killed leaves it: nobody is to take the directory for ready before it is
    shutil.copy(watching.root / ".status", held.root / ".status")
    with pytest.raises(WatchFailedError, match="is mounted read-write by"):
        held.start()
    assert watch_at(held.root) is None
    assert [found.directory for found in watches() if found.pid == watching.pid] == [watching.root]
    below = watch_at(watching.root / "anywhere/below")
    assert below is not None
    assert (below.directory, below.store) == (watching.root, watching.store)
    assert watch_at(watch.directory) is None


def test_what_is_not_durable_when_it_ends_is_said_and_finished_by_the_next(watch: Watches) -> None:
    watching = watch(drain_timeout_s=0.5, save_on_exit=True)
    store = watch.directory / "store"
    store.rename(store.with_name("away"))
    (watching.root / "model").write_bytes(b"one")
    assert watching.terminate() == 1
    assert "ended with 1 version(s) not durable" in watching.log
    store.with_name("away").rename(store)
    (watching.root / "model").unlink()
    watching.start()
    assert watching.files() == {"model": b"one"}
    assert watching.answers()["durable"] == 1
    started_s = time.monotonic()
    assert watching.terminate() == 0
    assert time.monotonic() - started_s < 30


def test_a_watch_that_nobody_waits_for_any_more_gives_directory_and_store_back(watch: Watches) -> None:
    watching = watch.prepare()
    watching.start_for_nobody()
    assert watching.wait_ended() == 1
    assert os.listdir(watching.root) == []
    store = open_store(watching.store)
    lease = read_lease(store, Retry())
    store.close()
    assert lease is not None
    assert not lease.held
