"""`.restore`: the live tree of a running mount becomes a version.

What differs is made anew as stubs, so it takes no time in proportion to bytes; what was never saved is set aside.
History is not touched: the next save makes a new version of what the live tree then is.
"""

import errno
import logging
import stat
import threading
from collections.abc import Callable

from ckptfs.capture.capture import Capturer
from ckptfs.capture.real_paths import RealPaths
from ckptfs.errors import FencedError, NoSuchVersionError, NotDurableError, os_error
from ckptfs.format.manifest import Entry, Kind, Tree
from ckptfs.fs.align import Aligner, Alignment, Doubts, Target, is_same_node
from ckptfs.fs.attributes import Attributes
from ckptfs.fs.live.names import LiveNames
from ckptfs.fs.live.tree import LiveTree
from ckptfs.fs.replacement import Replacing
from ckptfs.fs.uploads import Uploads
from ckptfs.versions.history import LATEST, History

log = logging.getLogger(__name__)


class LiveRestorer:
    """Restores versions into one live tree.

    Args:
        adopt: Called inside the closed gate with what was aligned, to bring link groups and stubs in line.
        pin: Called with a version that is to be restored, and the one on top of which that is: from then on it must
            not be dropped before there is a version above that.
        sync_timeout_s: How long a version that is still being uploaded is waited for.
        bring_in: Has what programs changed in mappings brought into the live files.
        mark_unseen: Marks what changed past us; called inside the gate.
        replacing: How requests by names are held back while the tree changes.
    """

    def __init__(
        self,
        *,
        history: History,
        live: LiveTree,
        names: LiveNames,
        capturer: Capturer,
        uploads: Uploads,
        make_aligner: Callable[[], Aligner],
        adopt: Callable[[Target, Alignment], None],
        pin: Callable[[int, int], None],
        sync_timeout_s: float,
        bring_in: Callable[[], object],
        mark_unseen: Callable[[], None],
        replacing: Replacing,
    ) -> None:
        self._history = history
        self._live = live
        self._names = names
        self._capturer = capturer
        self._uploads = uploads
        self._make_aligner = make_aligner
        self._adopt = adopt
        self._pin = pin
        self._sync_timeout_s = sync_timeout_s
        self._bring_in = bring_in
        self._mark_unseen = mark_unseen
        self._replacing = replacing
        self._placed: dict[bytes, Entry] = {}
        """What the last restore made that is no file and no directory."""
        self._taken: dict[bytes, Attributes] = {}
        """What all but files looked like that the last restore took away or made anew."""
        self._anew: set[bytes] = set()
        """Paths whose inodes the last restore took away or made; a directory may have stayed."""
        self._real_paths = RealPaths(live.root_fd)
        """As the tree was when the last restore began."""
        self._lock = threading.Lock()

    def check(self, spec: str) -> None:
        """Raise NoSuchVersionError or InvalidInputError if there is no such version."""
        if spec and not self._is_pending(spec):
            self._history.resolve(spec)

    def restore(self, spec: str) -> None:
        """Make the live tree a version.

        Raises:
            NoSuchVersionError, NotDurableError, FencedError, CorruptObjectError, StoreError: As they say.
        """
        if not spec:
            return
        with self._lock:
            if self._is_pending(spec):
                self._wait_durable()
            record = self._history.resolve(spec)
            wanted = self._history.tree(record)
            while not self._replace_on(self._pinned(record.version), wanted, record.version):
                pass  # a save came between
            log.info("restored version=%d base_version=%d", record.version, self._capturer.version)

    def _is_pending(self, spec: str) -> bool:
        """True of a version that is captured and not durable yet; the newest may be one."""
        waiting = {state.version for state in self._uploads.waiting()}
        return bool(waiting) if spec == LATEST else spec.isdigit() and int(spec) in waiting

    def _wait_durable(self) -> None:
        try:
            self._uploads.wait_durable(self._sync_timeout_s)
        except FencedError as error:
            raise NotDurableError(f"the newest version never became durable: {error.fact}") from error

    def _newest_durable(self) -> int:
        """Return the number of the newest captured version, against which the next capture is made."""
        self._wait_durable()
        return self._capturer.version

    def _pinned(self, version: int) -> int:
        """Return the number of the newest captured version, having pinned the one that is to be restored on top."""
        newest = self._newest_durable()
        if version != newest:
            self._pin(version, newest)
        return newest

    def _base(self, number: int) -> Tree | None:
        """Return the tree of the newest captured version, None if it is not the newest any more and has been pruned."""
        if not number:
            return {}
        try:
            return self._history.tree(self._history.version(number))
        except NoSuchVersionError as error:
            if self._capturer.version != number:
                return None
            raise OSError(errno.EIO, error.fact) from error

    def _replace_on(self, newest: int, wanted: Tree, version: int) -> bool:
        """Replace the live tree, unless it is the next version's by now."""
        base = self._base(newest)
        self._bring_in()
        with self._live.gate:
            # it writes mapped files to disk, which then is done but for a little when everybody has to wait for it
            self._mark_unseen()
        with self._replacing() as follow, self._live.gate.exclusive():
            if base is None or self._capturer.version != newest:
                return False
            self._anew, self._taken = set(), {}
            self._live.era += 1
            try:
                self._mark_unseen()
                self._replace(base, wanted, version)
            finally:
                follow(self._anew, self._look_of_taken)
            return True

    def _replace(self, base: Tree, wanted: Tree, version: int) -> None:
        live = self._live
        self._real_paths = RealPaths(live.root_fd)
        changed = {path for path in base.keys() | wanted.keys() if base.get(path) != wanted.get(path)}
        touched = live.changes.current.paths.keys()
        dirty = {path for path in touched if self._is_dirty(path)}
        kept = {path for path in (changed | touched) - dirty if _same_content(base.get(path), wanted.get(path))}
        doubtful = (changed | touched) - kept
        doubtful |= _link_partners(doubtful, wanted) | _link_partners(doubtful, base)
        kept -= doubtful
        precious = {path for path in dirty if not self._is_stored(path)}
        for path in sorted(doubtful | kept):
            live.changes.mark_name(path)
        live.changes.restoring(version)
        self._anew = doubtful
        self._let_go(doubtful)
        aligner = self._make_aligner()
        target = Target(wanted)
        try:
            aligner.align(target, Doubts(doubtful, precious))
            self._refresh(aligner, target, kept)
        finally:
            # of a disk that became full, too: what has been made is without data, and must not pass for zeros
            self._adopted(target, aligner.done, doubtful)

    def _adopted(self, target: Target, done: Alignment, doubtful: set[bytes]) -> None:
        """Know what has been made; all of it, or as much as could be."""
        wanted = target.tree
        self._adopt(target, done)
        made = {path: wanted[path] for path in doubtful if path in wanted}
        self._placed = {path: entry for path, entry in made.items() if entry.kind not in (Kind.FILE, Kind.DIRECTORY)}
        for path, ino in done.made.items():
            self._live.changes.restored(ino, wanted[path].extents)

    def _is_dirty(self, path: bytes) -> bool:
        """True if more of a path than its attributes may differ from the newest captured version."""
        changes = self._live.changes.current
        if not changes.only_attributes(path):
            return True
        try:
            # written through another of its names
            return self._real_paths.lstat(path).st_ino in changes.content
        except OSError:
            return True

    def _refresh(self, aligner: Aligner, target: Target, kept: set[bytes]) -> None:
        """Give paths whose content stays the attributes of the version."""
        aligner.refresh_attributes(target, kept)
        for path in kept:
            stub = self._live.hydrator.get(self._live.lstat(path).st_ino)
            if stub is not None:
                self._live.hydrator.give_mtime(stub, target.tree[path].mtime_ns)

    def _is_stored(self, path: bytes) -> bool:
        """True if all that a path holds came from the store, by a restore since the last save."""
        live = self._live
        try:
            ino = self._real_paths.lstat(path).st_ino
        except OSError:
            return False
        if ino in live.hydrator:
            return True
        changes = live.changes.current
        if isinstance(changes.origins.get(ino), tuple) and ino not in changes.content:
            return True
        return is_same_node(path, self._placed.get(path), live.root_fd)

    def _let_go(self, paths: set[bytes]) -> None:
        """Forget the inodes that leave the tree; open handles keep them."""
        for path in paths:
            try:
                status = self._real_paths.lstat(path)
            except OSError:
                continue  # it is not there, and so leaves nothing
            if not stat.S_ISREG(status.st_mode):
                self._taken[path] = self._live.shown(status)
            self._names.before_unlink(status.st_ino, path)
            self._names.lost_name(status, path)

    def _look_of_taken(self, path: bytes) -> Attributes:
        try:
            return self._taken[path]
        except KeyError:
            raise os_error(errno.ENOENT) from None


def _same_content(old: Entry | None, new: Entry | None) -> bool:
    if old is None or new is None or old.kind is not new.kind:
        return False
    if old.kind is Kind.DIRECTORY:
        return True
    return old.kind is Kind.FILE and not old.link_id and not new.link_id and old.extents == new.extents


def _link_partners(paths: set[bytes], tree: Tree) -> set[bytes]:
    groups = {tree[path].link_id for path in paths if path in tree} - {0}
    return {path for path, entry in tree.items() if entry.link_id in groups} if groups else set()
