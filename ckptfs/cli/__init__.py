"""The command line, one module per command in commands/: names, exit codes and error form are a promise to users."""

from ckptfs.cli.application import main

__all__ = ["main"]
