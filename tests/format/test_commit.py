"""Commit records read back as they were written; every damaged byte is seen; no hostile field gets through."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.errors import CorruptObjectError, UnsupportedFormatError
from ckptfs.format.commit import CommitKind, CommitRecord, PartRef, is_tag_name
from ckptfs.format.commit_bytes import decode_commit, encode_commit
from ckptfs.format.fields import MAX_DEPTH
from ckptfs.format.note import Note
from ckptfs.hashing import hash_bytes
from tests.data.make_golden import FENCE, GC, INLINE, SAVE, TAG

RECORDS = pytest.mark.parametrize(
    ("record", "inline"), [(SAVE, INLINE), (FENCE, b""), (TAG, b""), (GC, b"")], ids=["save", "fence", "tag", "gc"]
)
PACK = "p/0000000001-" + "0" * 32

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NOTES = st.one_of(
    st.none(),
    st.text(),
    st.dictionaries(
        st.text(),
        st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
        max_size=4,
    ),
)


def raw_commit(body: dict[str, Any] | bytes, inline: bytes = b"", *, version: int = 1) -> bytes:
    """What a writer without rules makes of a body, laid out by hand as docs/FORMAT.md section 3 says."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    hashed = struct.pack("<8sHHII", b"ckptfsC1", version, 0, len(text), len(inline)) + text + inline
    return hashed + hash_bytes(hashed)


def body_of(record: CommitRecord, inline: bytes = b"") -> dict[str, Any]:
    data = encode_commit(record, inline)
    (size,) = struct.unpack_from("<I", data, 12)
    body: dict[str, Any] = json.loads(data[20 : 20 + size])
    return body


@settings(max_examples=100, deadline=None)
@given(note=NOTES, host=st.text(), inline=st.binary(min_size=1, max_size=100), numbers=st.integers(0, (1 << 63) - 1))
def test_any_save_reads_back_as_it_was_written(note: Note, host: str, inline: bytes, numbers: int) -> None:
    part = PartRef("inline", 0, len(inline), 100, numbers, 0, hash_bytes(inline))
    record = replace(
        SAVE, note=note, host=host, parts=(part,), files=numbers, bytes=numbers, bytes_added=numbers, pid=numbers
    )
    assert decode_commit(encode_commit(record, inline), seq=record.seq) == (record, inline)


@RECORDS
def test_the_layout_is_that_of_the_document(record: CommitRecord, inline: bytes) -> None:
    assert decode_commit(raw_commit(body_of(record, inline), inline), seq=record.seq) == (record, inline)


@RECORDS
def test_every_flipped_bit_is_seen(record: CommitRecord, inline: bytes) -> None:
    data = encode_commit(record, inline)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(CorruptObjectError):
                decode_commit(bytes(flipped), seq=record.seq)


@RECORDS
def test_every_truncation_and_an_appended_byte_are_seen(record: CommitRecord, inline: bytes) -> None:
    data = encode_commit(record, inline)
    for other in (*(data[:size] for size in range(len(data))), data + b"\0"):
        with pytest.raises(CorruptObjectError):
            decode_commit(other, seq=record.seq)


@RECORDS
def test_a_record_under_the_key_of_another_is_refused(record: CommitRecord, inline: bytes) -> None:
    with pytest.raises(CorruptObjectError, match="seq"):
        decode_commit(encode_commit(record, inline), seq=record.seq + 1)


@RECORDS
def test_keys_of_a_later_ckptfs_are_ignored(record: CommitRecord, inline: bytes) -> None:
    body = body_of(record, inline) | {"later": {"a": [1]}}
    for part in body.get("parts", []):
        part["later"] = 1
    assert decode_commit(raw_commit(body, inline), seq=record.seq) == (record, inline)


def test_a_record_of_a_newer_format_asks_for_a_newer_ckptfs() -> None:
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        decode_commit(raw_commit({}, version=2), seq=1)


