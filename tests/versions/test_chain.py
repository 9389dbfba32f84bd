"""Rules between two commit records: each field that breaks one is refused, and the later record is named."""

from dataclasses import replace
from typing import Any

import pytest

from ckptfs.errors import CorruptObjectError
from ckptfs.format.commit import CommitKind, CommitRecord
from ckptfs.format.keys import commit_key
from ckptfs.versions.append import successor
from ckptfs.versions.chain import check_order, check_successor


def after(newest: CommitRecord | None, kind: CommitKind, **fields: Any) -> CommitRecord:
    return replace(successor(newest, kind, "0" * 32, host="a", pid=1), **fields)


FENCE = after(None, CommitKind.FENCE)
SAVE = after(FENCE, CommitKind.SAVE, version=1)
TAG = after(SAVE, CommitKind.TAG, tag_map={"best": 1})


def test_every_kind_may_follow_every_kind() -> None:
    for first in (SAVE, TAG, after(SAVE, CommitKind.GC), after(SAVE, CommitKind.FENCE)):
        for kind in CommitKind:
            check_successor(first, after(first, kind, version=first.version + (kind is CommitKind.SAVE)))


def test_history_begins_with_a_fence() -> None:
    check_successor(None, FENCE)
    with pytest.raises(CorruptObjectError):
        check_successor(None, replace(SAVE, seq=1, parent=0, head=1, epoch=1))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CommitKind.SAVE, {"seq": 5, "parent": 4, "head": 5}),
        (CommitKind.SAVE, {"epoch": 2}),
        (CommitKind.SAVE, {"epoch": 0}),
        (CommitKind.SAVE, {"version": 1}),
        (CommitKind.SAVE, {"version": 0}),
        (CommitKind.FENCE, {"epoch": 1}),
        (CommitKind.FENCE, {"epoch": 3}),
        (CommitKind.FENCE, {"version": 2}),
        (CommitKind.TAG, {"version": 2}),
        (CommitKind.TAG, {"head": 3}),
        (CommitKind.SAVE, {"tags": 0}),
        (CommitKind.SAVE, {"gc": 2}),
        (CommitKind.GC, {"tags": 2}),
        (CommitKind.GC, {"gc": 0}),
        (CommitKind.GC, {"revival": 2}),
        (CommitKind.SAVE, {"revival": 1}),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused_and_named(kind: CommitKind, fields: dict[str, int]) -> None:
    record = replace(after(TAG, kind, version=2 if kind is CommitKind.SAVE else 1), **fields)  # type: ignore[arg-type]
    with pytest.raises(CorruptObjectError, match=commit_key(record.seq)):
        check_successor(TAG, record)


def test_a_record_that_does_not_say_what_was_revived_may_follow_and_be_followed() -> None:
    silent = replace(after(TAG, CommitKind.SAVE, version=2), revival=None)
    check_successor(TAG, silent)
    told = after(silent, CommitKind.GC)
    assert told.revival == silent.seq
    check_successor(silent, told)
    with pytest.raises(CorruptObjectError, match="revival"):
        check_successor(silent, replace(told, revival=0))


def test_records_far_apart_never_fall_in_epoch_or_version() -> None:
    check_order(FENCE, TAG)
    with pytest.raises(CorruptObjectError, match=commit_key(TAG.seq)):
        check_order(replace(FENCE, epoch=2), TAG)
    with pytest.raises(CorruptObjectError, match=commit_key(TAG.seq)):
        check_order(replace(FENCE, version=2), TAG)
