"""The log file: bounded, whole lines, and nothing lost while several processes write."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from ckptfs.log_file import OLDER_FILES, is_logged_to

_PROGRAM = """
import logging, os, sys
from pathlib import Path
from ckptfs import logs
from ckptfs.log_file import log_to
name, path, most, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
os.umask(0)
logs.configure(verbose=False)
log_to(path, max_file_bytes=most)
if sys.argv[5:] != ["alone"] and os.fork() == 0:
    # as a keeper's next server
    log_to(path, max_file_bytes=most)
    name += "-child"
log = logging.getLogger("ckptfs.part")
for number in range(count):
    log.info("line=%s number=%d filler=%s", name, number, "x" * (number % 300))
os.write(2, b"raw=%s\\n" % name.encode())
if not name.endswith("-child") and sys.argv[5:] != ["alone"]:
    os.wait()
"""


def write(path: Path, *how: str, most: int, count: int, programs: int) -> None:
    command = [sys.executable, "-c", _PROGRAM]
    running = [
        subprocess.Popen([*command, f"p{number}", os.fspath(path), str(most), str(count), *how])
        for number in range(programs)
    ]
    assert [process.wait(100) for process in running] == [0] * programs


def files(path: Path) -> list[Path]:
    """The oldest first."""
    return [*(path.with_name(f"{path.name}.{age}") for age in range(OLDER_FILES, 0, -1)), path]


def test_lines_of_several_processes_are_whole_and_none_is_lost_while_files_are_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "mount.log"
    # 3 programs of 2 processes write 600 lines of some 230 bytes each: 830 kB, for which four files are enough
    write(path, most=250_000, count=600, programs=3)
    assert path.with_name("mount.log.1").exists()
    lines = [line for file in files(path) if file.exists() for line in file.read_text().splitlines()]
    found: dict[str, list[int]] = {}
    for line in lines:
        if line.startswith("raw="):
            continue
        fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
        number = int(fields["number"])
        assert line.endswith("filler=" + "x" * (number % 300)), line
        found.setdefault(fields["line"], []).append(number)
    names = {f"p{number}{child}" for number in range(3) for child in ("", "-child")}
    assert found.keys() == names
    assert all(sorted(numbers) == list(range(600)) for numbers in found.values())
    # what is no log line goes there, too
    assert {line for line in lines if line.startswith("raw=")} == {f"raw={name}" for name in names}


def test_the_files_are_bounded_in_size_and_number_and_private(tmp_path: Path) -> None:
    path = tmp_path / "mount.log"
    write(path, most=20_000, count=400, programs=2)
    there = sorted(tmp_path.iterdir())
    assert there == sorted(files(path))
    assert {stat.S_IMODE(file.stat().st_mode) for file in there} == {0o600}
    # while one renames, others write on, and for how long it is held up is not known: with none beside it, all are
    # full to the line
    write(path, "alone", most=20_000, count=800, programs=1)
    assert sorted(tmp_path.iterdir()) == there
    assert all(file.stat().st_size < 20_000 + len("raw=p0\n") for file in there)
    assert all(file.stat().st_size > 20_000 - 400 for file in files(path)[:-1])
    assert {stat.S_IMODE(file.stat().st_mode) for file in there} == {0o600}


def test_it_is_known_whether_standard_error_leads_there(tmp_path: Path) -> None:
    path = tmp_path / "mount.log"
    program = "import sys; from pathlib import Path; from ckptfs.log_file import is_logged_to as is_it; "
    program += "sys.exit(not is_it(Path(sys.argv[1])))"
    assert not is_logged_to(path)
    with path.open("ab") as log:
        assert subprocess.run([sys.executable, "-c", program, os.fspath(path)], stderr=log, check=False).returncode == 0
        # it was full, and another process noticed first
        path.rename(tmp_path / "mount.log.1")
        path.write_text("")
        assert subprocess.run([sys.executable, "-c", program, os.fspath(path)], stderr=log, check=False).returncode == 0
    assert not is_logged_to(path)
