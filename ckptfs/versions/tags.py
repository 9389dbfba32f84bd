"""Tags: names for versions. A tag record holds the complete map, so that the newest one answers everything.

Anybody may tag, the writer or not: a tag record changes no version and opens no epoch, and races for its number like
every other record (docs/adr/0001).
"""

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace

from ckptfs.errors import CkptfsError, InvalidInputError, NoSuchVersionError
from ckptfs.format.commit import CommitKind, CommitRecord, is_tag_name
from ckptfs.store.base import Store
from ckptfs.versions.append import append, successor
from ckptfs.versions.create import ensure_safe
from ckptfs.versions.history import History, open_history
from ckptfs.versions.retry import Retry

TagMap = dict[str, int]

_RETRY = Retry()

Change = Callable[[CommitRecord, TagMap], TagMap]
"""Returns the new map of tags, from the newest record and the map as of it."""


class _UnchangedError(CkptfsError):
    """The map is what it should be already. Never leaves this module."""


def set_tag(
    store: Store, name: str, spec: str | int, *, unsafe_single_writer: bool = False, retry: Retry = _RETRY
) -> int:
    """Name a version; a tag of that name moves. Return the version's number.

    Args:
        store: Where.
        name: `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`, not all digits and not `latest`.
        spec: A number, a tag or `latest`.
        unsafe_single_writer: Go on although the store may ignore create-only. Safe only while nobody writes.
        retry: For attempts whose outcome is unknown.

    Raises:
        InvalidInputError: The name or the spec cannot be.
        NoSuchVersionError: There is no such version.
        UnsafeStoreError: The store ignores create-only, so a tag could overwrite a version.
    """
    if not is_tag_name(name):
        raise InvalidInputError(
            f"{name[:120]!r} cannot be a tag",
            hint="letters, digits, '.', '_' and '-', at most 100, not starting with a sign; not a number, not 'latest'",
        )
    history = open_history(store)

    def change(newest: CommitRecord, tags: TagMap) -> TagMap:
        # resolved again after every lost race: what we lost to may have pruned the version
        return tags | {name: history.resolve(spec, newest=newest).version}

    return _commit(history, change, retry, unsafe_single_writer=unsafe_single_writer)[1][name]


def delete_tag(store: Store, name: str, *, unsafe_single_writer: bool = False, retry: Retry = _RETRY) -> int:
    """Remove a tag. Return the number of the version that it named.

    Raises:
        NoSuchVersionError: There is no such tag.
        UnsafeStoreError: As set_tag.
    """
    history = open_history(store)

    def change(newest: CommitRecord, tags: TagMap) -> TagMap:
        if name not in tags:
            raise NoSuchVersionError(f"{store.url} has no tag {name[:120]!r}")
        return {other: number for other, number in tags.items() if other != name}

    return _commit(history, change, retry, unsafe_single_writer=unsafe_single_writer)[0][name]


def _commit(history: History, change: Change, retry: Retry, *, unsafe_single_writer: bool) -> tuple[TagMap, TagMap]:
    """Append the changed map to history. Return the map before and after."""
    commit_id = secrets.token_hex(16)
    host, pid = socket.gethostname(), os.getpid()
    before: TagMap = {}
    after: TagMap = {}

    def build(newest: CommitRecord | None) -> tuple[CommitRecord, bytes]:
        if newest is None:
            raise NoSuchVersionError(f"{history.store.url} has no version yet")
        nonlocal before, after
        before = history.tags(newest=newest)
        after = change(newest, before)
        if after == before:
            raise _UnchangedError("the tags are so already")
        record = successor(newest, CommitKind.TAG, commit_id, host=host, pid=pid)
        return replace(record, tag_map=after), b""

    newest = history.end()
    try:
        build(newest)  # refuse what is wrong before anything is written
        ensure_safe(history.store, retry, unsafe_single_writer=unsafe_single_writer)
        append(history, newest, build, retry)
    except _UnchangedError:
        pass  # nothing is to be written
    return before, after
