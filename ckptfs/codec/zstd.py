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


class _Codecs(threading.local):
    """This thread's zstd objects."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


def compress(data: bytes | bytearray | memoryview, level: int = 3) -> bytes:
    """Return one zstd frame of some bytes."""
    compressor = _codecs.compressors.get(level)
    if compressor is None:
        compressor = _codecs.compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressor.compress(data)


def decompress(data: bytes | bytearray | memoryview, *, max_bytes: int) -> bytes:
    """Return the content of one zstd frame.

    Args:
        data: The frame and nothing else.
        max_bytes: The most that its content can be.

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
        return _codecs.decompressor.decompress(data, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"a zstd frame of {len(data)} bytes is damaged: {error}") from error
