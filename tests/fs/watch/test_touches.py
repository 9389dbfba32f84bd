"""One touch of a watched directory's marker is one version, whatever makes it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckptfs.client import watched
from ckptfs.watch_table import watch_at
from tests.fs.touching import ran
from tests.mounting import wait_until
from tests.watching import CONTROL, Watches, Watching

LINES = {
    "touch .save": None,
    "touch -a .save": None,
    "touch -d 2020-02-02 .save": None,
    ": > .save": None,
    ": >> .save": None,
    "echo step=1 > .save": {"step": 1},
    "{ echo -n 'two '; sleep 0.3; echo words; } > .save": "two words",
    "echo step=7 >> .save": {"step": 7},
    "echo moved >other; mv other .save": "moved",
    "echo moved >/dev/shm/ckptfs-$$; mv /dev/shm/ckptfs-$$ .save": "moved",
    "echo copied >other; touch -d 2020-02-02 other; cp -p other .save; rm other": "copied",
    "rm -f .save; touch .save": None,
    ": <> .save": None,
    "touch below/deeper/.save": None,
    "{ sleep 0.3; echo from=below; } > below/.save": {"from": "below"},
    "mkdir -p new/dir && touch new/dir/.save": None,
    "truncate -s 0 .save": None,
    f"{sys.executable} -c 'import os; os.utime(\".save\")'": None,
    f"{sys.executable} -c 'import pathlib; pathlib.Path(\".save\").touch()'": None,
    f'{sys.executable} -c \'import shutil; open("o","w").write("x=1"); shutil.copy2("o", ".save")\'': {"x": 1},
    f'{sys.executable} -c \'open(".save", "a").close()\'': None,
}
NODE = {
    "node -e 'fs.writeFileSync(\".save\", JSON.stringify({step: 3}))'": {"step": 3},
    "node -e 'fs.utimesSync(\".save\", new Date(), new Date())'": None,
}


@pytest.fixture
def place(watch: Watches) -> Watching:
    (watch.directory / "watched/below/deeper").mkdir(parents=True)
    return watch()


def test_each_way_to_touch_makes_one_version_with_its_note(place: Watching) -> None:
    lines: dict[str, Any] = {**LINES, **(NODE if shutil.which("node") else {})}
    for number, (line, note) in enumerate(lines.items(), 1):
        (place.root / "model").write_bytes(os.urandom(1000))
        ran(line, place.root)
        place.wait_version(number)
        said = place.answers()
        assert (said["version"], said["note"]) == (number, note), line
        # so that one that is made late is not taken for the next line's
        wait_until(lambda: place.answers()["durable"] == place.answers()["version"], 30, "durable")
    assert place.version() == len(lines)
    assert not list(place.root.rglob("below/**/.save")), "markers below are taken away"


def test_touches_that_come_at_once_are_all_answered(place: Watching) -> None:
    program = f"from ckptfs.client import watched; import pathlib; \
print(watched.touch(pathlib.Path({str(place.root)!r}), b'')['version'])"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
        for _ in range(4)
    ]
    numbers = [int(process.communicate(timeout=60)[0]) for process in running]
    assert set(numbers) <= set(range(1, 5))
    assert max(numbers) == place.version()


def test_a_note_that_is_too_long_is_refused_and_nothing_is_saved(place: Watching) -> None:
    with pytest.raises(OSError, match="note") as caught:
        place.save("x" * (65 << 10))
    assert caught.value.errno == errno.EFBIG
    assert place.version() == 0
    assert place.save("x=1") == 1


def test_reading_the_marker_and_the_control_files_makes_no_version_and_none_is_in_one(place: Watching) -> None:
    (place.root / "model").write_bytes(b"weights")
    assert place.save("step=1", sync=True) == 1
    wait_until(lambda: '"durable"' in (place.root / ".save").read_text(), 30, "reading .save tells of it")
    ran("cat .save .status .save.status .restore; ls -l; stat .save; chmod 600 .save", place.root)
    assert watched.touch(place.root, b"")["version"] == 2
    listed = ran(f"{sys.executable} -m ckptfs show {place.store} 2 --json", Path(__file__).parents[3])
    assert '"model"' in listed
    assert not [name for name in CONTROL if f'"{name}"' in listed]


@pytest.mark.parametrize("stops_after", [100, 300])
def test_an_upload_that_takes_long_is_waited_for_while_more_of_it_comes_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_after: int
) -> None:
    """Of a watch whose version takes 200 s, with a time-out of 60 s; it says so in its files, each second."""
    seconds = 0

    def say() -> None:
        done_bytes = min(seconds, stops_after)
        pending = [] if done_bytes >= 200 else [{"version": 1, "bytes_uploaded": done_bytes}]
        (tmp_path / ".status").write_text(json.dumps({"sync_timeout_s": 60.0, "pending": pending}))
        durable = 0 if pending else 1
        said = {"durable": durable, "failed": None, "fenced": None, "error": None}
        (tmp_path / ".save.status").write_text(json.dumps(said))

    def sleep(_: float) -> None:
        nonlocal seconds
        seconds += 1
        say()

    say()
    monkeypatch.setattr(watched, "time", SimpleNamespace(monotonic=lambda: float(seconds), sleep=sleep))
    monkeypatch.setattr(watched, "is_alive", lambda root: True)
    if stops_after < 200:
        with pytest.raises(OSError, match="the store has not taken it in time"):
            watched._wait_durable(tmp_path, 1)
        # it is looked when a time is over whether there was more
        assert 160 < seconds < 230
    else:
        watched._wait_durable(tmp_path, 1)
        assert seconds == 200


def test_a_watch_of_which_many_versions_wait_is_found(tmp_path: Path) -> None:
    pending = [{"version": number, "note": "x" * 60_000} for number in range(1, 51)]
    (tmp_path / ".status").write_text(json.dumps({"kind": "watch", "pid": 1, "store": "file:///s", "pending": pending}))
    found = watch_at(tmp_path)
    assert found is not None
    assert found.directory == tmp_path