@RECORDS
def test_no_field_takes_a_value_of_another_type(record: CommitRecord, inline: bytes) -> None:
    good = body_of(record, inline)
    wrong_values: list[Any] = [True, -1, 1.0, 1 << 63, 10**4000, "x", [], [[]], [None], {}, {"a": {}}, None]
    for key in good:
        for wrong in wrong_values:
            if (key == "note" and not isinstance(wrong, int | float | list)) or wrong == good[key]:
                continue
            if (key, wrong) in (("host", "x"), ("gaps", []), ("dropped", []), ("condemned", []), ("tag_map", {})):
                continue
            with pytest.raises(CorruptObjectError):
                decode_commit(raw_commit(good | {key: wrong}, inline), seq=record.seq)
        if key != "note":
            without = {other: value for other, value in good.items() if other != key}
            with pytest.raises(CorruptObjectError):
                decode_commit(raw_commit(without, inline), seq=record.seq)


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (SAVE, {"parent": 40}),
        (SAVE, {"head": 41}),
        (SAVE, {"version": 0}),
        (SAVE, {"version": 9}),  # a gap
        (SAVE, {"epoch": 43}),
        (SAVE, {"tags": 42}),
        (SAVE, {"gc": 43}),
        (SAVE, {"commit_id": "0" * 31}),
        (SAVE, {"commit_id": "A" * 32}),
        (SAVE, {"version": 1 << 62}),  # more versions than records
        (SAVE, {"version": 43, "gaps": []}),
        (SAVE, {"gaps": [[3, 2]]}),
        (SAVE, {"gaps": [[0, 2]]}),
        (SAVE, {"gaps": [[1, 2], [2, 3]]}),
        (SAVE, {"gaps": [[5, 6], [1, 2]]}),
        (SAVE, {"kind": "merge"}),
        (FENCE, {"epoch": 0}),
        (FENCE, {"head": 1}),
        (FENCE, {"version": 1}),
        (TAG, {"tags": 17}),
        (TAG, {"tag_map": {"best": 41}}),
        (TAG, {"tag_map": {"best": 0}}),
        (TAG, {"tag_map": {"../x": 1}}),
        (TAG, {"tag_map": {"latest": 1}}),
        (GC, {"gc": 30}),
        (GC, {"dropped": [[1, 41]]}),
        (GC, {"condemned": ["c/09223372036854775807"]}),
        (GC, {"condemned": ["format.json"]}),
        (GC, {"condemned": [PACK + "0"]}),
        (GC, {"condemned": [PACK + "\n"]}),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(record: CommitRecord, changes: dict[str, Any]) -> None:
    inline = INLINE if record is SAVE else b""
    body = body_of(record, inline)
    assert changes.keys() <= body.keys()
    with pytest.raises(CorruptObjectError):
        decode_commit(raw_commit(body | changes, inline), seq=record.seq)


@pytest.mark.parametrize("change", ["twice", "too much"])
def test_a_small_record_cannot_have_a_reader_take_up_more_than_its_bound(change: str) -> None:
    body = body_of(SAVE, INLINE)
    segment = next(part for part in body["parts"] if part["at"] == "segment")
    more = [segment] if change == "twice" else [segment | {"key": segment["key"][:-1] + "0", "raw_bytes": 1 << 30}]
    with pytest.raises(CorruptObjectError, match=r"one part twice|manifest of more than"):
        decode_commit(raw_commit(body | {"parts": [*more, *body["parts"]]}, INLINE), seq=SAVE.seq)


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (SAVE, {"revival": 43}),
        (SAVE, {"revival": 42}),
        (SAVE, {"revival": 42, "revived": []}),
        (SAVE, {"revival": 7, "revived": [PACK]}),
        (SAVE, {"revived": [PACK]}),
        (SAVE, {"revival": 42, "revived": ["m/" + "0" * 32]}),
        (SAVE, {"revival": True}),
        (SAVE, {"revival": None}),
        (SAVE, {"pins": [[1, 39]]}),
        (SAVE, {"pins": [[41, 41]]}),
        (SAVE, {"pins": [[0, 41]]}),
        (SAVE, {"pins": [[1, 41, 1]]}),
        (SAVE, {"pins": [1]}),
        (FENCE, {"revival": FENCE.seq}),
        (GC, {"swept": -1}),
        (GC, {"swept": 10**10}),
    ],
)
def test_what_pruning_needs_is_refused_where_it_contradicts_the_rest(
    record: CommitRecord, changes: dict[str, Any]
) -> None:
    inline = INLINE if record is SAVE else b""
    with pytest.raises(CorruptObjectError):
        decode_commit(raw_commit(body_of(record, inline) | changes, inline), seq=record.seq)


