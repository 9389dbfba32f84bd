"""Versions in an encrypted store: deltas, restore, verify, and damage that hurts no more than it must."""

import os
from pathlib import Path

import pytest

from ckptfs.crypto.sealing import StoreKey
from ckptfs.crypto.secret import Secret
from ckptfs.errors import CkptfsError
from ckptfs.store.sealed import SealedStore
from ckptfs.transfer.restore import restore
from ckptfs.transfer.verify import verify
from tests.transfer.conftest import Bench
from tests.versions.memory_store import MemoryStore


class SealedBench(Bench):
    """A bench whose store seals what it is given; what lies behind is `behind`."""

    def make_store(self) -> MemoryStore:
        self.behind = MemoryStore()
        return SealedStore(self.behind, StoreKey(Secret(b"a secret"), bytes(16)))  # type: ignore[return-value]

    def damage_behind(self, key: str, offset: int) -> None:
        body = bytearray(self.behind.objects[key])
        body[offset] ^= 1
        self.behind.objects[key] = bytes(body)

    def packs(self) -> list[str]:
        return sorted(key for key in self.behind.objects if key.startswith("p/"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def sealed(tmp_path: Path) -> SealedBench:
    return SealedBench(tmp_path)


def test_versions_with_deltas_are_restored_as_they_were_captured(sealed: SealedBench, tmp_path: Path) -> None:
    weights = bytearray(os.urandom(9 << 20))
    shots = []
    for step in range(3):
        weights[step * 1000 : step * 1000 + 500] = os.urandom(500)
        (sealed.source / "model.bin").write_bytes(weights)
        (sealed.source / f"small-{step}").write_bytes(b"step %d" % step * 100)
        record = sealed.save()
        shots.append((record, contents(sealed.source)))
    assert shots[1][0].bytes_added < 1 << 20
    for record, shot in shots:
        target = tmp_path / f"target-{record.version}"
        restore(sealed.history(), sealed.store, record, target)
        assert contents(target) == shot
    assert verify(sealed.history(), sealed.store, read_data=True) == []


def test_a_flipped_bit_hurts_the_files_of_its_block_alone_and_verify_names_them(
    sealed: SealedBench, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (sealed.source / name).write_bytes(os.urandom(200_000))
    record = sealed.save()
    (pack,) = sealed.packs()
    sealed.damage_behind(pack, 300_000)
    findings = verify(sealed.history(), sealed.store, read_data=True)
    assert [(finding.path, finding.object_key) for finding in findings] == [(b"b", pack)]
    with pytest.raises(CkptfsError):
        restore(sealed.history(), sealed.store, record, tmp_path / "target")
    assert (tmp_path / "target" / "a").read_bytes() == (sealed.source / "a").read_bytes()
    assert not (tmp_path / "target" / "b").exists()


def test_packs_that_changed_places_are_damage(sealed: SealedBench) -> None:
    for content in (b"first", b"other"):
        (sealed.source / "file").write_bytes(content * 20_000)
        sealed.save()
    first, other = sealed.packs()
    objects = sealed.behind.objects
    objects[first], objects[other] = objects[other], objects[first]
    findings = verify(sealed.history(), sealed.store, read_data=True)
    assert {finding.object_key for finding in findings} == {first, other}
    assert all("does not open" in finding.fact for finding in findings)
