"""Coders that know one version and nothing before it: zstd, ZipNN, OpenZL.

Files are cut into pieces of 4 MiB, as ckptfs does. Where a coder has to be told what it gets, it is given every one of
its ways for each piece, and the shortest result counts: better than a user who has to choose would do.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_PIECE_BYTES = 4 << 20

Coder = Callable[[bytes], int]
"""Returns the size of a piece's code (bytes)."""


def coded_bytes(coder: Coder, files: Sequence[bytes]) -> int:
    """Return the size of the files' codes (bytes)."""
    return sum(
        min(coder(content[start : start + _PIECE_BYTES]), len(content[start : start + _PIECE_BYTES]))
        for content in files
        for start in range(0, len(content), _PIECE_BYTES)
    )


def make_zstd() -> Coder:
    """Return zstd at level 3."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=3)
    return lambda piece: len(compressor.compress(piece))


def make_zipnn() -> Coder:
    """Return ZipNN, for fp32 and for bf16 numbers. Raises ImportError if it is not installed."""
    import zipnn

    coders = [zipnn.ZipNN(bytearray_dtype=kind, threads=1) for kind in ("float32", "bfloat16")]

    def code(piece: bytes) -> int:
        # of a number cut off at the end it writes beyond its memory
        whole = len(piece) // 4 * 4
        # it compresses in place of its input
        return min(len(coder.compress(bytearray(piece[:whole]))) for coder in coders) + len(piece) - whole

    return code


def make_openzl() -> Coder:
    """Return OpenZL: its graphs for fp32, for bf16 and for bytes of any kind. Raises ImportError if not installed."""
    from openzl.ext import MAX_FORMAT_VERSION, CCtx, Compressor, CParam, Input, Type, graphs, nodes

    def fp32(to: Any) -> Any:
        deconstruct = nodes.Float32Deconstruct()
        parts = deconstruct(to, sign_frac=graphs.FieldLz()(to), exponent=graphs.Fse()(to))
        return nodes.ConvertSerialToNumLE32()(to, parts)

    def bf16(to: Any) -> Any:
        deconstruct = nodes.BFloat16Deconstruct()
        parts = deconstruct(to, sign_frac=graphs.FieldLz()(to), exponent=graphs.Fse()(to))
        return nodes.ConvertSerialToNumLE16()(to, parts)

    def compressor(graph: Callable[[Any], Any]) -> Any:
        made = Compressor()
        made.select_starting_graph(graph(made))
        return made

    general = [compressor(lambda to: graphs.Compress()(to)), compressor(lambda to: graphs.Zstd()(to))]
    numbers = {2: compressor(bf16), 4: compressor(fp32)}

    def code(piece: bytes) -> int:
        fitting = [made for width, made in numbers.items() if len(piece) % width == 0]
        return min(run(made, piece) for made in general + fitting)

    def run(made: Any, piece: bytes) -> int:
        context = CCtx()
        context.ref_compressor(made)
        context.set_parameter(CParam.FormatVersion, MAX_FORMAT_VERSION)
        return len(context.compress([Input(Type.Serial, np.frombuffer(piece, np.uint8))]))

    return code


MAKERS: dict[str, Callable[[], Coder]] = {"zstd -3": make_zstd, "ZipNN": make_zipnn, "OpenZL": make_openzl}
"""By the name that is shown."""
