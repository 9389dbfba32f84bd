"""What is printed for people and for programs."""

import json

import pytest

from ckptfs.cli.commands.status import _print_status
from ckptfs.cli.output import note_text, print_json, print_table, printable, rfc3339


def test_a_time_for_programs_is_rfc_3339_in_utc_to_the_microsecond() -> None:
    assert rfc3339(1_790_000_000_123_456_789) == "2026-09-21T14:13:20.123456Z"


def test_a_time_before_1970_is_a_time_too() -> None:
    assert rfc3339(-1_000) == "1969-12-31T23:59:59.999999Z"


def test_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable(b"gr\xc3\xbc\xc3\x9fe-\xff") == "gr\u00fc\u00dfe-\\xff"


def test_a_note_is_one_line_whatever_it_is() -> None:
    assert note_text(None) == ""
    assert note_text({"step": 100, "loss": 0.5, "name": "a b"}) == "step=100 loss=0.5 name=a b"
    assert note_text("two\nlines\x07") == "two lines\\x07"


def test_a_table_is_aligned_and_ends_without_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("N", "NAME", "NOTE"), [("1", "a", ""), ("100", "long", "x")], right=(0,))
    assert capsys.readouterr().out.splitlines() == ["  N  NAME  NOTE", "  1  a", "100  long  x"]


def test_a_path_that_is_no_utf_8_survives_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": b"\xff".decode("utf-8", "surrogateescape")})
    assert json.loads(capsys.readouterr().out)["path"].encode("utf-8", "surrogateescape") == b"\xff"


def test_a_status_with_a_long_queue_is_still_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def version(number: int, state: str, error: str | None) -> dict[str, object]:
        return {"version": number, "state": state, "error": error, "files": 2, "bytes": 2048, "note": {"step": number}}

    pending = [version(number, "captured", "no route" if number == 3 else None) for number in range(3, 200)]
    _print_status(
        {"store": "s3://b/x", "newest": pending[-1], "pending": pending, "pending_bytes": 4096, "error": None}
    )
    assert capsys.readouterr().out.splitlines() == [
        "store          s3://b/x",
        "newest         captured, 2 files, 2.00 KiB, step=199",
        "pending        versions 3 to 199; the first is captured (no route)",
        "pending bytes  4.00 KiB",
    ]
