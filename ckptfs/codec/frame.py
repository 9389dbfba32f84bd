"""Frames: one chunk, compressed when that pays, and back.

Pure. Layout: docs/FORMAT.md section 5.1; change both in one commit.

Invariants:
    F1  a frame is decoded and compared before it is handed out
    F2  nothing is handed out that does not hash to the chunk's hash
"""

import struct

from ckptfs.codec.zstd import compress, decompress
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.hashing import hash_bytes

MAX_CHUNK_BYTES = 64 << 20

HEADER = struct.Struct("<BBHII")
"""codec, flags, params_bytes, raw length, payload_bytes"""
_RAW = 0
_ZSTD = 1

_LEVEL = 3
_MIN_SAVING = 0.03
"""Below it decompressing costs every reader more than the bytes do."""

# 16 pieces of 4 KiB predict the ratio of 4 MiB of floats, integers or text to 0.5 points, and cost 0.1 ms against
# 1.5 ms (random bytes) to 11 ms (fp32 weights) for all of it
_PIECE_BYTES = 4 << 10
_PIECES = 16
_SAMPLE_MIN_SAVING = 0.01
"""Lower than _MIN_SAVING: a sample sees no repetition over long distances."""


def encode_frame(plain: bytes | bytearray | memoryview) -> bytes:
    """Return the frame of a chunk: zstd where that saves 3 %, else raw.

    Args:
        plain: 1 byte to 64 MiB; must not change meanwhile.

    Raises:
        CorruptObjectError: The length is out of bounds, or the frame did not decode to the same bytes (F1).
    """
    if not 1 <= len(plain) <= MAX_CHUNK_BYTES:
        raise CorruptObjectError(f"a chunk of {len(plain)} bytes: not from 1 to {MAX_CHUNK_BYTES}")
    if _may_shrink(plain):
        payload = compress(plain, _LEVEL)
        if len(payload) <= len(plain) * (1 - _MIN_SAVING):
            _check_same(decompress(payload, max_bytes=len(plain)), plain)
            return HEADER.pack(_ZSTD, 0, 0, len(plain), len(payload)) + payload
    frame = b"".join((HEADER.pack(_RAW, 0, 0, len(plain), len(plain)), plain))
    _check_same(frame, plain, start=HEADER.size)
    return frame


def decode_frame(frame: bytes | bytearray | memoryview, *, size_bytes: int, digest: bytes) -> bytes:
    """Return the plain bytes of a chunk.

    Args:
        frame: The whole frame.
        size_bytes: The chunk's plain length, as the manifest says it; the most that is allocated.
        digest: The chunk's hash.

    Raises:
        ChunkCorruptError: The frame is not that of the chunk.
    """
    try:
        plain = _decode(memoryview(frame), size_bytes)
    except CorruptObjectError as error:
        raise ChunkCorruptError(f"chunk {digest.hex()}: {error.fact}") from error
    if hash_bytes(plain) != digest:
        raise ChunkCorruptError(f"chunk {digest.hex()}: its {size_bytes} bytes hash to {hash_bytes(plain).hex()}")
    return plain if isinstance(plain, bytes) else bytes(plain)


def _decode(frame: memoryview, size_bytes: int) -> bytes | memoryview:
    if len(frame) < HEADER.size:
        raise CorruptObjectError(f"a frame of {len(frame)} bytes")
    codec, flags, params_bytes, raw_bytes, payload_bytes = HEADER.unpack_from(frame)
    if codec not in (_RAW, _ZSTD) or flags or params_bytes:
        raise CorruptObjectError(f"a frame with codec {codec}, flags {flags:#x} and {params_bytes} bytes of parameters")
    if raw_bytes != size_bytes or len(frame) != HEADER.size + payload_bytes or payload_bytes > raw_bytes:
        raise CorruptObjectError(
            f"a frame of {len(frame)} bytes says {payload_bytes} for {raw_bytes}, where {size_bytes} are expected"
        )
    payload = frame[HEADER.size :]
    plain = payload if codec == _RAW else decompress(payload, max_bytes=size_bytes)
    if len(plain) != size_bytes:
        raise CorruptObjectError(f"a frame that holds {len(plain)} bytes and says {size_bytes}")
    return plain


def _may_shrink(plain: bytes | bytearray | memoryview) -> bool:
    """Tell from a sample whether zstd is worth trying on a chunk."""
    if len(plain) <= 2 * _PIECES * _PIECE_BYTES:
        return True
    step = (len(plain) - _PIECE_BYTES) // (_PIECES - 1)
    sample = b"".join(plain[index * step : index * step + _PIECE_BYTES] for index in range(_PIECES))
    return len(compress(sample, _LEVEL)) < len(sample) * (1 - _SAMPLE_MIN_SAVING)


def _check_same(decoded: bytes, plain: bytes | bytearray | memoryview, *, start: int = 0) -> None:
    # startswith compares any buffer with memcmp; a memoryview's own == goes byte by byte
    if len(decoded) - start != len(plain) or not decoded.startswith(plain, start):
        raise CorruptObjectError(f"a chunk of {len(plain)} bytes does not decode to what was encoded")
