"""Where the key of an encrypted store is: a file, a command's output, or $CKPTFS_KEY."""

import os
import select
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import IO, cast

from ckptfs.crypto.secret import MAX_SECRET_BYTES, KeySource, Secret
from ckptfs.errors import InvalidInputError
from ckptfs.fs.options import MountOptions

# 60 s: somebody may have to touch a token or type a password
_COMMAND_TIMEOUT_S = 60.0


KEY_VARIABLE = "CKPTFS_KEY"


def own_key(options: MountOptions) -> KeySource | None:
    """Return the key of a mount that nobody hands one: as its options say, else as this process's environment does."""
    variable = take_variable()
    if options.key_file is not None:
        return file_key(options.key_file)
    if options.key_command is not None:
        return command_key(options.key_command)
    return variable


def take_variable() -> KeySource | None:
    """Return the key in $CKPTFS_KEY, None if there is none; take it away, as nothing that is started here needs it."""
    value = os.environ.pop(KEY_VARIABLE, "")
    return cache(lambda: Secret(os.fsencode(value))) if value else None


def file_key(path: Path) -> KeySource:
    """Return the key that a file holds; read once, when it is asked for."""
    return cache(lambda: _read_file(path))


def command_key(command: str) -> KeySource:
    """Return the key that a command prints; run once, when it is asked for."""
    return cache(lambda: _run(command))


def _read_file(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            return Secret(file.read(MAX_SECRET_BYTES + 1))
    except OSError as error:
        raise InvalidInputError(f"cannot read the key from {path}: {error.strerror}") from error


def _run(command: str) -> Secret:
    """Run a command line as a shell does; what it says on stderr is for the user."""
    hint = "it is run by sh, and prints the key and nothing else"
    deadline_s = time.monotonic() + _COMMAND_TIMEOUT_S
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, close_fds=True) as running:
        try:
            printed = _printed(cast(IO[bytes], running.stdout), deadline_s)
            if len(printed) <= MAX_SECRET_BYTES:
                running.wait(max(0.0, deadline_s - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise InvalidInputError(f"the key command took over {_COMMAND_TIMEOUT_S:.0f} s", hint=hint) from None
        finally:
            running.kill()
    if len(printed) <= MAX_SECRET_BYTES and running.returncode != 0:
        raise InvalidInputError(f"the key command ended with exit code {running.returncode}", hint=hint)
    return Secret(printed)


def _printed(output: IO[bytes], deadline_s: float) -> bytes:
    """Return what a command prints, and no more than shows that it is too much: it may print for ever."""
    fd, printed = output.fileno(), b""
    while len(printed) <= MAX_SECRET_BYTES:
        if not select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(fd, MAX_SECRET_BYTES)
        if not piece:
            break
        printed += piece
    return printed
