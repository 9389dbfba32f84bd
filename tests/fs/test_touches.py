"""One touch is one version, whatever program makes it and however it goes about it (PRODUCT.md 1)."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fs.touching import Counter, ran

pytestmark = pytest.mark.fuse

SHELL = {
    "touch": "touch .save",
    "touch -a": "touch -a .save",
    "touch -m": "touch -m .save",
    "touch -c": "touch -c .save",
    "touch -d": "touch -d 2020-02-02 .save",
    "touch -r": "touch -r model .save",
    "colon": ": > .save",
    "truncating by nothing": "> .save",
    "true": "true > .save",
    "truncate": "truncate -s 0 .save",
    "clobber": "set -C; : >| .save",
    "dash": "dash -c ': > .save'",
    "dash clobber": "dash -c 'set -C; : >| .save'",
    "append nothing": ": >> .save",
    "cp of nothing": "cp /dev/null .save",
    "dd of nothing": "dd if=/dev/null of=.save 2>/dev/null",
    "perl open": 'perl -e \'open(my $f, ">", ".save") or die; close($f) or die\'',
    "perl utime": "perl -e 'utime(undef, undef, \".save\") or die'",
    "perl utime given": "perl -e 'utime(1, 2, \".save\") or die'",
    "python open": f'{sys.executable} -c \'open(".save", "w").close()\'',
    "unlink then touch": "rm -f .save && touch .save",
    "read and write": ": <> .save",
}


@pytest.mark.parametrize("line", SHELL.values(), ids=SHELL.keys())
def test_a_shell_line_makes_one_version(line: str, place: Path, counter: Counter) -> None:
    ran(line, place)
    assert counter.made == 1
    assert counter.note is None


NOTES = {
    "echo": ("echo note > .save", "note"),
    "printf json": ("""printf '{"step": 1, "loss": 0.5}' > .save""", {"step": 1, "loss": 0.5}),
    "echo json": ("""echo '{"step": 1}' > .save""", {"step": 1}),
    "words": (
        "echo step=100 loss=0.25 best=true tag=a=b > .save",
        {"step": 100, "loss": 0.25, "best": True, "tag": "a=b"},
    ),
    "append": ("echo step=7 >> .save", {"step": 7}),
    "append in pieces": ("{ echo -n 'two '; echo words; } >> .save", "two words"),
    "in pieces": ("{ echo -n 'two '; echo words; } > .save", "two words"),
    "unicode": ("echo 'épöque 7 ✓' > .save", "épöque 7 ✓"),
    "broken utf8": (r"printf 'a\xffb' > .save", "a\\xffb"),
    "broken json": ("echo '{\"step\": ' > .save", '{"step":'),
    "json list": ("echo '[1, 2]' > .save", "[1, 2]"),
    "lines": (r"printf 'one\ntwo\n' > .save", "one\ntwo"),
    "dash echo": ("dash -c 'echo note > .save'", "note"),
    "tee": ("echo note | tee .save", "note"),
    "tee -a": ("echo note | tee -a .save", "note"),
    "cp": ("echo note > text && cp text .save", "note"),
    "cp -p": ("echo note > text && cp -p text .save", "note"),
    "cp -a": ("echo note > text && cp -a text .save", "note"),
    "cp --remove-destination": ("echo note > text && cp --remove-destination text .save", "note"),
    "install": ("echo note > text && install -m 644 text .save", "note"),
    "install -p": ("echo note > text && install -p text .save", "note"),
    "mv": ("echo note > text && mv text .save", "note"),
    "mv -f": ("echo note > text && mv -f text .save", "note"),
    "mv up": ("mkdir d; echo note > d/text && mv d/text .save", "note"),
    "dd": ("echo note | dd of=.save 2>/dev/null", "note"),
    "dd in blocks": ("printf 'a longer note' | dd of=.save bs=4 2>/dev/null", "a longer note"),
    "dd conv=fsync": ("echo note | dd of=.save conv=fsync 2>/dev/null", "note"),
    "dd append": ("echo note | dd of=.save oflag=append conv=notrunc 2>/dev/null", "note"),
    "dd notrunc": ("echo note | dd of=.save conv=notrunc 2>/dev/null", "note"),
    "perl print": ('perl -e \'open(my $f, ">", ".save") or die; print $f "note\\n"; close($f) or die\'', "note"),
    "sed": ("echo xote | sed 's/x/n/' > .save", "note"),
    "here document": ("cat > .save <<END\nnote\nEND", "note"),
    "subshell": ("(echo note; sleep 0.1; echo more) > .save", "note\nmore"),
    "late child": ("exec 3> .save; (sleep 0.2; echo note >&3) & wait; exec 3>&-", "note"),
}


@pytest.mark.parametrize(("line", "note"), NOTES.values(), ids=NOTES.keys())
def test_a_shell_line_makes_one_version_with_its_note(line: str, note: Any, place: Path, counter: Counter) -> None:
    ran(line, place)
    assert counter.made == 1
    assert counter.note == note


def test_mv_from_another_filesystem_makes_one_version_with_its_note(
    place: Path, counter: Counter, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("step=3")
    ran(f"mv {text} .save", place)
    assert (counter.made, counter.note) == (1, {"step": 3})
    assert not text.exists()


def test_rsync_makes_one_version_with_its_note(place: Path, counter: Counter, tmp_path: Path) -> None:
    (tmp_path / ".save").write_text("step=4")
    ran(f"rsync {tmp_path}/.save {place}/", place)
    assert (counter.made, counter.note) == (1, {"step": 4})
    ran(f"rsync -a {tmp_path}/.save {place}/", place)
    assert counter.made == 2


def _python_os_open(marker: Path, flags: int) -> None:
    os.close(os.open(marker, flags, 0o644))


def _python_inherited(marker: Path) -> None:
    fd = os.open(marker, os.O_WRONLY)
    subprocess.run([sys.executable, "-c", f"import os; os.write({fd}, b'note')"], pass_fds=[fd], check=True, timeout=30)
    os.close(fd)


def _python_open_around_a_child(marker: Path) -> None:
    with open(marker, "w") as file:
        subprocess.run(["sh", "-c", "echo more > model"], cwd=marker.parent, close_fds=False, check=True, timeout=30)
        file.write("note")


def _python_replace(marker: Path) -> None:
    text = marker.with_name("text")
    text.write_text("note")
    os.replace(text, marker)
    assert not text.exists()


def _python_rename_while_open(marker: Path) -> None:
    text = marker.with_name("text")
    with open(text, "w") as file:
        file.write("note")
        file.flush()
        os.rename(text, marker)
        file.write("written too late")
    assert not text.exists()


def _python_move_across(marker: Path) -> None:
    text = Path("/tmp") / f"ckptfs-note-{os.getpid()}"
    text.write_text("note")
    shutil.move(text, marker)


def _python_duplicates(marker: Path) -> None:
    fd = os.open(marker, os.O_WRONLY)
    others = [os.dup(fd) for _ in range(3)]
    for other in others:
        os.close(other)
    os.write(fd, b"note")
    os.close(fd)


def _python_copyfile(marker: Path) -> None:
    text = marker.with_name("text")
    text.write_text("note")
    shutil.copy2(text, marker)


def _text(mode: str) -> Callable[[Path], None]:
    def write(marker: Path) -> None:
        with open(marker, mode) as file:
            file.write("note")

    return write


def _in_pieces(marker: Path) -> None:
    with open(marker, "wb", buffering=0) as file:
        for letter in b"note":
            file.write(bytes([letter]))


def _backwards(marker: Path) -> None:
    fd = os.open(marker, os.O_WRONLY)
    os.pwrite(fd, b"te", 2)
    os.pwrite(fd, b"no", 0)
    os.close(fd)


def _rewritten(marker: Path) -> None:
    with open(marker, "w") as file:
        file.write("a first thought, longer")
        file.flush()
        file.seek(0)
        file.truncate()
        file.write("note")


PYTHON: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "open w": (lambda marker: open(marker, "w").close(), None),
    "open wb unbuffered": (lambda marker: open(marker, "wb", buffering=0).close(), None),
    "open a": (lambda marker: open(marker, "a").close(), None),
    "open r+": (lambda marker: open(marker, "r+").close(), None),
    "open x": (lambda marker: open(marker, "x").close(), None),
    "utime": (lambda marker: os.utime(marker), None),
    "utime given": (lambda marker: os.utime(marker, (1, 2)), None),
    "utime ns": (lambda marker: os.utime(marker, ns=(1, 2)), None),
    "path touch": (lambda marker: marker.touch(), None),
    "O_WRONLY": (lambda marker: _python_os_open(marker, os.O_WRONLY), None),
    "O_RDWR": (lambda marker: _python_os_open(marker, os.O_RDWR), None),
    "O_CREAT O_EXCL": (lambda marker: _python_os_open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL), None),
    "O_CREAT O_TRUNC": (lambda marker: _python_os_open(marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), None),
    "O_SYNC": (lambda marker: _python_os_open(marker, os.O_WRONLY | os.O_SYNC), None),
    "truncate by path": (lambda marker: os.truncate(marker, 0), None),
    "write_text": (lambda marker: marker.write_text("note"), "note"),
    "write_bytes json": (lambda marker: marker.write_bytes(json.dumps({"a": 1}).encode()), {"a": 1}),
    "write over": (_text("w"), "note"),
    "write a": (_text("a"), "note"),
    "write r+": (_text("r+"), "note"),
    "write x": (_text("x"), "note"),
    "write reading": (_text("w+"), "note"),
    "in pieces": (_in_pieces, "note"),
    "backwards": (_backwards, "note"),
    "rewritten": (_rewritten, "note"),
    "inherited": (_python_inherited, "note"),
    "around a child": (_python_open_around_a_child, "note"),
    "replace": (_python_replace, "note"),
    "rename while open": (_python_rename_while_open, "note"),
    "move across": (_python_move_across, "note"),
    "duplicates": (_python_duplicates, "note"),
    "copy2": (_python_copyfile, "note"),
}


@pytest.mark.parametrize(("touch", "note"), PYTHON.values(), ids=PYTHON.keys())
def test_python_makes_one_version(touch: Callable[[Path], Any], note: Any, place: Path, counter: Counter) -> None:
    touch(place / ".save")
    assert counter.made == 1
    assert counter.note == note


NODE = {
    "utimesSync": "fs.utimesSync('.save', new Date(), new Date())",
    "lutimesSync": "fs.lutimesSync('.save', new Date(), new Date())",
    "promises.utimes": "await fs.promises.utimes('.save', 1, 2)",
    "openSync closeSync": "fs.closeSync(fs.openSync('.save', 'w'))",
    "openSync a": "fs.closeSync(fs.openSync('.save', 'a'))",
    "futimesSync": "const fd = fs.openSync('.save', 'r+'); fs.futimesSync(fd, 1, 2); fs.closeSync(fd)",
    "handle utimes": "const h = await fs.promises.open('.save', 'w'); await h.utimes(1, 2); await h.close()",
    "writeFileSync": "fs.writeFileSync('.save', 'note')",
    "appendFileSync": "fs.appendFileSync('.save', 'note')",
    "promises.writeFile": "await fs.promises.writeFile('.save', 'note')",
    "createWriteStream": "const s = fs.createWriteStream('.save'); s.write('no'); s.end('te'); "
    "await require('events').once(s, 'close')",
    "renameSync": "fs.writeFileSync('text', 'note'); fs.renameSync('text', '.save')",
    "copyFileSync": "fs.writeFileSync('text', 'note'); fs.copyFileSync('text', '.save')",
}


@pytest.mark.parametrize("code", NODE.values(), ids=NODE.keys())
def test_node_makes_one_version(code: str, place: Path, counter: Counter) -> None:
    program = f"const fs = require('fs'); (async () => {{ {code} }})().catch(e => {{ throw e }})"
    result = subprocess.run(["node", "-e", program], cwd=place, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert counter.made == 1
    assert counter.note == ("note" if "note" in code or "'no'" in code else None)


TOUCHER = Path(__file__).with_name("toucher.c")
C_WAYS = re.findall(r'how, "([^"]+)"', TOUCHER.read_text())


@pytest.mark.parametrize("how", C_WAYS)
def test_c_makes_one_version(how: str, toucher: Path, place: Path, counter: Counter) -> None:
    subprocess.run([toucher, how], cwd=place, check=True, timeout=30)
    assert counter.made == 1
    assert counter.note == ("note" if "write" in how else None)
