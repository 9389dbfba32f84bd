"""Files from elsewhere: copied into a temporary directory, then given their place in one step.

Who copies has the temporary directory's lock, which is lost with the process: a directory that nobody has locked is of
a program that was killed, and the next copy clears it away.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ckptfs.client.marker import NAME
from ckptfs.errors import InvalidInputError

Given = str | os.PathLike[str]

_PREFIX = ".ckptfs-incoming-"
_NEW, _BEFORE = "new", "before"

# what rename(2) says where a directory, or a file, has just come
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
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
    _clear(directory)
    with _temporary(directory) as temporary:
        copy(source, temporary / _NEW, root)
        _give_name(temporary, directory / source.name)


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
    new, aside = temporary / _NEW, temporary / _BEFORE / target.name
    aside.parent.mkdir()
    # rename(2) replaces a file by a file, and nothing by a directory
    while True:
        if (target.is_dir() and not target.is_symlink()) or (new.is_dir() and os.path.lexists(target)):
            try:
                os.rename(target, aside)
            except FileNotFoundError:
                continue  # another copy of the same name has just moved it aside
        try:
            os.replace(new, target)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                if os.path.lexists(aside):
                    os.rename(aside, target)
                raise
            if os.path.lexists(aside):
                _remove(aside)  # and that copy is there now


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """Make a directory for one copy, and remove it in the end."""
    with ExitStack() as stack:
        while True:
            path = directory / f"{_PREFIX}{secrets.token_hex(8)}"
            path.mkdir()
            if _lock(path, stack, fcntl.LOCK_EX) or path.exists():
                break  # without a lock on a filesystem that has none
            # another had it taken for one of a program that was killed
        # before the lock is given up, so that nobody takes it for that
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def _clear(directory: Path) -> None:
    """Remove what programs that were killed have left; what they had moved out of the way goes back."""
    for name in os.listdir(directory):
        with ExitStack() as stack:
            path = directory / name
            if not (name.startswith(_PREFIX) and _lock(path, stack, fcntl.LOCK_EX | fcntl.LOCK_NB)):
                continue
            for before in path.glob(f"{_BEFORE}/*"):
                if not os.path.lexists(directory / before.name):
                    os.rename(before, directory / before.name)
            shutil.rmtree(path, ignore_errors=True)


def _lock(path: Path, stack: ExitStack, how: int) -> bool:
    """Lock a directory as long as a stack lasts; False if another has the lock, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        fcntl.flock(fd, how)
        # a child that was forked meanwhile has the descriptor, too
        stack.callback(fcntl.flock, fd, fcntl.LOCK_UN)
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
