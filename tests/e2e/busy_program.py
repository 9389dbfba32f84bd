"""A program that works on a directory until it is told to stop, and checks everything that it sees.

    python -m tests.e2e.busy_program KIND DIRECTORY SEED

Any error and anything that is not as a local filesystem would have it ends it with a traceback and exit code 1. A line
on standard input, or its end, tells it to stop; it then says how often it went round.
"""

import ctypes
import errno
import hashlib
import json
import mmap
import os
import random
import select
import sys
from collections.abc import Callable
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def write(top: Path, chance: random.Random, turn: int) -> None:
    """Write files as programs do, and read them again."""
    data = chance.randbytes(chance.choice((1, 4096, 300_000)))
    path = top / f"written-{turn % 5}"
    how = chance.choice(("truncate", "append", "in place", "mapped", "nameless", "renamed"))
    before = path.read_bytes() if path.exists() else b""
    if how == "truncate":
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(data), 65536):
                assert file.write(data[start : start + 65536]) == len(data[start : start + 65536])
        wanted = data
    elif how == "append":
        with path.open("ab", buffering=0) as file:
            file.write(data)
            assert os.fstat(file.fileno()).st_size == len(before) + len(data)
        wanted = before + data
    elif how == "in place":
        with path.open("r+b" if before else "w+b", buffering=0) as file:
            offset = chance.randrange(len(before) + 1)
            file.seek(offset)
            file.write(data)
            wanted = before[:offset] + data + before[offset + len(data) :]
            file.seek(0)
            assert file.read() == wanted
    elif how == "mapped":
        with path.open("w+b", buffering=0) as file:
            file.truncate(len(data))
            with mmap.mmap(file.fileno(), len(data)) as mapping:
                mapping[:] = data
                mapping.flush()
        wanted = data
    elif how == "nameless":
        _write_nameless(top, data)
        wanted = before
    else:
        temporary = top / f"temporary-{turn}"
        temporary.write_bytes(data)
        temporary.rename(path)
        wanted = data
    assert (path.read_bytes() if path.exists() else b"") == wanted, how
    if len(wanted) > 2_000_000:
        path.unlink()


def _write_nameless(top: Path, data: bytes) -> None:
    path = top / "nameless"
    with path.open("w+b", buffering=0) as file:
        path.unlink()
        assert not path.exists()
        for _ in range(5):
            file.seek(0)
            file.write(data)
            file.seek(0)
            assert file.read() == data
            assert os.fstat(file.fileno()).st_nlink == 0


def name(top: Path, chance: random.Random, turn: int) -> None:
    """Make, move and remove names, every change once and no more."""
    below = top / f"names-{turn % 3}"
    below.mkdir()
    first, second, third = (below / str(number) for number in range(3))
    os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    try:
        os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        raise AssertionError("made twice")
    except FileExistsError:
        pass
    first.write_bytes(b"first")
    os.link(first, second)
    assert first.stat().st_nlink == 2
    first.rename(third)
    third.write_bytes(b"third")
    assert second.read_bytes() == b"third"
    first.symlink_to("3")
    second.unlink()
    second.write_bytes(b"second")
    exchange(second, third)
    found = second.read_bytes(), third.read_bytes()
    assert found == (b"third", b"second"), (turn, found, second.stat(), third.stat())
    os.setxattr(third, "user.turn", b"%d" % turn, os.XATTR_CREATE)
    assert os.getxattr(third, "user.turn") == b"%d" % turn
    os.removexattr(third, "user.turn")
    assert os.listxattr(third) == []
    mode = chance.choice((0o600, 0o644, 0o755))
    third.chmod(mode)
    os.utime(third, ns=(1, turn))
    status = third.stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (mode, turn)
    moved = top / f"moved-{turn % 3}"
    below.rename(moved)
    assert sorted(os.listdir(moved)) == ["0", "1", "2"]
    for path in (first, second, third):
        (moved / path.name).unlink()
    moved.rmdir()
    assert not below.exists()


def exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    if _libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_SHARED = random.Random(1).randbytes(3_000_000)


def read(top: Path, chance: random.Random, turn: int) -> None:
    """Read a file that stays open, a file that is opened anew, and a listing."""
    path = top / "read"
    if turn == 0:
        path.write_bytes(_SHARED)
        read.file = path.open("rb", buffering=0)  # type: ignore[attr-defined]
        for number in range(300):
            (top / f"listed-{number}").touch()
    offset = chance.randrange(len(_SHARED))
    wanted = _SHARED[offset : offset + 100_000]
    assert os.pread(read.file.fileno(), 100_000, offset) == wanted  # type: ignore[attr-defined]
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100_000, offset) == wanted
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            assert mapping[offset : offset + 100_000] == wanted
    found = sorted(os.listdir(top))
    assert len(found) == len(set(found)) == 301, len(found)
    assert (top / "absent").exists() is False


def save(top: Path, chance: random.Random, turn: int) -> None:
    """Change something and save it; say what every version must hold of it."""
    (top / "step").write_text(str(turn))
    (top / f"data-{turn % 4}").write_bytes(chance.randbytes(20_000))
    marker = top / ".save"
    note = {"turn": turn}
    if turn % 2:
        marker.write_text(json.dumps(note))
    else:
        fd = os.open(marker, os.O_WRONLY)
        os.write(fd, json.dumps(note).encode())
        if turn % 10 == 8:
            os.fsync(fd)
        os.close(fd)
    shown = json.loads(marker.read_bytes())
    content = digests(top)
    said = {"turn": turn, "version": shown["version"], "note": shown["note"], "content": content}
    sys.stdout.write(json.dumps(said) + "\n")


def digests(top: Path) -> dict[str, str]:
    """Return name to SHA-256 of every file in a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(top.iterdir())}


def main(kind: str, directory: str, seed: str) -> None:
    """Go round until told to stop."""
    rounds: dict[str, Callable[[Path, random.Random, int], None]] = {
        "write": write, "name": name, "read": read, "save": save,
    }  # fmt: skip
    top, chance, turn = Path(directory), random.Random(f"{kind} {seed}"), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            rounds[kind](top, chance, turn)
        except OSError as error:
            error.add_note(f"turn {turn}, {errno.errorcode.get(error.errno or 0)}")
            raise
        turn += 1
    sys.stdout.write(f"{turn} rounds\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
