"""What is printed for people and for programs."""

import json

import pytest

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
