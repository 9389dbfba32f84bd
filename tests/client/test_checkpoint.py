"""What a program gets from `ckptfs.checkpoint`, on a real mount."""

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ckptfs
from ckptfs.client import marker
from ckptfs.errors import (
    FencedError,
    InvalidInputError,
    MountError,
    NoSuchVersionError,
    NotDurableError,
    NoteTooLargeError,
    ReadOnlyError,
)
from tests.fs.conftest import TRANSPORTS
from tests.mounting import Mount, Mounts


@pytest.fixture
def fresh(mount: Mounts) -> Mount:
    return mount()


def test_it_saves_lists_and_loads_versions(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    assert (checkpoint.directory, checkpoint.is_loaded) == (fresh.root, False)
    assert (checkpoint.latest, checkpoint.list()) == (None, [])
    model = checkpoint.directory / "model"
    model.write_text("one")
    first = checkpoint.save({"step": 100, "loss": 0.5})
    model.write_text("two")
    second = checkpoint.save("the best so far", wait=True)
    assert (first.number, second.number, checkpoint.list()) == (1, 2, [second, first])
    assert (first.state, second.state) == ("durable", "durable")
    assert (first.note, second.note) == ({"step": 100, "loss": 0.5}, "the best so far")
    assert (first.path / "model").read_text() == "one"
    assert checkpoint.load(1) == checkpoint.directory
    assert model.read_text() == "one"
    assert checkpoint.load() == checkpoint.directory
    assert model.read_text() == "two"
    assert checkpoint.load(first).joinpath("model").read_text() == "one"
    assert (checkpoint.latest, checkpoint.info()["version"], checkpoint.is_loaded) == (second, 2, True)


def test_a_later_program_goes_on_from_the_newest_version_and_not_from_what_was_half_written(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    (checkpoint.directory / "model").write_text("whole")
    checkpoint.save()
    (checkpoint.directory / "model").write_text("ha")  # and it is killed
    (checkpoint.directory / "rest").write_text("lf")
    later = ckptfs.checkpoint(fresh.root)
    assert later.is_loaded
    later.load()
    assert [(path.name, path.read_text()) for path in later.directory.iterdir()] == [("model", "whole")]


def test_a_directory_below_is_made_and_its_versions_are_those_of_the_whole_mount(fresh: Mount) -> None:
    (fresh.root / "beside").write_text("beside")
    checkpoint = ckptfs.checkpoint(fresh.root / "runs" / "7")
    (checkpoint.directory / "model").write_text("one")
    version = checkpoint.save(wait=True)
    assert version.path == fresh.root / ".versions" / "1" / "runs" / "7"
    assert (version.path / "model").read_text() == "one"
    assert (fresh.root / ".versions" / "1" / "beside").read_text() == "beside"
    assert ckptfs.checkpoint(fresh.root / "runs" / "7").is_loaded
    assert not ckptfs.checkpoint(fresh.root / "runs" / "8").is_loaded


def test_a_directory_that_was_made_but_never_saved_has_no_version_to_go_on_from(fresh: Mount) -> None:
    other = ckptfs.checkpoint(fresh.root / "other")
    (other.directory / "model").write_text("one")
    other.save(wait=True)
    for _ in range(2):  # the program that made it was killed, and starts again
        assert not ckptfs.checkpoint(fresh.root / "run").is_loaded
    other.save(wait=True)  # with the other's directory, which is empty
    assert not ckptfs.checkpoint(fresh.root / "run").is_loaded
    (fresh.root / "run" / "model").write_text("one")
    other.save(wait=True)
    assert ckptfs.checkpoint(fresh.root / "run").is_loaded


def test_a_version_tells_what_becomes_of_it_and_waits_no_longer_than_asked(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    (checkpoint.directory / "model").write_bytes(os.urandom(1000))
    checkpoint.save(wait=True)
    upload = fresh.upload_pid()
    assert upload is not None
    os.kill(upload, signal.SIGSTOP)
    try:
        (checkpoint.directory / "model").write_bytes(os.urandom(1000))
        version = checkpoint.save()
        assert version.state in ("captured", "uploading")
        with pytest.raises(NotDurableError, match=r"version 2 is not durable after 0\.1 s"):
            version.wait(0.1)
        assert checkpoint.list()[0] == version
    finally:
        os.kill(upload, signal.SIGCONT)
    assert version.wait(30) is version
    assert version.state == "durable"


def _save_often(root: Path, who: int, results: "multiprocessing.Queue[tuple[int, int, int]]") -> None:
    checkpoint = ckptfs.checkpoint(root)
    for step in range(10):
        (checkpoint.directory / f"model-{who}").write_text(str(step))
        results.put((who, step, checkpoint.save({"who": who, "step": step}).number))


@pytest.fixture(params=TRANSPORTS)
def through(request: pytest.FixtureRequest, mount: Mounts) -> Mount:
    return mount(transport=request.param)


def test_programs_that_save_at_once_each_know_their_own_version(through: Mount) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    savers = [context.Process(target=_save_often, args=(through.root, who, results)) for who in range(3)]
    for saver in savers:
        saver.start()
    saved = [results.get(timeout=60) for _ in range(30)]
    for saver in savers:
        saver.join(60)
    through.sync()
    checkpoint = ckptfs.checkpoint(through.root)
    assert sorted(number for _, _, number in saved) == [version.number for version in checkpoint.list()][::-1]
    assert {number: (who, step) for who, step, number in saved} == {
        version.number: (version.note["who"], version.note["step"])
        for version in checkpoint.list()
        if isinstance(version.note, dict)
    }


def test_threads_that_save_at_once_each_know_their_own_version(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "threads")
    made: dict[int, int] = {}

    def save(who: int) -> None:
        (checkpoint.directory / str(who)).write_text("written")
        made[who] = checkpoint.save({"who": who}).number

    threads = [threading.Thread(target=save, args=(who,)) for who in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.sync()
    assert {version.number: version.note for version in checkpoint.list()[:5]} == {
        number: {"who": who} for who, number in made.items()
    }


def test_a_version_is_known_also_when_another_server_takes_over_in_between(fresh: Mount) -> None:
    if fresh.status()["transport"] != "passthrough":
        pytest.skip("a mount through libfuse ends with its server")
    (fresh.root / "model").write_text("one")
    fd = os.open(fresh.root / ".save", os.O_RDWR)
    os.write(fd, b"step=1")
    os.close(os.dup(fd))
    fresh.kill_server()
    assert b'"version": 1, "state": "captured", "note": {"step": 1}' in os.pread(fd, 1000, 0)
    os.close(fd)
    assert ckptfs.checkpoint(fresh.root).list()[0].wait(30).number == 1


def test_what_comes_from_elsewhere_is_part_of_the_version_under_its_name(shared: Mount, tmp_path: Path) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "from elsewhere")
    model, folder = tmp_path / "model.bin", tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for number in (1, 2):
        model.write_text(f"model {number}")
        (folder / "deep" / f"file-{number}").write_text(f"file {number}")
        (folder / "deep" / f"file-{number - 1}").unlink(missing_ok=True)
        checkpoint.save(path=model)
        version = checkpoint.save(path=folder, wait=True)
        found = {path.relative_to(version.path).as_posix() for path in version.path.rglob("*")}
        assert found == {"model.bin", "folder", "folder/deep", f"folder/deep/file-{number}"}
        assert (version.path / "model.bin").read_text() == f"model {number}"
    (checkpoint.directory / "own").write_text("in the mount already")
    assert (checkpoint.save(path=checkpoint.directory / "own", wait=True).path / "own").exists()
    with pytest.raises(InvalidInputError, match="does not exist"):
        checkpoint.save(path=tmp_path / "nothing")


def test_a_directory_that_the_mount_is_in_is_not_copied_into_it(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "holds")
    for above in (shared.root.parent, Path("/")):
        with pytest.raises(InvalidInputError, match="itself, so it cannot be copied into it"):
            checkpoint.save(path=above)
    with pytest.raises(InvalidInputError, match="'' does not exist"):
        checkpoint.save(path="")  # of a variable that is not set, and not the working directory
    assert list(checkpoint.directory.iterdir()) == []


def test_a_marker_among_what_comes_from_elsewhere_makes_no_version(shared: Mount, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    for name in (".save", "model"):
        (tmp_path / "watched" / name).write_text("step=1")
    checkpoint = ckptfs.checkpoint(shared.root / "marked")
    before = checkpoint.save().number
    assert checkpoint.save(path=tmp_path / "watched").number == before + 1
    assert os.listdir(checkpoint.directory / "watched") == ["model"]
    with pytest.raises(InvalidInputError, match="reserved"):
        checkpoint.save(path=tmp_path / "watched" / ".save")
    assert checkpoint.save().number == before + 2


KILLED = """
import os, sys, ckptfs
from ckptfs.client import incoming
place, name = {"copying": (incoming.shutil, "copytree"), "replacing": (incoming.os, "rename")}[sys.argv[3]]
was = getattr(place, name)
def then_die(*arguments, **options):
    was(*arguments, **options)
    os.kill(os.getpid(), 9)
setattr(place, name, then_die)
ckptfs.checkpoint(sys.argv[1]).save(path=sys.argv[2])
"""


@pytest.mark.parametrize("when", ["copying", "replacing"])
def test_what_a_program_left_that_was_killed_in_a_copy_is_cleared_away_by_the_next(
    shared: Mount, tmp_path: Path, when: str
) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / f"killed {when}")
    (checkpoint.directory / "folder").mkdir()
    (checkpoint.directory / "folder" / "model").write_text("before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model").write_text("then")
    (tmp_path / "other").write_text("other")
    arguments = [sys.executable, "-c", KILLED, checkpoint.directory, tmp_path / "folder", when]
    assert subprocess.run(arguments, timeout=60).returncode == -9
    assert any(name.startswith(".ckptfs-incoming-") for name in os.listdir(checkpoint.directory))
    checkpoint.save(path=tmp_path / "other")
    assert sorted(os.listdir(checkpoint.directory)) == ["folder", "other"]
    assert (checkpoint.directory / "folder" / "model").read_text() == "before"


def test_programs_that_copy_at_once_do_not_clear_away_each_other_s(shared: Mount, tmp_path: Path) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "copies")
    names = [f"folder-{number}" for number in range(4)]

    def save(name: str) -> None:
        for number in range(5):
            (tmp_path / name / str(number)).mkdir(parents=True)
            checkpoint.save(path=tmp_path / name)

    with ThreadPoolExecutor(len(names)) as threads:
        list(threads.map(save, names))
    assert {
        name: len(os.listdir(checkpoint.directory / name)) for name in os.listdir(checkpoint.directory)
    } == dict.fromkeys(names, 5)


def test_threads_that_copy_the_same_directory_at_once_do_not_fail_by_each_other(shared: Mount, tmp_path: Path) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "one name")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "model").write_text("whole")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: checkpoint.save(path=tmp_path / "folder"), range(60)))
    assert os.listdir(checkpoint.directory) == ["folder"]
    assert sorted(os.listdir(checkpoint.directory / "folder")) == ["below", "model"]


