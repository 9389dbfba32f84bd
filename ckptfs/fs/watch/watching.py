"""A watch: becomes the store's writer, makes the directory the newest version, and serves its markers to its end.

One thread does everything that touches the directory's content, so that a save and a restore never meet; another keeps
`.status` and `.save.status` up to date meanwhile.

Order of a save: notice the touch; let it end; take the marker's text; look around; copy what changed; answer.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.spares import Spares
from ckptfs.capture.capture import Capturer
from ckptfs.capture.changes import Changes, LinkGroups
from ckptfs.capture.guards import Guards, Slot
from ckptfs.capture.journal import Journal, read_journal
from ckptfs.capture.sizes import Sizes
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError, NoteTooLargeError
from ckptfs.format.commit import CommitRecord
from ckptfs.format.manifest import Tree
from ckptfs.fs.control import asks_for_nothing, restore_text, save_text, uploads_object
from ckptfs.fs.marker import NOTE_LIMIT_BYTES
from ckptfs.fs.options import WatchOptions
from ckptfs.fs.recovery import Taken, take_up
from ckptfs.fs.tenure import Ending, Tenure, take_left
from ckptfs.fs.uploads import Uploads
from ckptfs.fs.version_state import VersionState
from ckptfs.fs.watch.answers import Answers
from ckptfs.fs.watch.becoming import DirectoryRestorer, link_ids, untouched
from ckptfs.fs.watch.before import base_tree, kept_bytes, knows_again
from ckptfs.fs.watch.directory_saver import DirectorySaver
from ckptfs.fs.watch.looks import Looks, look_around
from ckptfs.fs.watch.marker_file import MarkerFile
from ckptfs.fs.watch.marker_file import Taken as TakenText
from ckptfs.fs.watch.names import RESTORE, SAVE
from ckptfs.fs.watch.noticing import Notices
from ckptfs.fs.watch.place import Whereabouts, is_shown, open_directory, remove_status, was_touched_meanwhile
from ckptfs.fs.watch.telling import Telling
from ckptfs.fs.watch.touches import CLOCK_TICK_S, Touches, let_end
from ckptfs.threads import require_thread
from ckptfs.versions.history import LATEST

log = logging.getLogger(__name__)

# with --keep options: how long the end waits for what the last version lets go, as a mount does
_PRUNING_S = 10.0
# how often markers are looked at: a stat of two files
_LOOK_S = 0.2


class Watch:
    """One watch, from becoming the writer to giving the store back.

    Args:
        options: Of the watch.
        stop: Set when it is to end.
        key: Of an encrypted store.
        before_uploads: Called with the path of the log before there is a child.

    Raises:
        CkptfsError: The directory, the cache directory, the store or the local state does not allow it.
    """

    def __init__(
        self,
        options: WatchOptions,
        stop: threading.Event,
        key: KeySource | None = None,
        before_uploads: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._stop = stop
        self._wake = threading.Event()
        self._directory = options.mountpoint
        self._root_fd = open_directory(self._directory)
        self._whereabouts = Whereabouts(self._directory, self._root_fd)
        # looked at now, and taken away: who finds it takes the directory for watched, and for ready
        self._was_touched = was_touched_meanwhile(self._root_fd)
        remove_status(self._root_fd)
        self._tenure = tenure = Tenure(options, is_shown, key=key)
        self._cache, self._history = tenure.cache, tenure.history
        taken = take_up(self._cache, self._history, ours=tenure.is_ours, boot=tenure.boot)
        newest = VersionState.of_record(taken.head) if taken.head is not None else None
        self._uploads = Uploads(self._cache.root, Guards(), newest, lambda _: self._wake.set(), key=key)
        self._answers = Answers(self._uploads, tenure.writer.epoch)
        self._adopts = self._options.adopt and knows_again(tenure, self._root_fd, self._answers)
        self._blocked_since: float | None = None
        self._restore_answer: dict[str, Any] | None = None
        self._set_aside = 0
        self._told: object = None
        """Of the newest version, what reading `.save` tells."""
        self._telling = Telling(self._root_fd, self._answers, self._uploads, self.status)
        self._restorer = DirectoryRestorer(
            self._directory, self._root_fd, self._cache.unsaved, self._history, tenure.store
        )
        self._marker = MarkerFile(self._root_fd, SAVE)
        self._restore_marker = MarkerFile(self._root_fd, RESTORE)
        self._notices = Notices(self._directory, self._marker.temporary_prefix, self._wake)
        self._touches = Touches(self._root_fd, self._marker, self._notices, self._stop)
        before_uploads(self._cache.log)
        self._finish_pending(taken)
        self._begin(taken)

    # beginning

    def _finish_pending(self, taken: Taken) -> None:
        """Have what was captured before uploaded first: what is restored then comes from the store alone."""
        for pending in taken.pending:
            self._uploads.captured(pending, Slot(pending.directory), kept_bytes(pending))
        require_thread(self._uploads.run, "uploads")
        if taken.pending:
            log.info("finishing pending versions=%d", len(taken.pending))
        while self._uploads.waiting():
            self._uploads.check_allowed()
            self._uploads.wait_briefly(_LOOK_S)

    def _begin(self, taken: Taken) -> None:
        state = read_journal(self._cache.watch_journal)
        base = base_tree(self._history, taken, state)
        head = self._history.head()
        tree = self._history.tree(head) if head is not None else {}
        self._restorer.remove_temporary()
        if head is not None and not self._adopts:
            self._set_aside = self._restorer.restore(head, base)
        version, commit_id = (head.version, head.commit_id) if head is not None else (0, "")
        self._journal = Journal(self._cache.watch_journal)
        self._journal.rewrite(version, commit_id, self._tenure.boot, ())
        sizes = Sizes()
        sizes.load(tree)
        self._capturer = Capturer(
            root_fd=self._root_fd,
            pending_root=self._cache.pending,
            spares=Spares(self._cache.spares),
            changes=Changes(self._journal),
            links=LinkGroups(),
            guards=Guards(),
            sizes=sizes,
            version=version,
            commit_id=commit_id,
            boot=self._tenure.boot,
            mtime_ns=lambda status: status.st_mtime_ns,
        )
        self._looks = Looks()
        self._restored = version if not self._adopts else 0
        self._saver = DirectorySaver(
            self._root_fd,
            self._capturer,
            self._looks,
            self._uploads,
            self._tenure.max_pending_bytes,
            self._set_blocked,
            self._stop.is_set,
        )
        self._take_over_names()
        self._know(tree, same=None if self._adopts else tree)
        self._notices.start()
        if self._adopts and self._was_touched:
            self._save([TakenText(b"", self._marker.clock_ns())])

    def _take_over_names(self) -> None:
        """Put our files there, in place of what has their names."""
        self._telling.tell()
        self._marker.put(self._marker_text())
        self._restore_marker.put(self._restore_text())

    def _know(self, tree: Tree, same: Tree | None) -> None:
        """Know that the directory is what it is.

        Args:
            tree: The newest version.
            same: What of it was put into the directory a moment ago; None: it is to be compared.
        """
        # files that were written a moment ago could change once more without looking different
        time.sleep(CLOCK_TICK_S)
        self._marker.put(self._marker_text())
        clock_ns = self._marker.clock_ns()
        found = look_around(self._root_fd)
        paths = untouched(same, found) if same is not None else self._restorer.same(tree, found)
        self._looks.start(self._root_fd, found, paths, clock_ns)
        self._capturer.link_ids.update(link_ids(tree, found, paths))
        self._notices.check_limit(sum(entry.kind.name == "DIRECTORY" for entry in tree.values()))

    # running

    @property
    def cache(self) -> CacheDirectory:
        """Its cache directory."""
        return self._cache

    @property
    def is_lost(self) -> bool:
        """True if the directory was removed, or exchanged for another."""
        return self._whereabouts.is_lost()

    def run(self) -> None:
        """Serve the markers until it is to end, or the directory is lost."""
        self._telling.start()
        log.info("watching store=%s directory=%s", self._tenure.store.url, self._directory)
        while not self._stop.is_set() and not self.is_lost:
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            if not self._whereabouts.is_away():
                self._notices.check(self._telling.told_s)
                self._serve()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def _serve(self) -> None:
        try:
            if self._touches.has_any():
                self._serve_touch()
            if self._restore_marker.is_touched():
                self._serve_restore()
            self._renew_markers()
        except OSError:
            # a disk that is full for a moment, or a directory that is being taken away: all is looked at again
            log.exception("could not serve the markers directory=%s", self._directory)
            self._stop.wait(1.0)

    def _serve_touch(self) -> None:
        """Take what touches wrote, and save once."""
        taken = self._touches.take()
        if taken:
            self._save(taken)

    def _save(self, taken: list[TakenText]) -> None:
        touched_ns = max(text.touched_ns for text in taken)
        text = next((each.text for each in taken if each.text), b"")
        try:
            if len(text) > NOTE_LIMIT_BYTES:
                raise NoteTooLargeError(f"a note of {len(text)} bytes was written to the save marker")
            captured = self._saver.save(text, self._marker.clock_ns())
        except CkptfsError as error:
            self._refuse(touched_ns, error.fact, error.hint, error.errno)
        except OSError as error:
            self._refuse(touched_ns, *_explained(error, self._cache), error.errno or errno.EIO)
        else:
            self._answers.saved(touched_ns, captured.pending.version, captured.torn)
            if captured.torn:
                log.warning("files that changed all the time are torn version=%d", captured.pending.version)
        self._telling.tell()
        self._renew_markers()

    def _refuse(self, touched_ns: int, fact: str, hint: str | None, number: int) -> None:
        log.error("nothing was saved error=%r", fact)
        self._answers.refused(touched_ns, fact, hint, number)

    def _serve_restore(self) -> None:
        let_end(self._restore_marker.is_being_written)
        taken = self._restore_marker.take(self._restore_marker.prepare())
        spec = taken.text.decode("utf-8", "backslashreplace").strip()
        if not spec or asks_for_nothing(taken.text):
            return  # the times of it were set, no more; or a copy of it came back
        answer: dict[str, Any] = {"asked": spec, "touched_ns": taken.touched_ns, "version": None, "error": None}
        try:
            answer["version"] = self._restore(spec).version
        except CkptfsError as error:
            answer |= {"error": error.fact, "errno": error.errno}
        except OSError as error:
            answer |= {"error": _explained(error, self._cache)[0], "errno": error.errno or errno.EIO}
        if answer["error"] is not None:
            log.error("could not restore asked=%r error=%r", spec, answer["error"])
        self._restore_answer = answer
        self._restore_marker.put(self._restore_text())
        self._telling.tell()

    def _restore(self, spec: str) -> CommitRecord:
        """Make the directory a version. Raises CkptfsError and OSError."""
        deadline_s = time.monotonic() + self._options.sync_timeout_s
        if spec == LATEST or any(spec == str(state.version) for state in self._uploads.waiting()):
            self._uploads.wait_durable(self._options.sync_timeout_s)
        record = self._history.resolve(spec)
        self._journal.restored(record.version)
        # what the next version is made against has to be known as well
        self._uploads.wait_durable(max(0.0, deadline_s - time.monotonic()))
        version = self._capturer.version
        if record.version != version:
            self._tenure.pin(record.version, version)
        newest = self._history.tree(self._history.version(version)) if version else {}
        wanted = self._history.tree(record)
        set_aside = self._restorer.restore(record, newest)
        self._set_aside += set_aside
        self._restored = record.version
        self._know(newest, {path: entry for path, entry in wanted.items() if newest.get(path) == entry})
        log.info("restored version=%d base_version=%d set_aside=%d", record.version, version, set_aside)
        return record

    # saying

    def _restore_text(self) -> bytes:
        return restore_text(self._capturer.version)

    def _marker_text(self) -> bytes:
        return save_text(self._uploads.newest())

    def _renew_markers(self) -> None:
        """Let reading `.save` tell of the newest version; not while a touch is to be taken from it."""
        newest = self._uploads.newest()
        # not at every step of an upload: `.save.status` has those
        told = (newest.version, newest.state in ("durable", "failed"), newest.error) if newest is not None else None
        if self._told == told and not self._marker.is_missing():
            return
        if not self._marker.is_touched() and not self._marker.is_being_written():
            self._marker.put(self._marker_text())
            self._told = told
        if not self._restore_marker.is_touched() and not self._restore_marker.is_being_written():
            self._restore_marker.renew(self._restore_text())

    def _set_blocked(self, since: float | None) -> None:
        self._blocked_since = since

    def status(self) -> dict[str, Any]:
        """Return the fields of `.status`."""
        return {
            "kind": "watch",
            "store": self._tenure.store.url,
            "mountpoint": os.fspath(self._directory),
            "pid": os.getpid(),
            "host": self._tenure.holder.host,
            "cache": os.fspath(self._cache.root),
            "transport": "watch",
            "read_only": False,
            "epoch": self._tenure.writer.epoch,
            **uploads_object(self._uploads, self._blocked_since),
            # nobody knows before the next save looks
            "changed_paths": None,
            "not_fetched_files": 0,
            "not_fetched_bytes": 0,
            "set_aside_files": self._set_aside,
            "restored": self._restored or None,
            "restore": self._restore_answer,
            "noticed_by": "inotify" if self._notices.is_complete else "looking",
            "sync_timeout_s": self._options.sync_timeout_s,
        }

    # ending

    def finish(self, stop_draining: threading.Event) -> Ending:
        """Save what is asked for, drain, and give the store back."""
        try:
            if self._whereabouts.is_away():
                pass  # nothing of what it held can be had any more
            elif self._touches.has_any():
                self._serve_touch()
            elif self._options.save_on_exit and self._saver.has_changes():
                self._save([TakenText(b"", self._marker.clock_ns())])
        except (CkptfsError, OSError):
            log.exception("could not save on exit")
        self._notices.stop()
        reason = self._uploads.drain(self._options.drain_timeout_s, stop_draining)
        self._uploads.stop(_PRUNING_S if self._options.keeps_some else 0.0)
        left = take_left(self._cache)
        is_fenced = self._uploads.fenced is not None
        self._tenure.release(is_fenced=is_fenced)
        self._journal.close()
        self._telling.stop(keep_answers=self._options.adopt)
        self._marker.remove()
        self._restore_marker.remove()
        self._cache.unlock()
        return Ending(left, reason, self._uploads.failed is not None)


def _explained(error: OSError, cache: CacheDirectory) -> tuple[str, str | None]:
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENOSPC:
        return f"the cache directory {cache.root} is full", "free some space there, then save again"
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {what}", None
    return what, None
