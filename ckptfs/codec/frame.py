"""Frames: one chunk, compressed when that pays, and back.

Pure. Layout: docs/FORMAT.md section 5.1; change both in one commit.

Invariants:
    F1  what a compressor made is decoded and compared before a frame of it is handed out (of blocks: B1 of blocks.py)
    F2  nothing is handed out that does not hash to the chunk's hash
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ckptfs.codec.blocks import decode_blocks, encode_blocks
from ckptfs.codec.scratch import Buffer, build_bytes, is_same
from ckptfs.codec.zstd import compress, compress_with_prefix, decompress
from ckptfs.errors import ChunkCorruptError, CorruptObjectError
from ckptfs.hashing import hash_bytes

MAX_CHUNK_BYTES = 64 << 20

HEADER = struct.Struct("<BBHII")
"""codec, flags, params_bytes, raw length, payload_bytes"""
_RAW = 0
_ZSTD = 1
_BLOCKS = 2
_PREFIXED = 3
_NEEDS_BASE = 1
"""The flag."""
_DIGEST_BYTES = 32
_CODECS = {(_RAW, 0), (_ZSTD, 0), (_BLOCKS, 0), (_BLOCKS, _NEEDS_BASE), (_PREFIXED, _NEEDS_BASE)}
"""With their flags."""

_LEVEL = 3
_MIN_SAVING = 0.03
"""Below it decompressing costs every reader more than the bytes do."""

# 16 pieces of 4 KiB predict the ratio of 4 MiB of floats, integers or text to 0.5 points, and cost 0.1 ms against
# 1.5 ms (random bytes) to 11 ms (fp32 weights) for all of it
_PIECE_BYTES = 4 << 10
_PIECES = 16
_SAMPLE_MIN_SAVING = 0.01
"""Lower than _MIN_SAVING: a sample sees no repetition over long distances."""

MIN_BASE_GAIN = 0.02
"""Below it a base saves less than it costs every reader to fetch it."""

_FLOAT_SHARE = 0.5
"""Where fewer of a chunk's blocks are floats, zstd is tried on all of it: blocks do not see each other."""

_SMALL_ENOUGH = 0.02
"""A chunk that takes less is not tried with its base as prefix as well."""
_PROBES = 4
_PLACES_PER_PROBE = 4
_PROBE_BYTES = 24
_PREFIXED_PIECE_BYTES = 16 << 10
_AROUND_BYTES = 16 << 10
_PREFIX_SAVING = 0.9
"""What it must save of those pieces, and of what they are without it: zeros are as short either way."""


def encode_frame(plain: Buffer, *, base: tuple[bytes, Buffer] | None = None, min_gain: float = MIN_BASE_GAIN) -> bytes:
    """Return the frame of a chunk: the shortest that a sample of the chunk promises, raw where nothing saves 3 %.

    Args:
        plain: 1 byte to 64 MiB; must not change meanwhile.
        base: Hash and plain bytes of the chunk to encode against where that helps: the same place of an earlier
            version. Whether it did: `base_digest`.
        min_gain: The least share of the chunk's size without it that the base must save.

    Raises:
        CorruptObjectError: The length is out of bounds, or the frame did not decode to the same bytes (F1).
    """
    return b"".join(_encode_checked(plain, base, min_gain))


def encode_frame_into(
    out: memoryview,
    plain: Buffer,
    *,
    base: tuple[bytes, Buffer] | None = None,
    min_gain: float = MIN_BASE_GAIN,
) -> int:
    """Write the frame of a chunk to the beginning of `out`, and return its length: as `encode_frame`, a copy less.

    Args:
        out: At least MAX_FRAME_EXTRA_BYTES more than the chunk has.
        plain: As of `encode_frame`.
        base: As of `encode_frame`.
        min_gain: As of `encode_frame`.

    Raises:
        CorruptObjectError: As of `encode_frame`.
    """
    size = 0
    for piece in _encode_checked(plain, base, min_gain):
        out[size : size + len(piece)] = piece
        size += len(piece)
    return size


