"""Checking what surrounds the frames of packs: the header, and the table from which an index can be rebuilt.

No version needs either: chunks are found by the manifests. So damage here hurts nobody before all manifests are lost.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ckptfs.errors import CorruptObjectError, NotFoundError, UnsupportedFormatError
from ckptfs.format.manifest import Chunk
from ckptfs.format.pack import FOOTER_BYTES, HEADER, PackRow, check_header, decode_trailer, table_bytes
from ckptfs.store.base import Store

# as many as there are requests for chunks
_WORKERS = 8
# 1 MiB: a table of 23,800 frames. What follows the last frame that a version needs is the table, unless frames that
# nobody needs any more come before it
_TAIL_BYTES = 1 << 20


def check_tables(store: Store, chunks: Iterable[Chunk], sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the packs whose header or table is damaged, or says other than the manifests, and what is wrong.

    Two requests for each pack, three where much in it is needed no more.

    Args:
        store: Where the packs are.
        chunks: What the manifests say, of packs that are there and long enough.
        sizes: Of the packs, in bytes.

    Raises:
        StoreError: The store cannot be asked.
    """
    by_pack: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        by_pack[chunk.pack].append(chunk)

    def check(pack: str) -> str | None:
        try:
            check_header(store.get_range(pack, 0, HEADER.size))
            _compare(_read_table(store, pack, sizes[pack], by_pack[pack]), by_pack[pack], sizes[pack])
        except NotFoundError:
            return None  # whoever reads its chunks says so
        except (CorruptObjectError, UnsupportedFormatError) as error:
            return f"no version needs it, but no index could be rebuilt from the pack: {error.fact}"
        return None

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ckptfs-tables") as executor:
        return {pack: why for pack, why in zip(by_pack, executor.map(check, by_pack), strict=True) if why is not None}


def _read_table(store: Store, pack: str, size_bytes: int, chunks: Sequence[Chunk]) -> list[PackRow]:
    start = max(chunk.offset_bytes + chunk.stored_bytes for chunk in chunks)
    if size_bytes - start > _TAIL_BYTES:
        footer = store.get_range(pack, size_bytes - FOOTER_BYTES, FOOTER_BYTES)
        start = max(start, size_bytes - table_bytes(footer))
    if size_bytes - start < FOOTER_BYTES:
        raise CorruptObjectError(f"it ends {size_bytes - start} bytes after its last frame")
    return decode_trailer(store.get_range(pack, start, size_bytes - start))


def _compare(rows: Sequence[PackRow], chunks: Sequence[Chunk], size_bytes: int) -> None:
    end = rows[-1].offset_bytes + rows[-1].stored_bytes if rows else HEADER.size
    if end + table_bytes(rows) != size_bytes:
        raise CorruptObjectError(
            f"its frames end at {end}, its table has {len(rows)} rows, and it is {size_bytes} long"
        )
    said = set(rows)
    for chunk in chunks:
        if PackRow(chunk.hash, chunk.offset_bytes, chunk.stored_bytes, chunk.size_bytes) not in said:
            raise CorruptObjectError(f"its table has no chunk {chunk.hash.hex()} at {chunk.offset_bytes}")
