"""Random operations on a mount, saves, remounts, crashes and restores, compared after each step with a tree in memory.

CKPTFS_TEST_EXAMPLES    stories to try (default 12, in the same order every time); more are random ones, and shrunk
CKPTFS_TEST_STEPS       steps of a story (default 40)
"""

import errno
import fcntl
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ckptfs.fs.transport.choice import passthrough_obstacle
from tests.e2e.busy_program import exchange
from tests.e2e.model import Inode, Model
from tests.mounting import TRANSPORT, Mounts, touch
from tests.snapshot import Snapshot, assert_same, snapshot, without_content

EXAMPLES = int(os.environ.get("CKPTFS_TEST_EXAMPLES", "12"))
STEPS = int(os.environ.get("CKPTFS_TEST_STEPS", "40"))
IS_SHORT = "CKPTFS_TEST_EXAMPLES" not in os.environ

HANDS_OVER = TRANSPORT != "fusepy" and passthrough_obstacle() is None
"""Not through libfuse, where a server that is killed takes with it what is open, and names cannot be exchanged."""
NAMES = [b"a", b"b", b"model.pt", b"two words", "größe".encode(), b"\xff\xfe"]
MAY_CHOWN = os.geteuid() == 0
_ids = st.sampled_from([0, 1000, 65533])
_modes = st.sampled_from([0o600, 0o644, 0o755, 0o400, 0o1777, 0o2750, 0o4755])
_data = st.one_of(
    st.binary(max_size=20),
    # three chunks, so that dedup has something to find
    st.builds(
        lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.sampled_from([1, 4096, 70_000, 300_000])
    ),
    st.builds(lambda seed: _noise(seed, 150_000), st.integers(0, 5)),
)
_offsets = st.sampled_from([0, 1, 4095, 4096, 65_536, 200_000, 1_000_000])
_times = st.integers(0, 4_000_000_000_000_000_000)


def _noise(seed: int, size: int) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


