"""Damage as programs and people meet it: an EIO, a line in the log, `ckptfs verify`, and a save that heals it."""

import errno
import os
from pathlib import Path

import pytest

from ckptfs.format.manifest import Chunk
from ckptfs.store.open import open_store
from ckptfs.versions.history import open_history
from tests.cli.scene import ckptfs
from tests.mounting import Mounts, wait_until

pytestmark = pytest.mark.fuse

MIB = 1 << 20


def chunk_of(url: str, path: bytes) -> Chunk:
    history = open_history(open_store(url))
    return next(each for each in history.tree(history.resolve("latest"))[path].extents if isinstance(each, Chunk))


def test_damage_that_a_program_met_is_healed_by_the_next_save_where_the_bytes_are(tmp_path: Path) -> None:
    mounts = Mounts(tmp_path, 100.0)
    content = {name: os.urandom(MIB) for name in ("damaged", "whole")}
    try:
        first = mounts(cache="has-the-bytes")
        for name, data in content.items():
            (first.root / name).write_bytes(data)
        first.save()
        first.sync()
        assert first.unmount() == 0
        chunk = chunk_of(first.store, b"damaged")
        pack = tmp_path / "store" / chunk.pack
        body = bytearray(pack.read_bytes())
        body[chunk.offset_bytes + 100] ^= 1
        pack.write_bytes(body)

        reader = mounts(cache="has-none")
        assert (reader.root / "whole").read_bytes() == content["whole"]
        with pytest.raises(OSError, match="Input/output error") as caught:
            (reader.root / "damaged").read_bytes()
        assert caught.value.errno == errno.EIO
        for name in ("damaged", chunk.hash.hex(), chunk.pack):
            assert name in reader.log
        wait_until(lambda: any((tmp_path / "store").glob(f"d/{chunk.hash.hex()}-*")), 20, "the chunk is marked")
        assert reader.unmount() == 0
        said = ckptfs("verify", first.store, "--read-data")
        assert said.code == 1
        assert "version 1, damaged, chunk" in said.out
        assert "the next save of a mount that has the bytes stores them again" in said.err

        # which has the cache directory with the files: nothing is written to them
        again = mounts(cache="has-the-bytes")
        again.save("healed")
        again.sync()
        assert again.unmount() == 0
        assert ckptfs("verify", first.store, "--read-data", "--version", "latest").code == 0
        assert ckptfs("restore", first.store, tmp_path / "restored").code == 0
        assert {name: (tmp_path / "restored" / name).read_bytes() for name in content} == content
    finally:
        mounts.close()
