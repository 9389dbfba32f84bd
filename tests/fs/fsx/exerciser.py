"""Random operations on one file of a mount, across saves and remounts, compared with a model after each read.

The operations follow from the seed alone. What led to a difference is printed: the last operations, and before them
those that touched the differing byte. The idea is that of Apple's fsx.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.fs.fsx.file import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PAGE_BYTES,
    PUNCH_HOLE,
    ZERO_RANGE,
    DifferenceError,
    ExercisedFile,
    Handle,
)
from tests.mounting import Mount, MountFailedError, Mounts

_SHOWN = 60
_LOG_CHARACTERS = 3000
_NOISE_BYTES = 1 << 20
_OPEN_WAYS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]
_EXTRA_FLAGS = [0, 0, 0, 0, os.O_DIRECT, os.O_DIRECT, os.O_APPEND, os.O_TRUNC]
_MAX_HANDLES, _MAX_MAPPINGS = 5, 3
_MAX_KEPT = 6
"""Versions that wait for being compared."""


class Exerciser:
    """One story: a store, a mount of it, a file.

    Args:
        mounts: Where it mounts; the exerciser unmounts what it mounts.
        transport: Of MountOptions.
        seed: Decides everything.
        max_bytes: The file's largest size.
    """

    def __init__(self, mounts: Mounts, transport: str, seed: int, max_bytes: int) -> None:
        self._mounts = mounts
        self._transport = transport
        self._max_bytes = max_bytes
        self._random = random.Random(seed)
        self._noise = random.Random(seed + 1).randbytes(_NOISE_BYTES + max_bytes)
        self._log: list[tuple[str, int, int]] = []
        self._caches = 0
        self._versions: dict[int, bytes] = {}
        self._newest = b""
        self._mount = self._start()
        self.file = ExercisedFile(self._mount.root / "file", max_bytes)
        self.file.open(os.O_RDWR | os.O_CREAT)
        self._save()
        self._operations, self._weights = self._choose_operations()

    def run(self, operations: int) -> None:
        """Do that many operations, compare all that was saved, and unmount. Raises DifferenceError."""
        try:
            for operation in self._random.choices(self._operations, self._weights, k=operations):
                operation()
                self.file.check_size()
            self._check_versions()
            self._remount()
        except (DifferenceError, OSError) as error:
            raise AssertionError(f"{error}\n{self._story(error)}") from error
        finally:
            self.file.close_all()
        self._mount.unmount()

    def _choose_operations(self) -> tuple[list[Callable[[], None]], list[float]]:
        weighed: dict[Callable[[], None], float] = {
            self._read: 20,
            self._write: 20,
            self._truncate: 5,
            self._map: 5,
            self._read_mapped: 12,
            self._write_mapped: 15,
            self._unmap: 3,
            self._open: 10,
            self._close: 8,
            self._close_every_one: 0.5,
            self._sync: 1,
            self._seek: 3,
            self._copy: 2,
            self._read_whole: 2,
            self._save: 1,
            self._check_versions: 0.1,
            self._remount: 0.03,
        }
        modes = {
            0: 2.0,
            KEEP_SIZE: 1.0,
            PUNCH_HOLE | KEEP_SIZE: 4.0,
            ZERO_RANGE: 2.0,
            ZERO_RANGE | KEEP_SIZE: 2.0,
            COLLAPSE_RANGE: 2.0,
            INSERT_RANGE: 2.0,
        }
        for mode, weight in modes.items():
            if self._has_mode(mode):
                weighed[self._allocating(mode)] = weight
        return list(weighed), list(weighed.values())

    def _has_mode(self, mode: int) -> bool:
        path = self._mount.root / "probe"
        path.write_bytes(bytes(4 * PAGE_BYTES))
        probe = ExercisedFile(path, PAGE_BYTES)
        handle = probe.open(os.O_RDWR)
        try:
            probe.allocate(handle, mode, PAGE_BYTES, PAGE_BYTES)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return False
        finally:
            probe.close(handle)
            path.unlink()
        return True

    # life of the mount

    def _start(self) -> Mount:
        options = {"name": f"mnt{self._caches}", "cache": f"cache{self._caches}"}
        return self._mounts(transport=self._transport, prefetch=self._random.random() < 0.5, **options)

    def _save(self) -> None:
        version = self._mount.save()
        self._newest = bytes(self.file.content)
        self._versions[version] = self._newest
        if len(self._versions) > _MAX_KEPT:
            del self._versions[self._random.choice(list(self._versions))]
        self._note(f"save version {version}")

    def _check_versions(self) -> None:
        self._note(f"compare versions {list(self._versions)}")
        self._mount.sync()
        for version, content in self._versions.items():
            self.file.read_whole(self._mount.root / ".versions" / str(version) / "file", content)
        self._versions.clear()

    def _remount(self) -> None:
        """Mount again, here or with an empty cache directory; what was not saved is gone then."""
        if self._random.random() < 0.8:
            self._save()
        self.file.close_all()
        self._mount.unmount()
        if self._random.random() < 0.5:
            shutil.rmtree(self._mount.cache_dir)
            self._caches += 1
        self._mount = self._start()
        self.file.path = self._mount.root / "file"
        self.file.content[:] = self._newest
        self._note(f"remount with cache {self._caches}")
        if self._random.random() < 0.5:
            self.file.read_whole()

    # handles and mappings

    def _open(self) -> None:
        if len(self.file.handles) >= _MAX_HANDLES:
            self.file.close(self._random.choice(self.file.handles))
        flags = self._random.choice(_OPEN_WAYS) | self._random.choice(_EXTRA_FLAGS)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            flags &= ~os.O_TRUNC
        self._note(f"open {_flag_names(flags)}")
        self.file.open(flags)

    def _close(self) -> None:
        if self.file.handles:
            handle = self._random.choice(self.file.handles)
            self._note(f"close {_flag_names(handle.flags)}")
            self.file.close(handle)

    def _close_every_one(self) -> None:
        self._note("close all handles")
        for handle in list(self.file.handles):
            self.file.close(handle)

    def _map(self) -> None:
        handle = self._handle(lambda handle: handle.reads, os.O_RDWR)
        if self.file.size:
            if len(self.file.mappings) >= _MAX_MAPPINGS:
                self.file.unmap(self._random.choice(self.file.mappings))
            self._note(f"map {_flag_names(handle.flags)}", 0, self.file.size)
            self.file.map(handle)

    def _unmap(self) -> None:
        if self.file.mappings:
            self._note("unmap")
            self.file.unmap(self._random.choice(self.file.mappings))

    def _handle(self, fits: Callable[[Handle], bool], way: int) -> Handle:
        """Return an open handle that fits, or a new one."""
        found = [handle for handle in self.file.handles if fits(handle)]
        if found:
            return self._random.choice(found)
        self._note(f"open {_flag_names(way)}")
        return self.file.open(way)

    # reading

    def _read(self) -> None:
        handle = self._handle(lambda handle: handle.reads, os.O_RDONLY)
        offset, length = self._range(self.file.size, handle)
        self._note(f"read {_flag_names(handle.flags)}", offset, length)
        self.file.read(handle, offset, length)

    def _read_mapped(self) -> None:
        if self.file.mappings and self.file.size:
            mapping = self._random.choice(self.file.mappings)
            offset, length = self._range(min(mapping.length, self.file.size))
            self._note("read mapped", offset, length)
            self.file.read_mapped(mapping, offset, length)

    def _read_whole(self) -> None:
        self._note("read all")
        self.file.read_whole()

    def _seek(self) -> None:
        if self.file.size:
            handle = self._handle(lambda handle: True, os.O_RDONLY)
            offset = self._random.randrange(self.file.size)
            self._note(f"seek {_flag_names(handle.flags)}", offset)
            self.file.seek_data(handle, offset)
            self.file.seek_hole(handle, offset)

    # changing

    def _write(self) -> None:
        handle = self._handle(lambda handle: handle.writes, os.O_WRONLY)
        offset, length = self._range(self._max_bytes, handle)
        if handle.flags & os.O_APPEND:
            length = min(length, self._max_bytes - self.file.size)
            offset = self.file.size
        if length:
            self._note(f"write {_flag_names(handle.flags)}", offset, length)
            self.file.write(handle, offset, self._data(length))

    def _write_mapped(self) -> None:
        found = [mapping for mapping in self.file.mappings if mapping.writes]
        if found and self.file.size:
            mapping = self._random.choice(found)
            offset, length = self._range(min(mapping.length, self.file.size))
            self._note("write mapped", offset, length)
            self.file.write_mapped(mapping, offset, self._data(length))
            if self._random.random() < 0.1:
                self._note("msync")
                mapping.sync()

    def _truncate(self) -> None:
        handle = self._handle(lambda handle: handle.writes, os.O_WRONLY) if self._random.random() < 0.7 else None
        size = self._random.randrange(self._max_bytes)
        self._note("truncate " + ("by name" if handle is None else _flag_names(handle.flags)), size, self._max_bytes)
        self.file.truncate(handle, size)

    def _allocating(self, mode: int) -> Callable[[], None]:
        def allocate() -> None:
            handle = self._handle(lambda handle: handle.writes, os.O_WRONLY)
            offset, length = self._range(self._max_bytes)
            if mode & (COLLAPSE_RANGE | INSERT_RANGE):
                offset, length = offset // PAGE_BYTES * PAGE_BYTES, -(-length // PAGE_BYTES) * PAGE_BYTES
                room = self.file.size - offset if mode & COLLAPSE_RANGE else self._max_bytes - self.file.size
                if length >= room or offset >= self.file.size:
                    return
            self._note(f"fallocate mode {mode:#x} {_flag_names(handle.flags)}", offset, length)
            self.file.allocate(handle, mode, offset, length)

        return allocate

    def _copy(self) -> None:
        target = self._handle(lambda handle: handle.writes and not handle.flags & os.O_APPEND, os.O_WRONLY)
        source = self._handle(lambda handle: handle.reads, os.O_RDONLY)
        offset, length = self._range(self.file.size)
        new_offset = self._random.randrange(self._max_bytes)
        length = min(length, self._max_bytes - new_offset, self.file.size - offset)
        # the ranges must not overlap
        if length > 0 and abs(offset - new_offset) >= length:
            self._note(f"copy from {offset} {_flag_names(source.flags)}", new_offset, length)
            self.file.copy(source, target, offset, new_offset, length)

    def _sync(self) -> None:
        handle = self._handle(lambda handle: True, os.O_RDWR)
        self._note(f"fsync {_flag_names(handle.flags)}")
        self._random.choice([os.fsync, os.fdatasync])(handle.fd)

    # choosing, and telling

    def _range(self, end: int, handle: Handle | None = None) -> tuple[int, int]:
        """Return offset and length of a range below an end; of whole pages for direct I/O."""
        longest = self._random.choice([64, PAGE_BYTES, self._max_bytes // 4])
        length = self._random.randint(1, longest)
        offset = self._random.randrange(max(1, end))
        if handle is not None and handle.is_direct:
            offset, length = offset // PAGE_BYTES * PAGE_BYTES, -(-length // PAGE_BYTES) * PAGE_BYTES
            return offset, min(length, self._max_bytes - offset)
        if self._random.random() < 0.3:
            offset = offset // PAGE_BYTES * PAGE_BYTES
        return offset, max(1, min(length, end - offset))

    def _data(self, length: int) -> bytes:
        start = self._random.randrange(_NOISE_BYTES)
        return self._noise[start : start + length]

    def _note(self, what: str, offset: int = 0, length: int = 0) -> None:
        self._log.append((what, offset, offset + length))

    def _story(self, error: Exception) -> str:
        first = max(0, len(self._log) - _SHOWN)
        at = error.offset if isinstance(error, DifferenceError) else -1
        touched = [index for index in range(first) if self._log[index][1] <= at < self._log[index][2]][-_SHOWN:]
        lines = []
        for index in [*touched, *range(first, len(self._log))]:
            what, start, end = self._log[index]
            mark = "*" if start <= at < end else " "
            lines.append(f"{mark} {index:7} {what}" + (f" [{start}, {end})" if end > start else ""))
        return "\n".join(lines)


def exercise(directory: Path, transport: str, seed: int, operations: int, max_bytes: int, deadline_s: float) -> None:
    """Run one story below an empty directory. Raises AssertionError with the story and the log."""
    mounts = Mounts(directory, deadline_s)
    try:
        Exerciser(mounts, transport, seed, max_bytes).run(operations)
    except (AssertionError, OSError, MountFailedError) as error:
        what = f"seed {seed}, {operations} operations, at most {max_bytes} bytes, {transport}"
        logs = [path.read_text(errors="replace")[-_LOG_CHARACTERS:] for path in directory.glob("*/*/mount.log")]
        raise AssertionError("\n".join([f"{what}: {error}", *logs])) from error
    finally:
        mounts.close()


def _flag_names(flags: int) -> str:
    way = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}[flags & os.O_ACCMODE]
    names = {os.O_DIRECT: "direct", os.O_APPEND: "append", os.O_TRUNC: "trunc"}
    return "+".join([way, *(name for flag, name in names.items() if flags & flag)])