@RECORDS
def test_what_pruning_needs_reads_back_and_is_not_missed_in_older_records(record: CommitRecord, inline: bytes) -> None:
    assert not {"revival", "revived", "pins", "swept"} & body_of(record, inline).keys()
    is_save, is_gc = record.kind is CommitKind.SAVE, record.kind is CommitKind.GC
    told = replace(
        record,
        revival=record.seq if is_save else 0,
        revived=(PACK,) if is_save else None,
        pins=((1, max(1, record.version)),) if record.version else (),
        swept=7 if is_gc else 0,
    )
    assert decode_commit(encode_commit(told, inline), seq=record.seq)[0] == told


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (0, {"at": "elsewhere"}),
        (0, {"at": ["segment"]}),
        (0, {"key": "c/09223372036854775807"}),
        (0, {"key": "m/../lease"}),
        (0, {"offset": 1}),
        (0, {"tombstones": 1}),
        (0, {"stored_bytes": 0}),
        (0, {"raw_bytes": (1 << 30) + 1}),
        (0, {"hash": "00" * 31}),
        (0, {"hash": "0x" * 32}),
        (1, {"seq": 42}),
        (1, {"seq": 0}),
        (1, {"offset": 1 << 40}),
        (2, {"offset": 1}),
        (2, {"stored_bytes": 31}),
        (2, {"stored_bytes": 1 << 29}),
        (2, {"hash": "00" * 32}),
        (3, {"stored_bytes": 20}),
        (3, {"offset": 0}),
    ],
)
def test_a_part_that_is_not_where_it_is_said_to_be_is_refused(index: int, changes: dict[str, Any]) -> None:
    body = body_of(SAVE, INLINE)
    assert changes.keys() <= body["parts"][index].keys()
    body["parts"][index] |= changes
    with pytest.raises(CorruptObjectError):
        decode_commit(raw_commit(body, INLINE), seq=SAVE.seq)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"seq": NaN}',
        b'{"seq": 1e999}',
        b'{"note": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"note": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"seq": ' + b"9" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"{\0}\0",
        b'{"host": "\xff"}',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_body_that_is_no_sound_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        decode_commit(raw_commit(text), seq=1)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<8sHHII", b"ckptfsC1", 1, 0, 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack("<8sHHII", b"ckptfsC1", 1, 0, 2, 0xFFFFFFFF) + b"{}",
        struct.pack("<8sHHII", b"ckptfsC1", 1, 0, 1, 0) + b"{}",
        struct.pack("<8sHHII", b"ckptfsM1", 1, 0, 2, 0) + b"{}",
        struct.pack("<8sHHII", b"ckptfsC1", 0, 0, 2, 0) + b"{}",
        struct.pack("<8sHHII", b"ckptfsC1", 1, 0, 2, 0) + b"{}" + bytes(16 << 20),
    ],
    ids=["huge counts", "huge inline", "short body", "other magic", "version 0", "over 16 MiB"],
)
def test_a_record_of_impossible_lengths_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        decode_commit(data + hash_bytes(data), seq=1)


@pytest.mark.parametrize(
    ("record", "inline"),
    [
        (replace(SAVE, parent=40), INLINE),
        (replace(SAVE, head=40), INLINE),
        (replace(SAVE, commit_id="x"), INLINE),
        (replace(SAVE, note={"loss": float("nan")}), INLINE),
        (replace(SAVE, note={"step": (1, 2)}), INLINE),
        (replace(SAVE, note={"when": b"bytes"}), INLINE),
        (replace(SAVE, files=-1), INLINE),
        (replace(SAVE, tag_map={"best": 1}), INLINE),
        (SAVE, INLINE + b"x"),
        (SAVE, b""),
        (replace(FENCE, files=1), b""),
        (replace(FENCE, condemned=(PACK,)), b""),
        (FENCE, b"inline"),
        (replace(TAG, tag_map={"12": 1}), b""),
        (replace(GC, condemned=("lease",)), b""),
        (replace(SAVE, note="n" * (16 << 20)), INLINE),
    ],
)
def test_a_record_that_no_reader_would_take_is_not_written(record: CommitRecord, inline: bytes) -> None:
    with pytest.raises(CorruptObjectError):
        encode_commit(record, inline)


def test_a_note_nests_as_deep_as_the_document_says() -> None:
    def nested(depth: int) -> dict[str, Any]:
        note: dict[str, Any] = {}
        for _ in range(depth - 1):
            note = {"in": note}
        return note

    record = replace(SAVE, note=nested(MAX_DEPTH - 1))  # the body itself is one level
    assert decode_commit(encode_commit(record, INLINE), seq=record.seq)[0] == record
    with pytest.raises(CorruptObjectError, match="deep"):
        encode_commit(replace(SAVE, note=nested(MAX_DEPTH)), INLINE)


@pytest.mark.parametrize("name", ["best", "v1.0-rc_2", "a" * 100, "1a", "Latest"])
def test_a_tag_name_is_letters_digits_and_a_few_signs(name: str) -> None:
    assert is_tag_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "42", "latest", "a" * 101, "ä", "a\n", "٣a"]
)
def test_a_tag_name_is_never_a_number_latest_or_unsafe_as_a_file_name(name: str) -> None:
    assert not is_tag_name(name)


def test_kinds_are_the_words_of_the_format() -> None:
    assert [str(kind) for kind in CommitKind] == ["save", "fence", "tag", "gc"]
