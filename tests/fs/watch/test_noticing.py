"""Noticing goes on whatever programs do with directories."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfs.fs.watch import noticing
from ckptfs.fs.watch.noticing import Notices
from ckptfs.libc import RENAME_EXCHANGE, renameat2
from tests.mounting import wait_until
from tests.watching import Watches, Watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/below").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def notices(root: Path) -> Iterator[Notices]:
    found = Notices(root, b".ckptfs-test", threading.Event())
    found.start()
    yield found
    found.stop()


@pytest.fixture
def place(watch: Watches) -> Watching:
    (watch.directory / "watched/below").mkdir(parents=True)
    return watch()


def moved_away_made_anew_and_removed(root: Path) -> None:
    (root / "d/sub").mkdir(parents=True)
    time.sleep(0.2)  # one after the other is noticed
    (root / "d").rename(root.parent / "elsewhere")
    (root / "d/sub").mkdir(parents=True)
    time.sleep(0.2)
    shutil.rmtree(root / "d")
    time.sleep(0.2)
    shutil.rmtree(root.parent / "elsewhere")
    time.sleep(0.2)


def exchanged(root: Path) -> None:
    (root / "other").mkdir()
    time.sleep(0.2)
    renameat2(-1, os.fsencode(root / "other"), -1, os.fsencode(root / "below"), RENAME_EXCHANGE)
    time.sleep(0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_touches_are_noticed_after_a_directory_was_moved_away_made_anew_and_removed(
    root: Path, notices: Notices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noticing, "_SILENCE_S", 1.0)
    moved_away_made_anew_and_removed(root)
    (root / "below/.save").touch()
    written_s = time.monotonic() + 1.0
    wait_until(lambda: notices.check(written_s) or notices.below() == [b"below/.save"], 30, "the touch before is found")
    (root / "below/again").mkdir()
    (root / "below/again/.save").touch()
    wait_until(lambda: b"below/again/.save" in notices.below(), 30, "the touch after is noticed")


def test_a_marker_is_found_in_a_directory_that_was_exchanged_for_another(place: Watching) -> None:
    exchanged(place.root)
    (place.root / "below/model").write_bytes(b"weights")
    (place.root / "below/.save").write_text("step=1")
    place.wait_version(1)
    assert place.answers()["note"] == {"step": 1}
    place.save("step=2")
    assert place.terminate() == 0, "what watchdog lost count of does not keep it from draining"
    assert not (place.root / ".save.status").exists()


def test_directories_that_are_made_at_once_leave_no_warning_in_the_log(place: Watching) -> None:
    for number in range(50):
        (place.root / f"made{number}/with/others/in/it").mkdir(parents=True)
    (place.root / "made0/with/.save").touch()
    place.wait_version(1)
    assert "Warning" not in place.log
