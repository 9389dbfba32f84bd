"""zstd frames with their content size in the header. The one importer of zstandard.

Safe for several threads: the library's objects are not, so that each thread has its own. Python's lock is released.
"""

import importlib
import threading
from typing import Any

import zstandard

from ckptfs.errors import CorruptObjectError

_native: Any
try:
    # the package's other binding, which it makes where cffi is: its `lib` has zstd's own functions and parameters
    _native = importlib.import_module("zstandard.backend_cffi")
except ImportError:
    _native = None

_MAX_BLOCK_RATIO = (128 << 10) // 4
"""No zstd block of n bytes yields more than n times this: 4 bytes at least make a block, of 128 KiB at most."""
_EMPTY = bytes.fromhex("28b52ffd2000010000")
"""The frame of no bytes. The library does not read past the header of one, so that it is compared instead."""

_PLANE_PARAMETERS = {
    "strategy": zstandard.STRATEGY_FAST,
    "min_match": 7,
    "hash_log": 6,
    "chain_log": 6,
    "search_log": 1,
    "window_log": 17,
}
"""A Huffman coder that sees runs: a table of 64 places finds next to nothing else. Exponents of floats, 2.52 bits of
entropy, take 2.6 bits, and 3.03 at level 1."""
_PLANE_STEP = 32
_SPARSE_STEP = 4
# exponents of two matrices take 2.85 and 2.43 bits at 0.78 and 0.62 GB/s where each second place is looked at, 2.92 and
# 2.37 at 1.3 with each 17th, 2.93 and 2.36 at 1.35 with each 33rd: with that a checkpoint takes 0.03 to 0.06 points
# more, and a twentieth less time. What is mostly zeros takes 0.09 bits at 3.9 GB/s, 0.12 at 4.3, and 1.04 at 1.1
_LITERALS_ARE_CODED = 1
"""ZSTD_ps_enable: zstd does not code the literals where it skips places, unless told to."""
_PREFIX_PARAMETERS = {"search_log": 2, "min_match": 6}
_PREFIX_TABLE_LOG = 21
"""Tables as large as a chunk and its prefix; those of level 3 hold a sixteenth, and what is the same is not found."""


class _PlaneCoder:
    """zstd told to skip places and to code literals nevertheless, which the package's own objects cannot be.

    Args:
        step: How many places are skipped at least between those where a match is looked for.
    """

    def __init__(self, step: int) -> None:
        ffi, lib = _native.ffi, _native.lib
        self._context = ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        self._room: Any = ffi.new("char[]", 1)
        values = {
            **{getattr(lib, "ZSTD_c_" + _camel_case(name)): value for name, value in _PLANE_PARAMETERS.items()},
            lib.ZSTD_c_targetLength: step,
            lib.ZSTD_c_literalCompressionMode: _LITERALS_ARE_CODED,
        }
        for name, value in values.items():
            self._checked(lib.ZSTD_CCtx_setParameter(self._context, name, value))

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return one frame."""
        ffi, lib = _native.ffi, _native.lib
        bound = lib.ZSTD_compressBound(len(data))
        if len(self._room) < bound:
            self._room = ffi.new("char[]", bound)
        size = lib.ZSTD_compress2(self._context, self._room, bound, ffi.from_buffer(data), len(data))
        self._checked(size)
        return bytes(ffi.buffer(self._room, size))

    @staticmethod
    def _checked(code: int) -> None:
        # of what is set here, and of a target as large as the bound, only memory can be short
        if _native.lib.ZSTD_isError(code):
            raise MemoryError(_native.ffi.string(_native.lib.ZSTD_getErrorName(code)).decode())


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


class _Codecs(threading.local):
    """This thread's zstd objects."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.plane_coders: dict[int, _PlaneCoder | zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


def compress(data: bytes | bytearray | memoryview, level: int = 3) -> bytes:
    """Return one zstd frame of some bytes."""
    compressor = _codecs.compressors.get(level)
    if compressor is None:
        compressor = _codecs.compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressor.compress(data)


def compress_plane(data: bytes | bytearray | memoryview, *, is_sparse: bool = False) -> bytes:
    """Return one zstd frame of bytes that repeat little: coded by how frequent they are, and hardly searched.

    Args:
        data: 1 byte or more.
        is_sparse: They are mostly one value, and runs of it save more than a code of at least one bit per byte.
    """
    step = _SPARSE_STEP if is_sparse else _PLANE_STEP
    coder = _codecs.plane_coders.get(step)
    if coder is None:
        coder = _codecs.plane_coders[step] = _plane_coder(step)
    return coder.compress(data)


def _plane_coder(step: int) -> _PlaneCoder | zstandard.ZstdCompressor:
    if _native is not None:
        return _PlaneCoder(step)
    # as small, and half as fast
    parameters = zstandard.ZstdCompressionParameters(target_length=0, write_content_size=True, **_PLANE_PARAMETERS)
    return zstandard.ZstdCompressor(compression_params=parameters)


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
