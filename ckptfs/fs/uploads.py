"""What the mount knows of its versions: which are durable, which wait, and which can never be stored.

What is uploaded is on disk and in the store; news of it comes from the upload process (upload_process.py), and what
that did not live to say is found out when it ends.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptfs.cache.directory import CacheDirectory
from ckptfs.cache.pending import PendingVersion, commit_ids, pending_numbers
from ckptfs.capture.guards import Guards, Slot
from ckptfs.crypto.secret import KeySource
from ckptfs.errors import CkptfsError, FencedError, NotDurableError
from ckptfs.fs.counters import Counters
from ckptfs.fs.interrupts import POLL_S, give_up_if_interrupted
from ckptfs.fs.upload_process import UploadChild
from ckptfs.fs.version_state import VersionState

# more than programs that are told at one moment that theirs is durable, and read what became of it
_LATELY = 64

log = logging.getLogger(__name__)


class Uploads:
    """All versions of this mount that are not durable yet, and the newest one whatever its state.

    Args:
        cache_root: The store's cache directory, which the upload process is given.
        guards: Released as versions become durable.
        newest: The newest version in the store when the mount began, None if there is none.
        on_durable: Called with each version that became durable; must not wait for anything.
        counters: Told of what is uploaded, and of what goes wrong.
        key: Of an encrypted store.
        on_pruned: Called when versions were dropped by the mount's own rules; must not wait for anything.
    """

    def __init__(
        self,
        cache_root: Path,
        guards: Guards,
        newest: VersionState | None,
        on_durable: Callable[[int], None],
        counters: Counters | None = None,
        key: KeySource | None = None,
        on_pruned: Callable[[], None] = lambda: None,
    ) -> None:
        self._cache = CacheDirectory(cache_root)
        self._on_pruned = on_pruned
        self._guards = guards
        self._on_durable = on_durable
        self._counters = counters or Counters()
        self._changed = threading.Condition()
        self._waiting: dict[int, VersionState] = {}
        self._lately: deque[VersionState] = deque(maxlen=_LATELY)
        """Those that became durable last."""
        self._newest = newest
        self._before = newest
        """The one before the newest, should that be withdrawn."""
        self._fenced: str | None = None
        self._retry_error: str | None = None
        self._regime: dict[str, str] | None = None
        self._renewed_s: float | None = None
        self._lease_error: str | None = None
        self._advanced_s = 0.0
        """When more of a version was last in the store than ever before, by the monotonic clock."""
        self._waiters = 0
        """Who waits until what was captured is durable, or until there is room for more."""
        self._process = UploadChild(
            self._cache, on_news=self._handle, on_end=self._catch_up, counters=self._counters, key=key
        )

    def run(self) -> None:
        """Keep an upload process running, until it is stopped or fenced."""
        self._process.run()

    def captured(self, pending: PendingVersion, slot: Slot, kept_bytes: int) -> None:
        """A version was captured, or captured again under the same number."""
        state = VersionState.of_header(pending.header, "captured")
        state.kept_bytes, state.slot = kept_bytes, slot
        with self._changed:
            if state.version not in self._waiting:
                self._before = self._newest
            if self._fenced is not None:
                # it was under way when that came to light
                state.state, state.error = "failed", self._fenced
            self._waiting[state.version] = self._newest = state
            self._changed.notify_all()
        if self._fenced is not None:
            self._write_lost({"event": "fenced", "error": self._fenced})

    def withdrawn(self, version: int) -> None:
        """The newest version, whose touch went on, is none after all."""
        with self._changed:
            del self._waiting[version]
            self._newest = self._before
            self._changed.notify_all()

    def wake(self, *, hurry: bool = False) -> None:
        """There may be something to upload.

        Args:
            hurry: It is not to be gathered (transfer/gathering.py).
        """
        self._process.wake(hurry=hurry or self._waiters > 0)

    def looked_at(self) -> None:
        """Somebody asks what has become of the versions, perhaps again and again until they are durable."""
        if self._waiting:
            self.wake(hurry=True)

    @contextmanager
    def _hurrying(self) -> Iterator[None]:
        """What is captured until this ends is not gathered (transfer/gathering.py). `_changed` is held."""
        self._waiters += 1
        self.wake()
        try:
            yield
        finally:
            self._waiters -= 1

    @property
    def fenced(self) -> str | None:
        """Who took the store over, in words; None while it is ours."""
        return self._fenced

    @property
    def failed(self) -> VersionState | None:
        """The oldest version that can never be stored; what was captured after it builds on it. None: there is none."""
        return next((state for state in self.waiting() if state.state == "failed"), None)

    def check_allowed(self) -> None:
        """Raise FencedError or NotDurableError if no save of this mount can ever become durable again."""
        self._raise_if_fenced()
        failed = self.failed
        if failed is not None:
            raise NotDurableError(
                f"version {failed.version} could not be stored ({failed.error}), and every later one builds on it",
                hint="unmount and mount again; `ckptfs recover` lists what was kept",
            )

    @property
    def retry_error(self) -> str | None:
        """Why the store cannot be reached now; None while it can."""
        return self._retry_error

    @property
    def regime(self) -> dict[str, str] | None:
        """How hard chunks are encoded now, and why; None while nothing is uploaded."""
        if not any(state.state == "uploading" for state in self.waiting()):
            return None
        return self._regime or {"effort": "dense", "why": "no other version waits"}

    def lease(self) -> dict[str, Any]:
        """Return whether others can see that we are alive, for `.status`."""
        state = "lost" if self._fenced else "unrenewed" if self._lease_error else "held"
        renewed_s = self._renewed_s
        ago_s = round(time.monotonic() - renewed_s, 1) if renewed_s is not None else None
        return {"state": state, "renewed_s_ago": ago_s, "error": self._lease_error}

    def newest(self) -> VersionState | None:
        """Return the newest version of this mount."""
        return self._newest

    def waiting(self) -> list[VersionState]:
        """Return the versions that are not durable, oldest first."""
        with self._changed:
            return [state for _, state in sorted(self._waiting.items())]

    def state_of(self, version: int) -> VersionState | None:
        """Return what has become of a version of this mount; None if it became durable long ago."""
        with self._changed:
            waiting = self._waiting.get(version)
            return waiting or next((state for state in self._lately if state.version == version), None)

    @property
    def pending_bytes(self) -> int:
        """Local disk that pending versions keep."""
        return sum(state.kept_bytes for state in self.waiting())

    def wait_for_change(self, is_over: Callable[[], bool]) -> None:
        """Return when something is so that changes with the versions; what it raises is raised."""
        with self._changed, self._hurrying():
            while not is_over():
                give_up_if_interrupted()
                self._changed.wait(POLL_S)

    def wait_briefly(self, timeout_s: float) -> None:
        """Return when something has changed, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def poke(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def wait_durable(self, timeout_s: float) -> None:
        """Return when every version captured before this call is durable.

        Args:
            timeout_s: How long to wait while nothing more comes into the store; what takes long is waited for.

        Raises:
            FencedError: They can never become durable.
            NotDurableError: One failed, or the time is over.
            InterruptedError: The program that waits is to end.
        """
        began_s = time.monotonic()
        with self._changed, self._hurrying():
            wanted = {version: state.slot for version, state in self._waiting.items()}
            while True:
                left = {v: self._waiting[v] for v in wanted if v in self._waiting}
                if not left:
                    return
                self._raise_if_fenced()
                failed = next((state for state in left.values() if state.state == "failed"), None)
                if failed is not None:
                    raise NotDurableError(f"version {failed.version} could not be stored: {failed.error}")
                remaining_s = max(began_s, self._advanced_s) + timeout_s - time.monotonic()
                if remaining_s <= 0:
                    why = f" ({self._retry_error})" if self._retry_error else ""
                    raise NotDurableError(f"{len(left)} version(s) not durable after {timeout_s:g} s{why}")
                give_up_if_interrupted()
                self._changed.wait(min(POLL_S, remaining_s))

    def drain(self, timeout_s: float, stop: threading.Event) -> str:
        """Wait until every version is durable; return why some are left.

        Args:
            stop: Set when nobody wants to wait any longer.
        """
        began_s = time.monotonic()
        while True:
            try:
                self.wait_durable(0.0)
                return ""
            except NotDurableError as error:
                waited_s = time.monotonic() - began_s
                if not any(state.state != "failed" for state in self.waiting()):
                    return self._retry_error or error.fact
                if stop.is_set():
                    return self._retry_error or f"told after {waited_s:.0f} s to wait no longer"
                if waited_s >= timeout_s:
                    return self._retry_error or f"the drain-timeout, {timeout_s:g} s, is over"
            except CkptfsError as error:
                return error.fact
            self.wait_briefly(min(0.5, timeout_s - waited_s))

    def stop(self, linger_s: float = 0.0) -> None:
        """End the upload process; what it has not done stays pending.

        Args:
            linger_s: If all is durable, how long it may still take to end by itself.
        """
        self._process.stop(0.0 if self.waiting() else linger_s)

    def _raise_if_fenced(self) -> None:
        if self._fenced is not None:
            raise FencedError(self._fenced)

    def _write_lost(self, event: dict[str, Any]) -> None:
        """Write down, before anybody is told, which versions can never enter history: who looks later finds them so."""
        lost = {}
        for state in self.waiting():
            if event["event"] == "fenced" or state.version == event["version"]:
                lost[state.commit_id] = str(event["error"])
            elif state.state == "failed":
                lost[state.commit_id] = state.error or ""
        try:
            self._cache.write_lost(lost)
        except OSError as error:
            log.warning("could not write down what is lost versions=%d error=%r", len(lost), str(error))

    def _catch_up(self) -> None:
        """Learn what a process that died could not say any more: a version leaves pending/ durable, or for aside/."""
        # in this order: what is captured between the two is in pending/ for certain
        waiting = self.waiting()
        left = pending_numbers(self._cache.pending)
        gone = [state for state in waiting if state.version not in left and state.state != "failed"]
        if not gone:
            return
        aside = commit_ids(self._cache.aside)
        for state in gone:
            if state.commit_id in aside:
                said = "it was put aside; the log says why"
                self._handle({"event": "failed", "version": state.version, "error": said})
            else:
                self._handle({"event": "durable", "version": state.version, "bytes_added": state.bytes_uploaded})

    def _handle(self, event: dict[str, Any]) -> None:
        name, version = event["event"], event.get("version", 0)
        if name in ("fenced", "failed"):
            self._write_lost(event)
        with self._changed:
            state = self._waiting.get(version)
            if name == "fenced":
                self._fenced = str(event["error"])
                for each in self._waiting.values():
                    each.state, each.error = "failed", self._fenced
                self._counters.error("fenced")
                log.error("fenced error=%r pending_versions=%d", self._fenced, len(self._waiting))
            elif name == "regime":
                self._regime = {"effort": str(event["effort"]), "why": str(event["why"])}
                log.info("encoding effort=%s why=%r", self._regime["effort"], self._regime["why"])
            elif name == "pruned":
                self._on_pruned()
            elif name == "lease":
                self._lease_error = event["error"]
                self._renewed_s = time.monotonic() if event["error"] is None else self._renewed_s
            elif name == "retrying":
                self._counters.error("store")
                if self._retry_error is None:
                    log.warning("store unavailable version=%d error=%r", version, event["error"])
                self._retry_error = str(event["error"])
                if state is not None:
                    state.error = self._retry_error
            elif state is None:
                pass  # made durable by a process before this mount
            elif name == "uploading":
                state.state = "uploading"
            elif name == "progress":
                # an upload that begins again tells of what was there already
                if (done_bytes := int(event["bytes_done"])) > state.bytes_uploaded:
                    state.bytes_uploaded, self._advanced_s = done_bytes, time.monotonic()
            elif name == "failed":
                state.state, state.error = "failed", str(event["error"])
                self._counters.error("version")
                log.error("failed version=%d error=%r", version, state.error)
            elif name == "durable":
                state.state, state.error, self._retry_error = "durable", None, None
                self._advanced_s = time.monotonic()
                state.bytes_uploaded = int(event["bytes_added"])
                self._counters.add(
                    durable_versions=1,
                    durable_bytes=state.bytes,
                    new_bytes=int(event.get("bytes_new", 0)),
                    uploaded_bytes=state.bytes_uploaded,
                )
                # before anybody who waited for it goes on
                self._on_durable(version)
                self._lately.append(state)
                del self._waiting[version]
            self._changed.notify_all()
        if name == "durable" and state is not None and state.slot is not None:
            self._guards.release(state.slot)
