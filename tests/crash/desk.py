"""A whole product in one process, without the kernel: a mount's operations, and the upload process's work on demand.

Its file tree is driven as a transport drives it, so that everything that a save, a recovery or an upload does to local
disk and store is done by this process, in one order, and can be cut short at any step.
"""

import json
import os
import threading
from pathlib import Path

from ckptfs.fs.attributes import Caller
from ckptfs.fs.handles import Handle
from ckptfs.fs.options import MountOptions
from ckptfs.fs.writing import WritingMount
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.encoding import EncoderPool
from ckptfs.transfer.events import Events
from ckptfs.transfer.process import EXIT_DONE, UploadProcess

_CALLER = Caller(os.geteuid(), os.getegid(), os.getpid())
_PIECE_BYTES = 1 << 20


def store_of(scene: Path) -> str:
    """The URL of a scene's store."""
    return (scene / "store").as_uri()


class Desk:
    """One mount over `store` and `cache` in a directory.

    Args:
        scene: The directory.
        boot: The machine's boot id, as the mount is to see it.
        takeover: As of `ckptfs mount`.
    """

    def __init__(self, scene: Path, boot: str, *, takeover: bool = False) -> None:
        import ckptfs.fs.tenure

        ckptfs.fs.tenure.boot_id = lambda: boot  # type: ignore[assignment]
        mountpoint = scene / "mnt"
        mountpoint.mkdir(exist_ok=True)
        self.mount = WritingMount(
            MountOptions(
                store=store_of(scene),
                mountpoint=mountpoint,
                cache_dir=scene / "cache",
                drain_timeout_s=0.0,
                prefetch=False,
                takeover=takeover,
            )
        )
        self._operations = self.mount.operations

    @property
    def version(self) -> int:
        """The newest captured version."""
        return self._operations.newest_version()

    def write(self, path: str, data: bytes, offset_bytes: int = 0, *, truncates: bool = False) -> None:
        """Open, write, close."""
        name = os.fsencode(path)
        if self._exists(name):
            handle = self._operations.open(name, os.O_WRONLY, _CALLER)
            if truncates:
                self._operations.truncate(name, 0, handle)
        else:
            handle = self._operations.create(name, os.O_WRONLY, 0o644, _CALLER)
        self._operations.write(handle, memoryview(data), offset_bytes)
        self._close(handle)

    def truncate(self, path: str, size_bytes: int) -> None:
        """truncate(2)."""
        self._operations.truncate(os.fsencode(path), size_bytes)

    def rename(self, old: str, new: str) -> None:
        """rename(2)."""
        self._operations.rename(os.fsencode(old), os.fsencode(new))

    def link(self, old: str, new: str) -> None:
        """link(2)."""
        self._operations.link(os.fsencode(old), os.fsencode(new))

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        self._operations.unlink(os.fsencode(path))

    def mkdir(self, path: str) -> None:
        """mkdir(2)."""
        self._operations.mkdir(os.fsencode(path), 0o755, _CALLER)

    def touch(self, note: str = "") -> None:
        """Touch the save marker."""
        handle = self._operations.open(b".save", os.O_WRONLY, _CALLER)
        if note:
            self._operations.write(handle, memoryview(note.encode()), 0)
        self._close(handle)

    def restore(self, spec: str) -> None:
        """Write to `.restore`."""
        handle = self._operations.open(b".restore", os.O_WRONLY, _CALLER)
        self._operations.write(handle, memoryview(spec.encode()), 0)
        self._close(handle)

    def files(self) -> dict[str, bytes]:
        """Read the whole tree."""
        found: dict[str, bytes] = {}
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            for listed in self._operations.listing(directory):
                if listed.name in (b".", b".."):
                    continue
                path = directory + b"/" + listed.name if directory else listed.name
                attributes = self._operations.attributes(path, _CALLER)
                if attributes.mode & 0o170000 == 0o040000:
                    waiting.append(path)
                else:
                    found[os.fsdecode(path)] = self._read(path, attributes.size_bytes)
        return found

    def upload(self) -> None:
        """Do what the upload process does once nobody tells it of anything new, and tell the mount."""
        said, saying = os.pipe()
        told: list[bytes] = []

        def listen() -> None:
            with os.fdopen(said, "rb") as lines:
                for line in lines:
                    told.append(line)
                    self.mount._parts.uploads._handle(json.loads(line))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        process = UploadProcess(self.mount.cache, Events(saying), EncoderPool(1, chunk_bytes=CHUNK_BYTES))
        code = process.run()
        os.close(saying)
        listener.join()
        if code != EXIT_DONE:
            raise AssertionError(f"the upload ended with {code}: {told[-3:]}")

    def end(self) -> None:
        """Unmount. What is pending stays."""
        self.mount.finish(threading.Event())

    def _exists(self, path: bytes) -> bool:
        try:
            self._operations.attributes(path, _CALLER)
        except OSError:
            return False
        return True

    def _read(self, path: bytes, size_bytes: int) -> bytes:
        handle = self._operations.open(path, os.O_RDONLY, _CALLER)
        content = bytearray(size_bytes)
        view, offset = memoryview(content), 0
        while offset < size_bytes:
            count = self._operations.read_into(handle, view[offset : offset + _PIECE_BYTES], offset)
            if not count:
                break
            offset += count
        self._close(handle)
        return bytes(view[:offset])

    def _close(self, handle: Handle) -> None:
        self._operations.flush(handle)
        self._operations.release(handle)
