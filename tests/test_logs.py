"""Log lines as text, JSON and fields of the journal."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckptfs import logs

_PROGRAM = """
import logging, sys
from ckptfs import logs
if len(sys.argv) > 1:
    logs._JOURNAL = sys.argv[1]
logs.configure(verbose=False, identifier="test")
log = logging.getLogger("ckptfs.part")
log.info("committed version=%d error=%r uploaded_bytes=%d", 41, "it's\\na pity", 371)
log.debug("not shown")
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed operation=read")
"""


def lines(form: str, *arguments: str, **env: str) -> list[str]:
    """Return what a program logs."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=os.environ | {"CKPTFS_LOG_FORMAT": form, "CKPTFS_LOG_MOUNT": "llama"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr.splitlines()


def test_text_is_for_people() -> None:
    first, second, *traceback = lines("text")
    assert first.endswith('INFO ckptfs.part [llama]: committed version=41 error="it\'s\\na pity" uploaded_bytes=371')
    assert second.endswith("ERROR ckptfs.part [llama]: failed operation=read")
    assert traceback[-1] == "ValueError: why"


@pytest.mark.parametrize("form", ["json", "auto"])
def test_json_has_every_pair_of_the_message(form: str) -> None:
    first, second = map(json.loads, lines(form))
    assert first["message"].startswith("committed version=41")
    assert (first["level"], first["logger"], first["mount"]) == ("INFO", "ckptfs.part", "llama")
    assert (first["version"], first["error"], first["uploaded_bytes"]) == ("41", "it's\na pity", "371")
    assert second["traceback"].endswith("ValueError: why")


def test_the_journal_gets_the_pairs_as_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(os.fspath(path))
        assert lines("journal", os.fspath(path)) == []
        first, second = journal.recv(1 << 16), journal.recv(1 << 16)
    assert b"CKPTFS_VERSION=41\n" in first
    assert b"CKPTFS_MOUNT=llama\n" in first
    assert b"SYSLOG_IDENTIFIER=test\n" in first
    assert b"PRIORITY=6\n" in first
    # of several lines: the key alone, the length in 8 bytes, the value
    assert b"CKPTFS_ERROR\n" + len(b"it's\na pity").to_bytes(8, "little") + b"it's\na pity\n" in first
    assert b"PRIORITY=3\n" in second
    assert b"ValueError: why\n" in second


def test_without_a_journal_lines_go_to_standard_error_all_the_same() -> None:
    assert len(lines("journal", "/nonexistent/journal")) > 1


def test_pairs_are_found_wherever_they_stand() -> None:
    message = "version=1 put aside error='a \\'b\\' c=d' path=\"x\" and words, hint=none"
    assert logs.fields_of(message) == {"version": "1", "error": "a 'b' c=d", "path": "x", "hint": "none"}
