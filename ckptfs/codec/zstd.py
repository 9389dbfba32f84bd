"""zstd frames with their content size in the header. The one importer of zstandard.

Safe for several threads: the library's objects are not, so that each thread has its own. Python's lock is released.
"""

import threading

import zstandard

from ckptfs.errors import CorruptObjectError

_MAX_BLOCK_RATIO = (128 << 10) // 4
"""No zstd block of n bytes yields more than n times this: 4 bytes at least make a block, of 128 KiB at most."""
_EMPTY = bytes.fromhex("28b52ffd2000010000")
"""The frame of no bytes. The library does not read past the header of one, so that it is compared instead."""

_PLANE_PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    target_length=0,
    window_log=17,
    write_content_size=True,
)
"""A Huffman coder: a table of 64 places finds next to no matches. Exponents of floats, 2.52 bits of entropy, take 2.57
bits, and 3.03 at level 1, three times as slowly."""
_PREFIX_PARAMETERS = {"search_log": 2, "min_match": 6}
_PREFIX_TABLE_LOG = 21
"""Tables as large as a chunk and its prefix; those of level 3 hold a sixteenth, and what is the same is not found."""


class _Codecs(threading.local):
    """This thread's zstd objects."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.plane_compressor = zstandard.ZstdCompressor(compression_params=_PLANE_PARAMETERS)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


def compress(data: bytes | bytearray | memoryview, level: int = 3) -> bytes:
    """Return one zstd frame of some bytes."""
    compressor = _codecs.compressors.get(level)
    if compressor is None:
        compressor = _codecs.compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressor.compress(data)


def compress_plane(data: bytes | bytearray | memoryview) -> bytes:
    """Return one zstd frame of bytes that repeat nothing: coded by how frequent they are, and not searched."""
    return _codecs.plane_compressor.compress(data)


def compress_with_prefix(data: bytes | bytearray | memoryview, prefix: bytes | bytearray | memoryview) -> bytes:
    """Return one zstd frame that refers to some bytes as if they came before its content."""
    # from the first byte of the data back to that of the prefix, and never less than zstd takes
    window_log = max(10, (len(data) + len(prefix)).bit_length())
    table_log = min(window_log, _PREFIX_TABLE_LOG)
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_LAZY,
        window_log=window_log,
        hash_log=table_log,
        chain_log=table_log,
        write_content_size=True,
        write_dict_id=False,
        **_PREFIX_PARAMETERS,
    )
    compressor = zstandard.ZstdCompressor(dict_data=_prefix_of(prefix), compression_params=parameters)
    return compressor.compress(data)


def decompress(
    data: bytes | bytearray | memoryview, *, max_bytes: int, prefix: bytes | bytearray | memoryview | None = None
) -> bytes:
    """Return the content of one zstd frame.

    Args:
        data: The frame and nothing else.
        max_bytes: The most that its content can be.
        prefix: What it was compressed with.

    Raises:
        CorruptObjectError: The data are not one whole frame, it does not say how much it holds, or holds more than
            `max_bytes`. Memory taken is bounded by that, by what the frame says and by what its length can yield.
    """
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise CorruptObjectError("a zstd frame that does not say how much it holds")
        if size > max_bytes or size > len(data) * _MAX_BLOCK_RATIO:
            raise CorruptObjectError(f"a zstd frame of {len(data)} bytes for {size}, where at most {max_bytes} fit")
        if size == 0:
            if data != _EMPTY:
                raise CorruptObjectError(f"a zstd frame of {len(data)} bytes for none")
            return b""
        decompressor = _codecs.decompressor
        if prefix is not None:
            # zstd's own limit; the window of a frame is never used beyond its content
            decompressor = zstandard.ZstdDecompressor(dict_data=_prefix_of(prefix))
        return decompressor.decompress(data, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"a zstd frame of {len(data)} bytes is damaged: {error}") from error


def _prefix_of(prefix: bytes | bytearray | memoryview) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(bytes(prefix), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
