"""How the program fails: exit codes, the form on stderr, no traceback unless asked for."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ckptfs.cli import application
from ckptfs.errors import HeldError
from tests.cli.scene import StoreWithVersions, assert_failed, ckptfs


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make a command of the program raise."""

    @click.command("log")
    def command() -> None:
        raise error

    monkeypatch.setattr(application.application, "get_command", lambda ctx, name: command)


def test_done_is_0_and_usage_is_2() -> None:
    assert ckptfs("--version").code == 0
    assert ckptfs("log", "--help").code == 0
    for arguments in (
        ["log"],
        ["frob"],
        ["log", "--frob"],
        ["log", "a", "b", "c"],
        ["mount", "s3://b", "/m", "--lease", "soon"],
        [],
    ):
        run = ckptfs(*arguments)
        assert (run.code, run.out) == (2, ""), arguments


def test_a_usage_error_has_the_form_of_every_error() -> None:
    run = ckptfs("log", "--frob")
    assert run.err.splitlines() == [
        "ckptfs: error: No such option '--frob'",
        "  hint: `ckptfs log --help` shows what it takes",
    ]


def test_an_error_of_an_open_file_is_what_it_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as os.chmod(4, ...) raises it
    fail_with(monkeypatch, OSError(errno.EROFS, os.strerror(errno.EROFS), 4))
    assert application.run(["log"]) == 1
    assert capsys.readouterr().err == "ckptfs: error: Read-only file system\n"


def test_one_of_our_errors_is_its_fact_and_its_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, HeldError("s3://b/x is mounted read-write by gpu-07\n(pid 4121)"))
    assert application.run(["log"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ckptfs: error: s3://b/x is mounted read-write by gpu-07 (pid 4121)",
        "  hint: unmount it there, or mount here with --takeover",
    ]


@pytest.mark.parametrize(
    ("error", "fact", "hint"),
    [
        (
            OSError(errno.ENOSPC, "whatever", "/full/disk"),
            "/full/disk: No space left on device",
            "free some space there",
        ),
        (OSError(errno.EAGAIN, "whatever", 7), "Resource temporarily unavailable", "as many processes and threads run"),
    ],
)
def test_an_os_error_names_the_file_and_has_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, fact: str, hint: str
) -> None:
    fail_with(monkeypatch, error)
    assert application.run(["log"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"ckptfs: error: {fact}"
    assert second.startswith(f"  hint: {hint}")


def test_an_unexpected_exception_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyError("surprise"))
    assert application.run(["log"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "ckptfs: error: unexpected KeyError: 'surprise'"
    assert "Traceback" not in err


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_traceback_comes_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    fail_with(monkeypatch, KeyError("surprise"))
    if how == "environment":
        monkeypatch.setenv("CKPTFS_DEBUG", "1")
    assert application.run(["-v", "log"] if how == "flag" else ["log"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-2].startswith("ckptfs: error: unexpected KeyError")


def test_an_interrupt_is_130_and_says_nothing() -> None:
    # a store that takes a request and never answers
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        keys = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        command = [sys.executable, "-m", "ckptfs", "log", "s3://bucket/store"]
        program = subprocess.Popen(command, env=os.environ | keys, stderr=subprocess.PIPE)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(1)
            program.send_signal(signal.SIGINT)
            _, err = program.communicate(timeout=30)
    assert (program.returncode, err.strip()) == (130, b"")


def test_an_interrupt_while_the_program_is_imported_is_130_and_says_nothing() -> None:
    program = """
import builtins
import ckptfs.cli

def interrupted(name, *arguments):
    if name == "ckptfs.cli.application":
        raise KeyboardInterrupt
    return really(name, *arguments)

really, builtins.__import__ = builtins.__import__, interrupted
ckptfs.cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_reader_that_went_away_is_no_error_to_report(store: StoreWithVersions) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "ckptfs", "show", store.url, "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    err = program.stderr.read()
    program.stderr.close()
    assert (program.wait(30), err) == (1, b"")


def test_saving_where_no_mount_is_leaves_no_file_there(tmp_path: Path) -> None:
    assert_failed(ckptfs("save", tmp_path), f"{tmp_path} is not in a ckptfs mount", "ckptfs status")
    assert_failed(ckptfs("status", tmp_path), f"{tmp_path} is not in a ckptfs mount")
    assert list(tmp_path.iterdir()) == []