def test_what_is_no_file_is_not_copied(shared: Mount, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInputError, match="neither a file nor a directory"):
        ckptfs.checkpoint(shared.root).save(path=tmp_path / "pipe")


def test_a_file_of_an_old_version_comes_back_under_its_name(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "again")
    (checkpoint.directory / "model").write_text("best")
    best = checkpoint.save(wait=True)
    (checkpoint.directory / "model").write_text("worse")
    checkpoint.save(path=best.path / "model")
    assert (checkpoint.directory / "model").read_text() == "best"


def test_what_cannot_be_copied_is_named_and_leaves_nothing_behind(shared: Mount, tmp_path: Path) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "no pipes")
    (tmp_path / "folder").mkdir()
    for name in ("a pipe", "another"):
        os.mkfifo(tmp_path / "folder" / name)
    before = checkpoint.latest
    with pytest.raises(InvalidInputError, match=r"cannot be copied: .* is a named pipe, and 1 more"):
        checkpoint.save(path=tmp_path / "folder")
    assert (checkpoint.latest, os.listdir(checkpoint.directory)) == (before, [])


def test_a_symlink_of_the_same_name_is_replaced_by_the_directory(shared: Mount, tmp_path: Path) -> None:
    checkpoint = ckptfs.checkpoint(shared.root / "a link")
    (tmp_path / "folder").mkdir()
    (checkpoint.directory / "folder").symlink_to(tmp_path / "folder")
    checkpoint.save(path=checkpoint.directory / "folder")
    assert os.listdir(checkpoint.directory) == ["folder"]
    assert not (checkpoint.directory / "folder").is_symlink()


