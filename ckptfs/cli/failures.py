"""How a command fails: a fact, then a remedy, on stderr; a traceback only where it was asked for."""

import errno
import os
import sys
import traceback

import click

from ckptfs.cli.output import printable
from ckptfs.errors import CkptfsError

FAILED = 1
USAGE = 2
INTERRUPTED = 130

_GONE = "the mount's process is gone: `ckptfs umount` clears it away, then mount again"
_HINTS = {
    errno.EACCES: "run it as a user who may, or change the permissions",
    errno.EPERM: "run it as a user who may",
    errno.ENOSPC: "free some space there, or use another place",
    errno.EAGAIN: "as many processes and threads run as may: end some, or raise `ulimit -u` or pids.max",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENOTCONN: _GONE,
    errno.ECONNABORTED: _GONE,
}
"""For plain OSErrors, which carry none of their own."""


def report(error: Exception, *, verbose: bool) -> int:
    """Say on stderr what went wrong.

    Args:
        error: What a command raised.
        verbose: Show the traceback too, as does a non-empty CKPTFS_DEBUG.

    Returns:
        The exit code.
    """
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return _leave_broken_pipe()
    if isinstance(error, click.UsageError):
        return _report_usage(error)
    if verbose or os.environ.get("CKPTFS_DEBUG"):
        traceback.print_exception(error)
    fact, hint = describe(error)
    say_error(fact, hint)
    return FAILED


def describe(error: Exception) -> tuple[str, str | None]:
    """Return the fact and the hint of any exception."""
    if isinstance(error, CkptfsError):
        return error.fact, error.hint
    if isinstance(error, click.ClickException):
        return error.format_message(), None
    if isinstance(error, OSError) and error.errno:
        what = os.strerror(error.errno)
        # a number is that of an open file, and says nothing to anybody
        if isinstance(error.filename, str | bytes | os.PathLike):
            what = f"{os.fsdecode(error.filename)}: {what}"
        return what, _HINTS.get(error.errno)
    what = f"unexpected {type(error).__name__}" + (f": {error}" if str(error) else "")
    return what, "this is a fault of ckptfs; with -v it shows where"


def say_error(fact: str, hint: str | None = None, *, program: str = "ckptfs") -> None:
    """Print an error in the form that every command has."""
    # one line that steers no terminal: a host or a path that the fact quotes may be somebody else's choice
    click.echo(f"{program}: error: " + printable(" ".join(fact.split())), err=True)
    if hint:
        click.echo("  hint: " + printable(" ".join(hint.split())), err=True)


def _report_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    path = error.ctx.command_path if error.ctx is not None else "ckptfs"
    say_error(error.format_message().rstrip("."), f"`{path} --help` shows what it takes")
    return USAGE


def _leave_broken_pipe() -> int:
    # whoever read our output has enough; python would complain once more when it flushes stdout at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
