"""Keys of objects: to and from what they name, and nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfs.errors import CorruptObjectError
from ckptfs.format.keys import (
    MAX_EPOCH,
    MAX_SEQ,
    commit_key,
    commit_seq,
    is_pack_key,
    is_segment_key,
    new_pack_key,
    new_segment_key,
    pack_epoch,
    pack_key,
    split_pack_key,
)

SEQS = st.integers(1, MAX_SEQ)


@given(SEQS)
def test_a_commit_key_names_its_seq(seq: int) -> None:
    assert commit_seq(commit_key(seq)) == seq


@given(SEQS, SEQS)
def test_a_newer_commit_sorts_first(one: int, other: int) -> None:
    assert (commit_key(one) < commit_key(other)) == (one > other)


def test_the_first_commit_has_the_key_of_the_document() -> None:
    assert commit_key(1) == "c/09223372036854775806"


@given(st.integers(0, MAX_EPOCH), st.binary(min_size=16, max_size=16))
def test_a_pack_key_names_epoch_and_id(epoch: int, pack_id: bytes) -> None:
    assert split_pack_key(pack_key(epoch, pack_id)) == (epoch, pack_id)


def test_new_keys_are_new() -> None:
    assert len({new_pack_key(7) for _ in range(100)} | {new_segment_key(7) for _ in range(100)}) == 200
    assert pack_epoch(new_pack_key(7)) == 7
    assert is_segment_key(new_segment_key(7))


@pytest.mark.parametrize(
    "key",
    [
        "", "c/", "c/1", "c/9223372036854775806", "c/09223372036854775807", "c/99999999999999999999",
        "c/0922337203685477580x", "c/09223372036854775806\n", "x/09223372036854775806", "c/٠9223372036854775806",
    ],
)  # fmt: skip
def test_what_is_no_commit_key_is_refused(key: str) -> None:
    with pytest.raises(CorruptObjectError):
        commit_seq(key)


@pytest.mark.parametrize(
    "key",
    ["", "p/", "p/1-" + "0" * 32, "p/0000000001-" + "A" * 32, "p/0000000001-" + "0" * 32 + "\n", "p/../lease", "lease"],
)
def test_what_is_no_pack_key_is_refused(key: str) -> None:
    assert not is_pack_key(key)
    with pytest.raises(CorruptObjectError):
        pack_epoch(key)


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1])
def test_a_seq_out_of_range_has_no_key(seq: int) -> None:
    with pytest.raises(CorruptObjectError):
        commit_key(seq)


@pytest.mark.parametrize(("epoch", "pack_id"), [(-1, bytes(16)), (MAX_EPOCH + 1, bytes(16)), (1, b""), (1, bytes(17))])
def test_a_pack_that_its_key_cannot_hold_has_none(epoch: int, pack_id: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        pack_key(epoch, pack_id)
