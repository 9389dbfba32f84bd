"""The journal tells the truth after any death of the process, also on a full disk."""

import errno
import os
from pathlib import Path

import pytest

from ckptfs.capture import journal as journal_module
from ckptfs.capture.journal import Journal, JournalState, read_journal

BOOT = "a boot"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Journal:
    journal = Journal(path)
    journal.rewrite(4, "commit-4", BOOT, {11, 12})
    return journal


def said(path: Path) -> JournalState:
    """What a journal says, which is there."""
    state = read_journal(path)
    assert state is not None
    return state


def test_a_journal_that_is_not_there_says_nothing(path: Path) -> None:
    assert read_journal(path) is None


def test_it_says_which_version_and_what_changed_since(journal: Journal, path: Path) -> None:
    journal.content(b"model.bin")
    journal.name(b"step\xff 1")
    journal.attributes(b"")
    journal.hydrated(11)
    journal.stubs([13, 14])
    journal.close()
    assert said(path) == JournalState(
        version=4,
        commit_id="commit-4",
        boot=BOOT,
        content={b"model.bin"},
        names={b"step\xff 1"},
        attributes={b""},
        stubs={12, 13, 14},
    )
    assert said(path).is_dirty


def test_a_capture_starts_the_changes_over_and_leaves_files_without_data_as_they_are(
    journal: Journal, path: Path
) -> None:
    journal.content(b"old")
    journal.intend(5, "commit-5")
    assert said(path).intended == (5, "commit-5")
    assert said(path).content == {b"old"}
    journal.captured(5, "commit-5")
    journal.content(b"new")
    state = said(path)
    assert (state.version, state.commit_id, state.intended) == (5, "commit-5", None)
    assert state.content == {b"new"}
    assert state.stubs == {11, 12}
    journal.close()


def test_a_capture_of_which_nothing_more_is_known_can_be_adopted(journal: Journal, path: Path) -> None:
    journal.content(b"captured")
    journal.intend(5, "commit-5")
    journal.close()
    state = said(path)
    state.adopt_intended()
    assert (state.version, state.commit_id, state.content) == (5, "commit-5", set())


def test_an_unfinished_last_record_is_left_out_at_every_length(journal: Journal, path: Path) -> None:
    journal.content(b"first")
    whole = path.read_bytes()
    journal.content(b"second")
    journal.hydrated(12)
    journal.close()
    longer = path.read_bytes()
    for size in range(len(whole), len(longer) + 1):
        path.write_bytes(longer[:size])
        state = said(path)
        assert state.content in ({b"first"}, {b"first", b"second"})
        assert (12 in state.stubs) == (size < len(longer))


def test_a_record_that_does_not_fit_is_not_there_at_all(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.content(b"before")
    really_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: really_write(fd, data[: len(data) // 2]))
        with pytest.raises(OSError) as caught:
            journal.content(b"does not fit")
        assert caught.value.errno == errno.ENOSPC
    journal.content(b"after")
    assert said(path).content == {b"before", b"after"}
    journal.close()


def test_a_full_disk_has_room_for_the_names_of_what_is_deleted(journal: Journal, path: Path) -> None:
    journal.content(b"first")
    status = path.stat()
    assert status.st_blocks * 512 >= status.st_size + (1 << 19)
    journal.close()


def test_it_is_rewritten_when_it_has_grown_and_says_the_same(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_COMPACT_BYTES", 1000)
    for version in range(5, 30):
        for number in range(20):
            journal.content(b"file-%d" % number)
        journal.intend(version, f"commit-{version}")
        journal.captured(version, f"commit-{version}")
    journal.hydrated(12)
    journal.name(b"since")
    assert path.stat().st_size < 3000
    state = said(path)
    assert (state.version, state.commit_id, state.boot) == (29, "commit-29", BOOT)
    assert (state.content, state.names, state.stubs) == (set(), {b"since"}, {11})
    journal.close()
