"""Every class of object in a store, damaged in every way: the error names the object, and the file and the chunk where
it is one of a file; verify lists all of it; no wrong byte comes back; and the next save that has the bytes heals it.
"""

import random
from pathlib import Path
from unittest import mock

import pytest

from ckptfs.errors import CkptfsError, CorruptObjectError, InvalidInputError, UnsupportedFormatError
from ckptfs.transfer.verify import Finding
from ckptfs.versions.tree import holders
from tests.damage.scene import CLASSES, VERSIONS, WAYS, Stored, cases, make, truncate

SEED = 20261126


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Made once: each test damages a copy."""
    return make(tmp_path_factory.mktemp("damage") / "template")


def damaged(template: Stored, directory: Path, kind: str, way: str, index: int) -> tuple[Stored, set[str], str]:
    """Return a copy with one object damaged, the keys of what differs now, and the key that it was aimed at."""
    stored = template.copy(directory)
    objects = stored.objects(kind)
    before = {stored.key(path): path.read_bytes() for path in objects}
    WAYS[way](objects[index], objects, random.Random(f"{SEED} {kind} {way} {index}"))
    after = {stored.key(path): path.read_bytes() for path in stored.objects(kind)}
    changed = {key for key in before if after.get(key) != before[key]}
    assert changed, "the damage changed nothing"
    return stored, changed, stored.key(objects[index])


def check_versions(stored: Stored, changed: set[str]) -> dict[int, CkptfsError]:
    """Each version comes back as it was saved, or not at all, with an error that names what is damaged."""
    failed = {}
    for version in range(1, VERSIONS + 1):
        found = stored.restored(version)
        if isinstance(found, CkptfsError):
            assert isinstance(found, CkptfsError)
            failed[version] = found
        else:
            assert found == stored.saved[version], f"version {version} came back wrong"
    return failed


def names_one_of(keys: set[str], text: str) -> bool:
    return any(key in text for key in keys)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_pack_is_named_with_the_files_and_chunks_that_need_it(
    template: Stored, tmp_path: Path, way: str
) -> None:
    hurt = 0
    for kind, its_way, index in cases(template):
        if (kind, its_way) != ("pack", way):
            continue
        stored, changed, _ = damaged(template, tmp_path / str(index), kind, way, index)
        findings = stored.verify()
        failed = check_versions(stored, changed)
        # what surrounds the frames is no version's: nothing reads it but who rebuilds an index
        assert failed or way in ("flip", "truncate")
        hurt += bool(failed)
        assert findings, "the damage was not found"
        assert {finding.object_key for finding in findings} <= changed
        findings = [finding for finding in findings if finding.version]
        assert {finding.version for finding in findings} == set(failed)
        for finding in findings:
            assert finding.path in stored.saved[finding.version]
            assert len(finding.chunk) == 64
        for version, error in failed.items():
            mine = [finding for finding in findings if finding.version == version]
            assert names_one_of(changed, error.fact), error
            assert names_one_of({finding.chunk for finding in mine}, error.fact), error
            assert names_one_of({finding.path.decode() for finding in mine}, error.fact), error
    assert hurt


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_manifest_segment_is_named_and_concerns_its_versions_alone(
    template: Stored, tmp_path: Path, way: str
) -> None:
    for kind, its_way, index in cases(template):
        if (kind, its_way) != ("segment", way):
            continue
        stored, changed, _ = damaged(template, tmp_path / str(index), kind, way, index)
        findings = stored.verify()
        failed = check_versions(stored, changed)
        assert failed
        assert {finding.version for finding in findings} == set(failed)
        assert all(names_one_of(changed, finding.fact) for finding in findings)
        for error in failed.values():
            assert isinstance(error, CorruptObjectError)
            assert names_one_of(changed, error.fact)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_commit_record_is_named(template: Stored, tmp_path: Path, way: str) -> None:
    newest = template.key(min(template.objects("commit"), key=lambda path: path.name))
    for kind, its_way, index in cases(template):
        if (kind, its_way) != ("commit", way):
            continue
        stored, changed, key = damaged(template, tmp_path / str(index), kind, way, index)
        findings = stored.verify()
        failed = check_versions(stored, changed)
        assert all(names_one_of(changed, error.fact) for error in failed.values()), failed
        if way == "delete" and key == newest:
            # history ends earlier, and is whole: only who has seen more can know. It was the record of a tag
            assert (findings, failed) == ([], {})
        else:
            assert {finding.object_key for finding in findings} >= changed


@pytest.mark.parametrize("way", ["flip", "truncate", "delete"])
def test_a_damaged_format_json_is_named_and_nothing_is_read_or_made(template: Stored, tmp_path: Path, way: str) -> None:
    for attempt in range(1 if way == "delete" else 20):
        stored = template.copy(tmp_path / str(attempt))
        (path,) = stored.objects("format")
        before = stored.history().store_id
        WAYS[way](path, [path], random.Random(attempt))
        try:
            store_id = stored.history().store_id
        except (CorruptObjectError, UnsupportedFormatError, InvalidInputError):
            # deleted: the message says that it is not a store
            with pytest.raises(
                CkptfsError, match="format.json" if way != "delete" else "format.json|not a ckptfs store"
            ):
                stored.writer()
        else:
            # it has no hash: a bit of its id or its time makes another one, on which no version depends
            assert way == "flip"
            assert len(store_id) == len(before)
            assert check_versions(stored, {"format.json"}) == {}


@pytest.mark.parametrize("way", ["flip", "truncate", "delete"])
def test_a_damaged_lease_counts_as_none_and_keeps_no_version_from_anybody(
    template: Stored, tmp_path: Path, way: str
) -> None:
    stored, changed, _ = damaged(template, tmp_path / "copy", "lease", way, 0)
    assert stored.verify() == []
    assert check_versions(stored, changed) == {}
    (stored.live / "more").write_bytes(b"more")
    assert stored.writer().save().version == VERSIONS + 1


def heals(stored: Stored, findings: list[Finding], *, unchanged: bool) -> None:
    """The next save stores what is damaged again; the one after it has nothing more to store."""
    saver = stored.writer()
    record = saver.save(unchanged=unchanged)
    newest = VERSIONS + 1
    assert stored.restored(newest) == stored.saved[newest]
    left = stored.verify()
    # 0: what surrounds a pack's frames, which no version needs
    assert {finding.version for finding in left} <= set(range(newest))
    if any(finding.version == VERSIONS for finding in findings):
        assert record.bytes_added > 0
    assert saver.save(unchanged=unchanged).bytes_added == 0
    assert stored.restored(newest + 1) == stored.saved[newest + 1]


@pytest.mark.parametrize("unchanged", [True, False], ids=["nothing written", "all written again"])
@pytest.mark.parametrize("way", WAYS)
def test_the_next_save_that_has_the_bytes_of_a_damaged_chunk_stores_them_again(
    template: Stored, tmp_path: Path, way: str, unchanged: bool
) -> None:
    healed = 0
    for kind, its_way, index in cases(template):
        if (kind, its_way) != ("pack", way):
            continue
        stored, _, _ = damaged(template, tmp_path / str(index), kind, way, index)
        findings = stored.verify()
        heals(stored, findings, unchanged=unchanged)
        healed += bool(findings)
    assert healed


def newest_needs(stored: Stored, changed: set[str]) -> bool:
    """Whether a part of the newest version's manifest is in one of some objects."""
    history = stored.history()
    head = history.head()
    return head is not None and bool(holders(head) & changed)


