"""The command line, one module per command in commands/: names, exit codes and error form are a promise to users."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the arguments it was started with."""
    try:
        # here: importing it takes 0.1 s, in which Ctrl-C would be a traceback
        from ckptfs.cli.application import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


__all__ = ["main"]