def test_waiting_is_asked_for_by_place_or_by_the_name_that_threads_have_for_it(shared: Mount) -> None:
    version = ckptfs.checkpoint(shared.root).save({"step": 1}, None, True)
    assert (version.state, version.wait(timeout=30)) == ("durable", version)
    with pytest.raises(NotDurableError, match="not durable after 0 s"):
        ckptfs.checkpoint(shared.root).save().wait(timeout=0)


def test_a_child_forked_while_another_thread_saves_can_save(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root)
    with marker._one_at_a_time:  # as a thread that is saving has it
        child = multiprocessing.get_context("fork").Process(target=checkpoint.save, args=({"who": "child"},))
        child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0
    assert checkpoint.latest is not None
    assert checkpoint.latest.note == {"who": "child"}


def test_every_version_has_its_marker_which_cannot_be_touched(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    for step in (1, 2):
        checkpoint.save({"step": step}, wait=True)
    marker = fresh.root / ".versions" / "1" / ".save"
    assert marker.read_text().startswith('{"version": 1, "state": "durable", "note": {"step": 1}')
    assert marker.name not in os.listdir(marker.parent)
    for touch in (os.utime, os.truncate, lambda path, *_: os.open(path, os.O_WRONLY), lambda path, *_: os.unlink(path)):
        with pytest.raises(OSError) as caught:
            touch(marker, 0) if touch is os.truncate else touch(marker)  # type: ignore[operator]
        assert caught.value.errno == errno.EROFS
    assert not (marker.parent / "below" / ".save").exists()
    assert fresh.marker()["version"] == 2


def test_metrics_of_numpy_and_of_training_gone_wrong_are_notes(shared: Mount) -> None:
    import numpy as np

    checkpoint = ckptfs.checkpoint(shared.root)
    assert checkpoint.save({"step": np.int64(3), "loss": np.float32(0.5)}).note == {"step": 3, "loss": 0.5}
    assert checkpoint.save({"loss": float("nan")}).note == {"loss": "NaN"}
    assert checkpoint.save({"path": Path("/a"), "all": np.arange(2)}).note == {"path": "/a", "all": "[0 1]"}


def test_a_note_of_names_in_any_language_and_of_bytes_that_are_no_text_stays_an_object(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root)
    note = {"step": 1, "name": "ä" * 30_000}  # 60 KB
    assert checkpoint.save(note).note == note
    shown = checkpoint.save({"step": 2, "data": os.fsdecode(b"/d\xff"), "half": "\ud800"}).note
    assert shown == {"step": 2, "data": "/d\\xff", "half": "\\ud800"}


def test_a_note_that_is_too_long_saves_nothing(shared: Mount) -> None:
    checkpoint = ckptfs.checkpoint(shared.root)
    before = checkpoint.latest
    with pytest.raises(NoteTooLargeError):
        checkpoint.save("x" * 65537)
    with pytest.raises(InvalidInputError, match="a note is a dict or a message"):
        checkpoint.save(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="surrogates not allowed"):
        checkpoint.save("\ud800")
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"in": deep}
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        checkpoint.save(deep)
    assert checkpoint.latest == before


