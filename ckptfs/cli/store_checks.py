"""What `ckptfs doctor STORE` looks at: whether the store answers, lets us in, and keeps its promises."""

import logging
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptfs.cli.checks import Finding, Result
from ckptfs.cli.output import local_time
from ckptfs.errors import (
    AlreadyExistsError,
    CkptfsError,
    NoStoreError,
    StoreAccessError,
    StoreError,
)

if TYPE_CHECKING:
    from ckptfs.cli.access import StoreAccess
    from ckptfs.store.base import Store

logger = logging.getLogger(__name__)

_SKEW_S = 60.0
"""Nothing of ckptfs compares clocks, but S3 refuses requests that are 15 minutes off, and people read times."""


def check_store(url: str, access: "StoreAccess") -> Iterator[Finding]:
    """Yield the findings about a store. Stops at the first that makes the rest pointless."""
    try:
        store = access.open(url)
    except CkptfsError as error:
        yield Finding("store", "fail", error.fact, error.hint)
        return
    try:
        yield from _check_open_store(store, access)
    finally:
        store.close()


def _check_open_store(store: "Store", access: "StoreAccess") -> Iterator[Finding]:
    started = time.monotonic()
    try:
        next(iter(store.list("", limit=1)), None)
    except StoreAccessError as error:
        yield Finding("credentials", "fail", error.fact, error.hint or "check AWS_PROFILE, or this machine's role")
        return
    except StoreError as error:
        yield Finding("store", "fail", error.fact, error.hint)
        return
    yield Finding("credentials", "ok", "the store lets us list it")
    yield Finding("store", "ok", f"{store.url} answered in {(time.monotonic() - started) * 1000:.0f} ms")
    yield _conditional_writes(store)
    yield from _history(store, access)


def _conditional_writes(store: "Store") -> Finding:
    """Try whether create-only puts are honoured, on a key that nothing reads."""
    name = "conditional writes"
    key = f"doctor-{secrets.token_hex(16)}"
    result: Result = "fail"
    try:
        store.create(key, b"first")
    except StoreAccessError as error:
        # refused: there is nothing to delete
        return Finding(
            name, "warn", f"not known, for nothing may be written: {error.fact}", "enough for read-only mounts"
        )
    except StoreError as error:
        _forget(store, key)
        return Finding(name, "fail", f"not known: {error.fact}", error.hint)
    try:
        store.create(key, b"second")
    except AlreadyExistsError:
        result = "ok"
    except StoreError as error:
        return Finding(name, "fail", f"not known: {error.fact}", error.hint)
    finally:
        _forget(store, key)
    if result == "ok":
        return Finding(name, "ok", "the store refuses to overwrite what must be created")
    hint = "two writers could overwrite each other's history; with one only, for ever: --unsafe-single-writer"
    return Finding(name, "fail", "the store ignores If-None-Match", hint)


def _forget(store: "Store", key: str) -> None:
    try:
        store.delete(key)
    except StoreError as error:
        logger.warning("left a scratch object behind key=%s error=%r", key, error.fact)


def _future_store(store: "Store") -> Finding:
    """Tell whether a place that is no store can become one."""
    from ckptfs.versions.create import refuse_if_used

    try:
        refuse_if_used(store)
    except CkptfsError as error:
        return Finding("history", "fail", error.fact, error.hint)
    return Finding("history", "ok", "no store there yet; the first read-write mount makes it")


def _history(store: "Store", access: "StoreAccess") -> Iterator[Finding]:
    from ckptfs.versions.history import open_history

    try:
        newest = open_history(store, access.access()).newest()
    except NoStoreError:
        yield _future_store(store)
        return
    except CkptfsError as error:
        yield Finding("history", "fail", error.fact, error.hint)
        return
    if newest is None:
        yield Finding("history", "ok", "no version yet")
        return
    fact = f"newest version {newest.version}, written by {newest.host}" if newest.version else "no version yet"
    yield Finding("history", "ok", fact)
    ahead_s = (newest.time_ns - time.time_ns()) / 1e9
    if ahead_s > _SKEW_S:
        fact = f"{newest.host} committed at {local_time(newest.time_ns)}, {ahead_s:.0f} s in this machine's future"
        yield Finding("clock", "warn", fact, "let both machines keep time with NTP; S3 refuses requests 15 minutes off")
    else:
        yield Finding("clock", "ok", "not behind the newest commit")