class MountStory(RuleBasedStateMachine):
    """One store, and a mount of it that is compared with a model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="ckptfs-model-"))
        self.mounts = Mounts(self.directory, deadline_s=300.0)
        self.versions: dict[int, Snapshot] = {}
        self.notes: dict[int, Any] = {}
        self.caches = 1
        self.handles: list[tuple[int, Inode]] = []
        self.reads = True
        """False: the mount is compared without opening its files, so that those without data stay so."""

    @initialize()
    def begin(self) -> None:
        self.mount = self.mounts(cache=self.cache)
        status = os.stat(self.mount.root)
        self.model = Model(Inode("d", status.st_mode & 0o7777, status.st_uid, status.st_gid))

    def teardown(self) -> None:
        self._close_handles()
        self.mounts.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def cache(self) -> str:
        return f"cache-{self.caches}"

    # running the same on both

    def real(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.mount.root), path) if path else os.fsencode(self.mount.root)

    def both(self, really: Callable[[], object], modelled: Callable[[], object]) -> bool:
        """Do it in the mount and in the model; both succeed, or both fail with the same errno. True if they succeed."""
        expected = actual = 0
        try:
            modelled()
        except OSError as error:
            expected = error.errno or -1
        try:
            really()
        except OSError as error:
            actual = error.errno or -1
        assert actual == expected, f"errno is {_name(actual)}, should be {_name(expected)}"
        return expected == 0

    def some_path(self, data: st.DataObject, kinds: str) -> bytes:
        return data.draw(st.sampled_from(self.model.paths(kinds)), label="path")

    def new_path(self, data: st.DataObject) -> bytes:
        """A name in a directory; often one that is taken."""
        above = data.draw(st.sampled_from(self.model.directories()), label="directory")
        name = data.draw(st.sampled_from(NAMES), label="name")
        return above + b"/" + name if above else name

    def new_inode(self, kind: str, mode: int) -> Inode:
        return Inode(kind, mode, os.geteuid(), os.getegid())

    def has(self, kinds: str) -> bool:
        return bool(self.model.paths(kinds))

    # names

    @rule(data=st.data(), mode=_modes, content=_data)
    def create(self, data: st.DataObject, mode: int, content: bytes) -> None:
        path = self.new_path(data)

        def really() -> None:
            fd = os.open(self.real(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.fchmod(fd, mode)
                _write_all(fd, content, 0)
            finally:
                os.close(fd)
            # a write takes the set-id bits away, unless root writes
            os.chmod(self.real(path), mode)

        def modelled() -> None:
            inode = self._inherit_group(path, self.model.make(path, self.new_inode("-", mode)))
            self.model.write(inode, 0, content)

        self.both(really, modelled)

    @rule(data=st.data())
    def make_directory(self, data: st.DataObject) -> None:
        path = self.new_path(data)
        setgid = self.model.tree[path.rpartition(b"/")[0]].mode & 0o2000

        def modelled() -> None:
            inode = self.model.make(path, self.new_inode("d", 0o755 | setgid))
            if setgid:
                inode.gid = self.model.tree[path.rpartition(b"/")[0]].gid

        self.both(lambda: os.mkdir(self.real(path), 0o755), modelled)

    @rule(data=st.data(), points_to=st.sampled_from([b"a", b"../b", b"/nowhere", b"\xff" * 300]))
    def make_symlink(self, data: st.DataObject, points_to: bytes) -> None:
        path = self.new_path(data)

        def modelled() -> None:
            self._inherit_group(path, self.model.make(path, self.new_inode("l", 0o777))).content.extend(points_to)

        self.both(lambda: os.symlink(points_to, self.real(path)), modelled)

    @rule(data=st.data())
    def make_fifo(self, data: st.DataObject) -> None:
        path = self.new_path(data)
        self.both(
            lambda: os.mkfifo(self.real(path), 0o640),
            lambda: self._inherit_group(path, self.model.make(path, self.new_inode("p", 0o640))),
        )

    def _inherit_group(self, path: bytes, inode: Inode) -> Inode:
        above = self.model.tree[path.rpartition(b"/")[0]]
        if above.mode & 0o2000:
            inode.gid = above.gid
        return inode

    @precondition(lambda self: self.has("-lp"))
    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        source, path = self.some_path(data, "-lp"), self.new_path(data)
        self.both(
            lambda: os.link(self.real(source), self.real(path), follow_symlinks=False),
            lambda: self.model.link(source, path),
        )

    @precondition(lambda self: self.has("-lpd"))
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        path = self.some_path(data, "-lpd")
        self.both(lambda: os.unlink(self.real(path)), lambda: self.model.unlink(path))

    @precondition(lambda self: self.has("d"))
    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        path = self.some_path(data, "d")
        self.both(lambda: os.rmdir(self.real(path)), lambda: self.model.rmdir(path))

    @precondition(lambda self: self.has("-lpd"))
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old, new = self.some_path(data, "-lpd"), self.new_path(data)
        self.both(lambda: os.rename(self.real(old), self.real(new)), lambda: self.model.rename(old, new))

    @precondition(lambda self: HANDS_OVER and self.has("-lpd"))
    @rule(data=st.data())
    def exchange(self, data: st.DataObject) -> None:
        one, other = self.some_path(data, "-lpd"), self.some_path(data, "-lpd")
        self.both(
            lambda: exchange(Path(os.fsdecode(self.real(one))), Path(os.fsdecode(self.real(other)))),
            lambda: self.model.exchange(one, other),
        )

    # content

    @precondition(lambda self: self.has("-"))
    @rule(data=st.data(), offset=_offsets, content=_data)
    def write(self, data: st.DataObject, offset: int, content: bytes) -> None:
        path = self.some_path(data, "-")
        inode = self.model.find(path)

        def really() -> None:
            with _opened(self.real(path), os.O_WRONLY) as fd:
                _write_all(fd, content, offset)

        if content:
            self.both(really, lambda: self.model.write(inode, offset, content))

    @precondition(lambda self: self.has("-"))
    @rule(data=st.data(), content=_data)
    def append(self, data: st.DataObject, content: bytes) -> None:
        path = self.some_path(data, "-")
        inode = self.model.find(path)

        def really() -> None:
            with _opened(self.real(path), os.O_WRONLY | os.O_APPEND) as fd:
                assert os.write(fd, content) == len(content)

        if content:
            self.both(really, lambda: self.model.write(inode, len(inode.content), content))

    @precondition(lambda self: self.has("-"))
    @rule(data=st.data(), content=_data)
    def rewrite(self, data: st.DataObject, content: bytes) -> None:
        path = self.some_path(data, "-")
        inode = self.model.find(path)

        def really() -> None:
            with _opened(self.real(path), os.O_WRONLY | os.O_TRUNC) as fd:
                _write_all(fd, content, 0)

        def modelled() -> None:
            self.model.truncate(inode, 0)
            self.model.write(inode, 0, content)

        self.both(really, modelled)

    @precondition(lambda self: self.has("-"))
    @rule(data=st.data(), size=_offsets)
    def truncate(self, data: st.DataObject, size: int) -> None:
        path = self.some_path(data, "-")
        inode = self.model.find(path)
        self.both(lambda: os.truncate(self.real(path), size), lambda: self.model.truncate(inode, size))

    @precondition(lambda self: self.has("-"))
    @rule(data=st.data(), content=st.binary(min_size=1, max_size=50), saves=st.booleans())
    def write_through_mapping(self, data: st.DataObject, content: bytes, saves: bool) -> None:
        """A shared mapping, saved while it is dirty and nobody has flushed it, or not."""
        path = self.some_path(data, "-")
        inode = self.model.find(path)
        if len(inode.content) < len(content):
            return
        with _opened(self.real(path), os.O_RDWR) as fd:
            with mmap.mmap(fd, len(inode.content)) as mapping:
                mapping[: len(content)] = content
                self.model.write(inode, 0, content)
                if saves:
                    self._save("note")

    # open handles

    @precondition(lambda self: self.has("-") and len(self.handles) < 3)
    @rule(data=st.data(), flags=st.sampled_from([os.O_RDWR, os.O_WRONLY]))
    def open_and_keep(self, data: st.DataObject, flags: int) -> None:
        path = self.some_path(data, "-")
        self.handles.append((os.open(self.real(path), flags), self.model.find(path)))

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), offset=_offsets, content=_data)
    def write_to_kept_handle(self, data: st.DataObject, offset: int, content: bytes) -> None:
        fd, inode = self.handles[data.draw(st.integers(0, len(self.handles) - 1), label="handle")]
        if content:
            _write_all(fd, content, offset)
            self.model.write(inode, offset, content)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), size=_offsets)
    def truncate_kept_handle(self, data: st.DataObject, size: int) -> None:
        fd, inode = self.handles[data.draw(st.integers(0, len(self.handles) - 1), label="handle")]
        os.ftruncate(fd, size)
        self.model.truncate(inode, size)

    @precondition(lambda self: self.handles)
    @rule()
    def close_kept_handles(self) -> None:
        self._close_handles()

    def _close_handles(self) -> None:
        for fd, _ in self.handles:
            try:
                os.close(fd)
            except OSError:
                pass  # its mount was killed
        self.handles.clear()

    # attributes

    @precondition(lambda self: self.has("-dp"))
    @rule(data=st.data(), mode=_modes)
    def chmod(self, data: st.DataObject, mode: int) -> None:
        path = self.some_path(data, "-dp")
        if not MAY_CHOWN:
            mode |= 0o700
        os.chmod(self.real(path), mode)
        self.model.find(path).mode = mode

    @precondition(lambda self: MAY_CHOWN and self.has("-dlp"))
    @rule(data=st.data(), uid=_ids, gid=_ids)
    def chown(self, data: st.DataObject, uid: int, gid: int) -> None:
        path = self.some_path(data, "-dlp")
        os.chown(self.real(path), uid, gid, follow_symlinks=False)
        inode = self.model.find(path)
        inode.uid, inode.gid = uid, gid
        if inode.kind not in "dl":
            # the kernel takes the set-id bits away; set-group-id without group execution is no such bit
            inode.mode &= ~0o4000 if inode.mode & 0o2010 != 0o2010 else ~0o6000

    @precondition(lambda self: self.has("-dlp"))
    @rule(data=st.data(), mtime_ns=_times)
    def set_times(self, data: st.DataObject, mtime_ns: int) -> None:
        path = self.some_path(data, "-dlp")
        os.utime(self.real(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        self.model.find(path).mtime_ns = mtime_ns

    @precondition(lambda self: self.has("-d"))
    @rule(data=st.data(), name=st.sampled_from(["user.a", "user.step"]), value=st.binary(max_size=30))
    def set_xattr(self, data: st.DataObject, name: str, value: bytes) -> None:
        path = self.some_path(data, "-d")
        os.setxattr(self.real(path), name, value)
        self.model.find(path).xattrs[name] = value

    @precondition(lambda self: self.has("-d"))
    @rule(data=st.data(), name=st.sampled_from(["user.a", "user.step"]))
    def remove_xattr(self, data: st.DataObject, name: str) -> None:
        path = self.some_path(data, "-d")
        xattrs = self.model.find(path).xattrs

        def modelled() -> None:
            if name not in xattrs:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            del xattrs[name]

        self.both(lambda: os.removexattr(self.real(path), name), modelled)

    # versions

    @rule(way=st.sampled_from(["times", "open", "note", "rename"]))
    def save(self, way: str) -> None:
        self._save(way)

    def _save(self, way: str) -> None:
        note: object = None
        if way == "times":
            os.utime(self.mount.root / ".save")
        elif way == "open":
            touch(self.mount.root)
        elif way == "note":
            note = {"step": len(self.versions)}
            touch(self.mount.root, json.dumps(note))
        else:
            note = "moved here"
            path = self.mount.root / "becomes the note"
            path.write_text(note)
            path.rename(self.mount.root / ".save")
            self.model.tree[b""].mtime_ns = None
        self.matches()
        number = max(self.versions, default=0) + 1
        self.versions[number], self.notes[number] = self.model.snapshot(), note
        marker = self.mount.marker()
        assert (marker["version"], marker["note"], marker["error"]) == (number, note, None)
        files = [node for node in self.versions[number].values() if node.kind == "-"]
        assert (marker["files"], marker["bytes"]) == (len(files), sum(node.size_bytes for node in files))

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def look_at_version(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)), label="version")
        self.mount.sync()
        shown = snapshot(self.mount.root / ".versions" / str(number))
        assert_same(self.versions[number], shown, f".versions/{number}")
        assert os.readlink(self.mount.root / ".versions" / "latest") == str(max(self.versions))

    @precondition(lambda self: self.versions)
    @rule(data=st.data(), reads=st.booleans(), closes=st.booleans())
    def restore(self, data: st.DataObject, reads: bool, closes: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)), label="version")
        if closes or not HANDS_OVER:
            self._close_handles()
        unsaved = self._unsaved()
        self.mount.restore(number)
        self.reads = reads
        self.model = Model.of(self.versions[number])
        self._know_handles()
        self._check_kept(unsaved)

    def _know_handles(self) -> None:
        """What is open is a file of the version whose content it had already, or has no name any more."""
        named = {os.lstat(self.real(path)).st_ino: path for path in self.model.paths("-")}
        for index, (fd, inode) in enumerate(self.handles):
            path = named.get(os.fstat(fd).st_ino)
            assert (path is None) == (os.fstat(fd).st_nlink == 0)
            if path is not None:
                assert self.model.find(path).content == inode.content
                self.handles[index] = fd, self.model.find(path)

    @precondition(lambda self: HANDS_OVER)
    @rule(spares_uploads=st.booleans())
    def take_over(self, spares_uploads: bool) -> None:
        """The process that serves is killed, and nobody notices."""
        if not spares_uploads:
            self.mount.kill_upload_process()
        self.mount.kill_server()

    @rule(cache=st.sampled_from(["same", "empty"]), prefetch=st.booleans(), saves=st.booleans(), reads=st.booleans())
    def remount(self, cache: str, prefetch: bool, saves: bool, reads: bool) -> None:
        """Unmount, and mount again here or on another machine."""
        self._close_handles()
        if saves:
            touch(self.mount.root)
            self.versions[max(self.versions, default=0) + 1] = self.model.snapshot()
        unsaved = {} if cache == "empty" else self._unsaved()
        assert self.mount.unmount() == 0
        if cache == "empty":
            self.caches += 1
        self.reads = reads
        self._begin_again(unsaved, prefetch)

    @rule(prefetch=st.booleans(), spares_uploads=st.booleans(), reads=st.booleans())
    def crash(self, prefetch: bool, spares_uploads: bool, reads: bool) -> None:
        unsaved = self._unsaved()
        if not spares_uploads:
            self.mount.kill_upload_process()
        self.mount.kill()
        self._close_handles()
        self.reads = reads
        self._begin_again(unsaved, prefetch)

    def _begin_again(self, unsaved: Snapshot, prefetch: bool) -> None:
        self.mount = self.mounts(cache=self.cache, prefetch=prefetch)
        newest = max(self.versions, default=0)
        assert self.mount.marker()["version"] == newest
        if newest:
            self.model = Model.of(self.versions[newest])
        else:
            # the root of an empty store looks like the mount point
            status = os.stat(self.mount.root)
            self.model = Model(Inode("d", status.st_mode & 0o7777, status.st_uid, status.st_gid))
        self._check_kept(unsaved)

    def _unsaved(self) -> Snapshot:
        """Files whose bytes are in no version under their name."""
        newest = self.versions.get(max(self.versions, default=0), {})
        return {
            path: node
            for path, node in self.model.snapshot().items()
            if node.kind == "-" and node.content and (path not in newest or newest[path].content != node.content)
        }

    def _check_kept(self, unsaved: Snapshot) -> None:
        roots = [os.fsencode(each) for each in (self.mount.cache / "unsaved").iterdir()]
        for path, node in unsaved.items():
            # of an inode with several names one is enough
            places = [Path(os.fsdecode(os.path.join(root, name))) for root in roots for name in node.links or {path}]
            found = any(place.is_file() and place.read_bytes() == node.content for place in places)
            assert found or self._is_elsewhere(node), f"{path!r} was never saved and is not kept"

    def _is_elsewhere(self, node: Any) -> bool:
        return any(node.content == other.content for version in self.versions.values() for other in version.values())

    @invariant()
    def handles_are_what_they_were(self) -> None:
        """Also of files that have no name any more."""
        for fd, inode in self.handles:
            assert os.fstat(fd).st_size == len(inode.content)
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
                assert os.pread(fd, len(inode.content) + 1, 0) == inode.content

    @invariant()
    def matches(self) -> None:
        """The mount is the model, in every name, byte and attribute."""
        actual = snapshot(self.mount.root, reads=self.reads)
        self.model.learn(actual)
        expected = self.model.snapshot()
        assert_same(expected if self.reads else without_content(expected), actual, "the mount")

    @precondition(lambda self: not self.reads)
    @rule()
    def read_everything(self) -> None:
        self.reads = True


class _opened:  # noqa: N801
    """A descriptor for the length of a block."""

    def __init__(self, path: bytes, flags: int) -> None:
        self._fd = os.open(path, flags)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _name(number: int) -> str:
    return errno.errorcode.get(number, "0")


MountStory.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=IS_SHORT,
    database=None,
    # a story takes seconds: shrinking one is for the long run
    phases=[Phase.generate] if IS_SHORT else [Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=not IS_SHORT,
)


TestMountBehavesAsATreeInMemory = MountStory.TestCase
TestMountBehavesAsATreeInMemory.pytestmark = [  # type: ignore[attr-defined]
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.timeout(240 if IS_SHORT else 24 * 3600),
]