def test_where_there_is_no_mount_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="is not in a ckptfs mount"):
        ckptfs.checkpoint(tmp_path)
    with pytest.raises(InvalidInputError, match=r"\$CKPTFS_DIR is not set"):
        ckptfs.checkpoint()
    monkeypatch.setenv("CKPTFS_DIR", str(tmp_path / "missing"))
    with pytest.raises(InvalidInputError, match="missing is not in"):
        ckptfs.checkpoint()


def test_the_directory_may_come_from_the_environment(shared: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTFS_DIR", str(shared.root / "run"))
    assert ckptfs.checkpoint().directory == shared.root / "run"


def test_a_version_that_is_not_there_cannot_be_loaded(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    with pytest.raises(NoSuchVersionError, match="has no version yet"):
        checkpoint.load()
    checkpoint.save()
    with pytest.raises(NoSuchVersionError, match="has no version 77"):
        checkpoint.load(77)
    with pytest.raises(NoSuchVersionError, match="has no version best"):
        checkpoint.load("best")
    with pytest.raises(InvalidInputError, match="neither a version number, nor a tag"):
        checkpoint.load("no name")
    assert not checkpoint.is_loaded


def test_what_asks_for_no_version_is_refused_and_blanks_around_one_do_not_count(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root)
    model = checkpoint.directory / "model"
    for text in ("one", "two"):
        model.write_text(text)
        checkpoint.save()
    for nothing in ("", " \n", "\0"):
        with pytest.raises(InvalidInputError, match="neither a version number, nor a tag"):
            checkpoint.load(nothing)
    assert not checkpoint.is_loaded
    # what a file that was written by `echo` gives, and what reading `.restore` does
    for spec, text in (("1\n", "one"), ("2 ", "two"), ("1 \n", "one"), (" latest", "two")):
        checkpoint.load(spec)
        assert model.read_text() == text


def test_a_directory_that_was_removed_since_does_not_keep_the_mount_from_being_saved(fresh: Mount) -> None:
    checkpoint = ckptfs.checkpoint(fresh.root / "runs" / "seven")
    (fresh.root / "kept").write_text("kept")
    (checkpoint.directory / "model").write_text("gone")
    checkpoint.save()
    shutil.rmtree(fresh.root / "runs")
    without = checkpoint.save({"step": 2}, wait=True)
    assert without.note == {"step": 2}
    assert sorted(os.listdir(without.path.parents[1])) == ["kept"]
    (fresh.root / "runs").write_text("a file now")
    assert checkpoint.save().number == 3
    (fresh.root / "runs").unlink()
    assert checkpoint.save(path=__file__, wait=True).path.joinpath(Path(__file__).name).is_file()


def test_a_version_that_cannot_be_had_while_the_store_is_away_is_not_said_to_be_none(mount: Mounts) -> None:
    mounted = mount()
    checkpoint = ckptfs.checkpoint(mounted.root)
    for _ in range(2):
        first = checkpoint.save(wait=True)
    store = Path(mounted.store.removeprefix("file://"))
    store.rename(store.with_name("away"))
    with pytest.raises(NotDurableError):
        checkpoint.save().wait(1)
    with pytest.raises(MountError, match=r"version 1 cannot be loaded at .*: .* cannot be used"):
        checkpoint.load(first.number - 1)
    with pytest.raises(MountError, match=r"cannot read the versions of .*: .* cannot be used"):
        first.info()
    with pytest.raises(MountError, match=r"cannot read the versions of .*: .* cannot be used"):
        checkpoint.list()
    store.with_name("away").rename(store)
    checkpoint.load(1)


def test_a_read_only_mount_is_loaded_and_refuses_to_save(mount: Mounts) -> None:
    writer = mount(name="writer")
    (writer.root / "model").write_text("one")
    ckptfs.checkpoint(writer.root).save(wait=True)
    reader = ckptfs.checkpoint(mount(name="reader", cache="other", read_only=True).root)
    assert (reader.is_loaded, reader.list()[0].note) == (True, None)
    assert (reader.directory / "model").read_text() == "one"
    assert reader.load() == reader.directory
    with pytest.raises(ReadOnlyError, match="nothing can be saved"):
        reader.save()
    with pytest.raises(ReadOnlyError, match="no version can be loaded"):
        reader.load(2)


def test_what_comes_from_elsewhere_or_a_directory_below_is_refused_where_it_is_read_only(
    mount: Mounts, tmp_path: Path
) -> None:
    ckptfs.checkpoint(mount(name="writer").root).save(wait=True)
    reader = mount(name="reader", cache="other", read_only=True)
    (tmp_path / "model").write_text("one")
    with pytest.raises(ReadOnlyError, match="nothing can be saved"):
        ckptfs.checkpoint(reader.root).save(path=tmp_path / "model")
    with pytest.raises(InvalidInputError, match=r"cannot make .*missing a directory: Read-only"):
        ckptfs.checkpoint(reader.root / "missing").load()


def test_a_file_is_no_directory_to_save_in(shared: Mount) -> None:
    (shared.root / "a file").write_text("one")
    for directory in ("a file", "a file/below"):
        with pytest.raises(InvalidInputError, match=r"cannot make .* a directory"):
            ckptfs.checkpoint(shared.root / directory)


def test_who_waits_for_a_version_of_a_writer_that_was_taken_over_is_told_that_it_never_comes(mount: Mounts) -> None:
    old = mount(name="old")
    checkpoint = ckptfs.checkpoint(old.root)
    checkpoint.save(wait=True)
    mount(name="new", cache="other", takeover=True)
    with pytest.raises(FencedError, match="can never become durable") as caught:
        checkpoint.save(wait=True)
    assert "recover" in str(caught.value.hint)
    (checkpoint.directory / "model").write_text("changed since")
    with pytest.raises(FencedError, match="version 1 cannot be loaded"):
        checkpoint.load(1)


def test_a_version_that_was_set_aside_is_not_taken_for_that_of_another_writer_with_its_number(mount: Mounts) -> None:
    old = mount(name="old")
    checkpoint = ckptfs.checkpoint(old.root)
    checkpoint.save(wait=True)
    upload = old.upload_pid()
    assert upload is not None
    os.kill(upload, signal.SIGSTOP)
    versions = [checkpoint.save({"step": 2}), checkpoint.save({"step": 3})]
    old.kill()
    os.kill(upload, signal.SIGKILL)
    new = mount(name="new", cache="other", takeover=True)
    assert ckptfs.checkpoint(new.root).save({"by": "another"}, wait=True).number == 2
    new.unmount()
    old.start()
    for version in versions:
        with pytest.raises(FencedError, match="did not enter history: another writer"):
            version.wait(30)
    with pytest.raises(FencedError, match="another writer saved one of this number"):
        versions[0].info()


def test_a_version_of_another_store_is_not_loaded_here(mount: Mounts) -> None:
    here, there = (mount(f"{mount.file_store}-{name}", name=name) for name in ("here", "there"))
    versions = []
    for place in (here, there):
        (place.root / "model").write_text(place.root.name)
        versions.append(ckptfs.checkpoint(place.root).save(wait=True))
    (there.root / "model").write_text("changed")
    with pytest.raises(InvalidInputError, match="is no version of"):
        ckptfs.checkpoint(there.root).load(versions[0])
    assert (there.root / "model").read_text() == "changed"
    reader = mount(there.store, name="reader", cache="other", read_only=True)
    ckptfs.checkpoint(there.root).load(ckptfs.checkpoint(reader.root).list()[0])
    assert (there.root / "model").read_text() == "there"


def test_a_mount_whose_process_is_gone_is_named(mount: Mounts) -> None:
    dead = mount()
    checkpoint = ckptfs.checkpoint(dead.root)
    dead.kill()
    for call in (checkpoint.save, checkpoint.info, lambda: ckptfs.checkpoint(dead.root)):
        with pytest.raises(MountError, match="is gone"):
            call()


def test_a_mount_that_was_unmounted_is_named(mount: Mounts) -> None:
    ended = mount()
    checkpoint = ckptfs.checkpoint(ended.root)
    version = checkpoint.save(wait=True)
    ended.unmount()
    for call in (checkpoint.save, checkpoint.info, checkpoint.list, checkpoint.load, version.wait):
        with pytest.raises(MountError, match=r"nothing is mounted at .* any more"):
            call()


def test_it_can_be_sent_to_another_process(shared: Mount) -> None:
    checkpoint = pickle.loads(pickle.dumps(ckptfs.checkpoint(shared.root)))
    version = checkpoint.save()
    assert pickle.loads(pickle.dumps(version)).wait(30) == version