@pytest.mark.parametrize("unchanged", [True, False], ids=["nothing written", "all written again"])
@pytest.mark.parametrize("way", WAYS)
def test_the_next_save_of_a_cache_directory_that_has_it_stores_a_damaged_manifest_again(
    template: Stored, tmp_path: Path, way: str, unchanged: bool
) -> None:
    healed = 0
    for kind, its_way, index in cases(template):
        if (kind, its_way) != ("segment", way):
            continue
        stored, changed, _ = damaged(template, tmp_path / str(index), kind, way, index)
        healed += newest_needs(stored, changed)
        # nobody has looked for damage: whoever begins anew reads the manifest
        stored.writer().save(unchanged=unchanged)
        newest = VERSIONS + 1
        assert stored.restored(newest) == stored.saved[newest]
        assert not newest_needs(stored, changed)
        assert {finding.version for finding in stored.verify()} <= set(range(1, newest))
    assert healed


@pytest.mark.parametrize("kind", ["segment", "commit"])
def test_a_writer_that_knows_the_newest_version_refers_to_no_part_that_was_found_damaged(
    tmp_path: Path, kind: str
) -> None:
    stored = make(tmp_path / "stored")
    saver = stored.writer()
    with mock.patch("ckptfs.versions.parts.MAX_INLINE_BYTES", 0 if kind == "segment" else 1 << 20):
        first = saver.save()
        hurt = holders(first)
        assert {key[:2] for key in hurt} == {"m/" if kind == "segment" else "c/"}
        assert holders(saver.save(unchanged=True)) == hurt
        for key in hurt:
            truncate(stored.store_directory / key, [], random.Random(1))
        assert holders(saver.save(unchanged=True)) == hurt
        assert isinstance(stored.restored(VERSIONS + 3), CkptfsError)
        stored.verify()
        saver.forget_marks()
        saver.save(unchanged=True)
        assert not newest_needs(stored, hurt)
        assert stored.restored(VERSIONS + 4) == stored.saved[VERSIONS + 4]


def test_without_a_mark_the_next_version_refers_to_the_damaged_chunk_so_the_test_above_can_fail(
    template: Stored, tmp_path: Path
) -> None:
    stored, _, _ = damaged(template, tmp_path / "copy", "pack", "delete", 0)
    stored.writer().save(unchanged=True)
    assert isinstance(stored.restored(VERSIONS + 1), CkptfsError)


def test_bytes_that_are_nowhere_stay_damaged_and_a_mark_goes_when_the_chunk_is_whole_again(
    template: Stored, tmp_path: Path
) -> None:
    stored, changed, _ = damaged(template, tmp_path / "copy", "pack", "delete", 0)
    assert stored.verify()
    (stored.live / "same").write_bytes(b"other")
    (stored.live / "weights").unlink()
    for path in (stored.directory / "anchors").iterdir():
        path.unlink()
    stored.writer().save(unchanged=True)
    error = stored.restored(VERSIONS + 1)
    assert isinstance(error, CkptfsError)
    assert names_one_of(changed, error.fact)


def test_every_class_is_damaged_in_every_way_that_it_can_be(template: Stored) -> None:
    tried = list(cases(template))
    assert {kind for kind, _, _ in tried} == set(CLASSES)
    assert {way for kind, way, _ in tried if kind == "pack"} == set(WAYS)
    # the figure of docs/SEMANTICS.md
    assert len(tried) == 58