def decode_frame(frame: Buffer, *, size_bytes: int, digest: bytes, base: Buffer | None = None) -> bytes:
    """Return the plain bytes of a chunk.

    Args:
        frame: The whole frame.
        size_bytes: The chunk's plain length, as the manifest says it; the most that is allocated.
        digest: The chunk's hash.
        base: Plain bytes of the chunk that it is encoded against.

    Raises:
        ChunkCorruptError: The frame is not that of the chunk, or needs a base and gets none or another.
    """
    try:
        plain = _decode(memoryview(frame), size_bytes, base)
    except CorruptObjectError as error:
        raise ChunkCorruptError(f"chunk {digest.hex()}: {error.fact}") from error
    found = hash_bytes(plain)
    if found != digest:
        raise ChunkCorruptError(f"chunk {digest.hex()}: its {size_bytes} bytes hash to {found.hex()}")
    return plain if isinstance(plain, bytes) else bytes(plain)


def base_digest(frame: Buffer) -> bytes | None:
    """Return the hash of the chunk that a frame is encoded against, None where it stands alone.

    Raises:
        CorruptObjectError: It is no frame.
    """
    header = _header(memoryview(frame))
    return bytes(frame[HEADER.size : HEADER.size + _DIGEST_BYTES]) if header.flags else None


def _encode_checked(plain: Buffer, base: tuple[bytes, Buffer] | None, min_gain: float) -> list[Buffer]:
    """Return the pieces of a frame that decodes to the chunk; valid until this thread encodes again."""
    if not 1 <= len(plain) <= MAX_CHUNK_BYTES:
        raise CorruptObjectError(f"a chunk of {len(plain)} bytes: not from 1 to {MAX_CHUNK_BYTES}")
    best = _encode(plain, base, min_gain)
    # of blocks, each has been asked (B1 of blocks.py); what is raw is the chunk itself
    if best.codec in (_ZSTD, _PREFIXED):
        prefix = base[1] if base is not None and best.codec == _PREFIXED else None
        (payload,) = best.payload
        if not is_same(decompress(payload, max_bytes=len(plain), prefix=prefix), plain):
            raise CorruptObjectError(f"a chunk of {len(plain)} bytes does not decode to what was encoded")
    flags = _NEEDS_BASE if best.digest else 0
    header = HEADER.pack(best.codec, flags, len(best.digest), len(plain), best.payload_bytes)
    return [header, best.digest, *best.payload]


class _Encoded(NamedTuple):
    codec: int
    digest: bytes
    """Of the base, if it needs one."""
    payload: Sequence[Buffer]

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.payload))


def _encode(plain: Buffer, base: tuple[bytes, Buffer] | None, min_gain: float) -> _Encoded:
    size_bytes = len(plain)
    best, most = _Encoded(_RAW, b"", [plain]), int(size_bytes * (1 - _MIN_SAVING))
    blocks = encode_blocks(plain, None if base is None else base[1], min_gain)
    if blocks is not None:
        digest = base[0] if base is not None and blocks.uses_base else b""
        of_blocks = _Encoded(_BLOCKS, digest, blocks.pieces)
        if len(digest) + of_blocks.payload_bytes <= most:
            best, most = of_blocks, len(digest) + of_blocks.payload_bytes
    are_floats = blocks is not None and blocks.float_share >= _FLOAT_SHARE
    may_shrink = not are_floats and _may_shrink(plain)
    if may_shrink or (blocks is not None and blocks.is_repeated):
        payload = compress(plain, _LEVEL)
        if len(payload) <= most:
            best, most = _Encoded(_ZSTD, b"", [payload]), len(payload)
    if base is not None and not are_floats and most > _SMALL_ENOUGH * size_bytes:
        if not best.digest:
            most = int(most * (1 - min_gain))
        if _is_worth_prefixing(plain, base[1], most / size_bytes):
            payload = compress_with_prefix(plain, base[1])
            if len(payload) + _DIGEST_BYTES < most:
                best = _Encoded(_PREFIXED, base[0], [payload])
    return best


