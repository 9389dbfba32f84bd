"""Files from elsewhere: copied into the directory under a temporary name, then given their own in one step."""

import os
import secrets
import shutil
from pathlib import Path

from ckptfs.client.marker import NAME
from ckptfs.errors import InvalidInputError

Given = str | os.PathLike[str]

_PREFIX = ".ckptfs-incoming-"
_CONTROL = (NAME, ".save.status", ".status", ".restore", ".versions")


def bring(given: Given, directory: Path, root: Path) -> None:
    """Make a file or directory part of the next version; what is in the mount already stays where it is.

    A directory that had the name before is replaced by two renames: a program that looks in between finds none.

    Raises:
        InvalidInputError: There is nothing there, or what can be no part of a version.
    """
    source = existing(given)
    real, real_root = source.resolve(), root.resolve()
    if real.is_relative_to(real_root) and not real.is_relative_to(real_root / ".versions"):
        return
    temporary = directory / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        copy(source, temporary, root)
        _give_name(temporary, directory / source.name)
    except BaseException:
        _remove(temporary)
        raise


def existing(given: Given) -> Path:
    """Return the absolute path of what is there. Raises InvalidInputError."""
    source = Path(os.path.abspath(given))
    # an empty path is not the working directory
    if not os.fspath(given) or not source.exists():
        raise InvalidInputError(f"{os.fspath(given)!r} does not exist, so it cannot be saved")
    return source


def copy(source: Path, target: Path, root: Path) -> None:
    """Copy a file or directory, but for save markers, into the mount of a root.

    Raises:
        InvalidInputError: It can be no part of a version.
    """
    real = source.resolve()
    if root.resolve().is_relative_to(real):
        raise InvalidInputError(
            f"{source} holds {root} itself, so it cannot be copied into it", hint="name what is to be saved below it"
        )
    if source.name in _CONTROL:
        raise InvalidInputError(f"{source} has a name that is reserved in {root}", hint="give it another name")
    if not (real.is_file() or real.is_dir()):
        raise InvalidInputError(f"{source} is neither a file nor a directory, so it cannot be saved")
    if real.is_dir():
        _copy_tree(source, target)
    else:
        shutil.copy2(source, target)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a directory. Raises InvalidInputError for the first of what cannot be copied."""
    try:
        # a marker that is copied is a touch: of a watched directory, or what was one
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(NAME))
    except shutil.Error as error:
        # what went wrong with each file is text: (source, target, why)
        path, _, why = error.args[0][0]
        more = f", and {len(error.args[0]) - 1} more" if len(error.args[0]) > 1 else ""
        raise InvalidInputError(f"{path} cannot be copied: {why}{more}", hint="nothing was saved") from error


def _give_name(temporary: Path, target: Path) -> None:
    is_directory = target.is_dir() and not target.is_symlink()
    # rename(2) replaces a file by a file, and nothing by a directory
    if is_directory or (temporary.is_dir() and os.path.lexists(target)):
        before = temporary.with_name(f"{temporary.name}-before")
        os.rename(target, before)
        try:
            os.rename(temporary, target)
        except BaseException:
            os.rename(before, target)
            raise
        _remove(before)
    else:
        os.replace(temporary, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
