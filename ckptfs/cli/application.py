"""The `ckptfs` program: finds a command, runs it, and turns what it raises into two lines and an exit code.

Commands are imported when they are run, and import what they need when they need it: `ckptfs save` in a training loop
must not pay for boto3 (400 ms).
"""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from ckptfs import __version__
from ckptfs.cli.failures import report
from ckptfs.cli.parameters import Invocation, config_option, verbose_option

COMMANDS = (
    "mount",
    "umount",
    "watch",
    "save",
    "status",
    "log",
    "show",
    "diff",
    "restore",
    "tag",
    "prune",
    "verify",
    "recover",
    "doctor",
    "lend",
)
"""In the order of a user's first day."""


class _Commands(click.Group):
    """The commands, each imported on its first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"ckptfs.cli.commands.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"ckptfs.cli.commands.{cmd_name} has no command")
        return command


# objects, instead of 700
_COLLECT_AFTER = 10_000

application = _Commands(
    name="ckptfs",
    help="A checkpoint filesystem: write plain files, touch .save, and find the newest version again after a remount.",
    params=[config_option(), verbose_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="STORE is s3://BUCKET/PREFIX or file:///DIRECTORY. `ckptfs COMMAND --help` documents each command.",
)
application = click.version_option(__version__, message="%(prog)s %(version)s")(application)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    invocation = Invocation()
    try:
        result = application.main(list(arguments), prog_name="ckptfs", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except Exception as error:
        return report(error, verbose=invocation.verbose)
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Run the program with the arguments it was started with."""
    # Importing boto3 and making its client leaves nothing to collect; looking for it takes 50 of 300 ms
    gc.set_threshold(_COLLECT_AFTER)
    _hold_standard_streams()
    sys.exit(run(sys.argv[1:]))


def _hold_standard_streams() -> None:
    """Open the standard streams that are closed, as a daemon's may be: a store's file would get their numbers, and
    what is printed, and a mount that is started would have nowhere to say that it is ready.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has none where it found it closed
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