def _is_worth_prefixing(plain: Buffer, base: Buffer, ratio: float) -> bool:
    """Tell from some pieces of a chunk whether its base as a prefix makes it smaller than a ratio, and than it is
    without: 20 to 50 ms are lost where it does not. Each piece gets what is around it in the base, or around the place
    where its first bytes are found.
    """
    if len(plain) <= 2 * _PROBES * _PREFIXED_PIECE_BYTES:
        return True
    haystack = bytes(base)
    stored = alone = taken = 0
    for place in _telling_places(plain):
        piece = plain[place : place + _PREFIXED_PIECE_BYTES]
        probe = bytes(piece[:_PROBE_BYTES])
        at = place if haystack.startswith(probe, place) else haystack.find(probe)
        start = max(0, (place if at < 0 else at) - _AROUND_BYTES)
        around = haystack[start : start + _PREFIXED_PIECE_BYTES + 2 * _AROUND_BYTES]
        stored += len(compress_with_prefix(piece, around)) if around else len(piece)
        alone += len(compress(piece, _LEVEL))
        taken += len(piece)
    return stored < _PREFIX_SAVING * min(ratio * taken, alone)


def _telling_places(plain: Buffer) -> list[int]:
    """Return where to take pieces of a chunk from: all over it, and those that have the fewest zeros."""
    step = len(plain) // (_PROBES * _PLACES_PER_PROBE + 1) // 8 * 8
    places = range(step, step * _PROBES * _PLACES_PER_PROBE + 1, step)
    words = np.frombuffer(plain, np.uint64, len(plain) // 8)

    def filled(place: int) -> int:
        return int(np.count_nonzero(words[place // 8 :][: _PREFIXED_PIECE_BYTES // 8]))

    groups = (places[start : start + _PLACES_PER_PROBE] for start in range(0, len(places), _PLACES_PER_PROBE))
    return [max(group, key=filled) for group in groups]


class _Header(NamedTuple):
    codec: int
    flags: int
    params_bytes: int
    raw_bytes: int
    payload_bytes: int


def _header(frame: memoryview) -> _Header:
    if len(frame) < HEADER.size:
        raise CorruptObjectError(f"a frame of {len(frame)} bytes")
    header = _Header(*HEADER.unpack_from(frame))
    params_bytes = _DIGEST_BYTES if header.flags else 0
    if (header.codec, header.flags) not in _CODECS or header.params_bytes != params_bytes:
        raise CorruptObjectError(
            f"a frame with codec {header.codec}, flags {header.flags:#x} and {header.params_bytes} bytes of parameters"
        )
    if len(frame) != HEADER.size + params_bytes + header.payload_bytes or header.payload_bytes > header.raw_bytes:
        raise CorruptObjectError(f"a frame of {len(frame)} bytes says {header.payload_bytes} for {header.raw_bytes}")
    return header


def _decode(frame: memoryview, size_bytes: int, base: Buffer | None) -> bytes | memoryview:
    """Return the plain bytes, perhaps as a part of the frame."""
    header = _header(frame)
    if header.raw_bytes != size_bytes:
        raise CorruptObjectError(f"a frame of {header.raw_bytes} plain bytes, where {size_bytes} are expected")
    if header.flags and base is None:
        raise CorruptObjectError("a frame that is encoded against a base, and none is there")
    payload = _payload(frame, header)
    if header.codec == _RAW:
        plain: bytes | memoryview = payload
    elif header.codec == _BLOCKS:
        plain = build_bytes(size_bytes, lambda out: decode_blocks(payload, base if header.flags else None, out))
    else:
        plain = decompress(payload, max_bytes=size_bytes, prefix=base if header.flags else None)
    if len(plain) != size_bytes:
        raise CorruptObjectError(f"a frame that holds {len(plain)} bytes and says {size_bytes}")
    return plain


def _payload(frame: memoryview, header: _Header) -> memoryview:
    return frame[HEADER.size + header.params_bytes :]


def _may_shrink(plain: bytes | bytearray | memoryview) -> bool:
    """Tell from a sample whether zstd is worth trying on a chunk."""
    if len(plain) <= 2 * _PIECES * _PIECE_BYTES:
        return True
    step = (len(plain) - _PIECE_BYTES) // (_PIECES - 1)
    sample = b"".join(plain[index * step : index * step + _PIECE_BYTES] for index in range(_PIECES))
    return len(compress(sample, _LEVEL)) < len(sample) * (1 - _SAMPLE_MIN_SAVING)
