"""What the codec makes of real checkpoints: bytes and speed per core, beside zstd.

`python -m bench.codec [DIRECTORY]`; the sequences are trained once and kept in the directory. Times are processor time
of one thread, medians over the rounds: other programs on the machine slow them through the caches alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.sequences import make_sequences
from ckptfs.codec.frame import decode_frame, encode_frame
from ckptfs.codec.zstd import compress
from ckptfs.hashing import hash_bytes

_CHUNK_BYTES = 4 << 20
_GB = 1e9


@dataclass(frozen=True, slots=True)
class _Measured:
    """One way of storing one version."""

    percent: float
    """Stored bytes of those of the version."""
    encode_gbps: float
    decode_gbps: float


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]


def _timed(rounds: int, steps: Sequence[Callable[[], bytes]]) -> tuple[list[bytes], float]:
    """Return the results, and the median over the rounds of the processor time of all steps."""
    times = []
    results: list[bytes] = []
    for _ in range(rounds):
        start = time.thread_time()
        results = [step() for step in steps]
        times.append(time.thread_time() - start)
    return results, statistics.median(times)


def _measure(base: bytes, version: bytes, rounds: int, *, with_base: bool) -> _Measured:
    chunks = _chunks(version)
    # a version that grew has nothing to refer to past the base's end
    bases = [piece or None for piece in _chunks(base)[: len(chunks)]] if with_base else []
    bases += [None] * (len(chunks) - len(bases))
    digests = [hash_bytes(chunk) for chunk in chunks]
    given = [None if piece is None else (hash_bytes(piece), piece) for piece in bases]

    encoders = [
        lambda chunk=chunk, pair=pair: encode_frame(chunk, base=pair) for chunk, pair in zip(chunks, given, strict=True)
    ]
    frames, encode_s = _timed(rounds, encoders)
    decoders = [
        lambda frame=frame, chunk=chunk, digest=digest, piece=piece: decode_frame(
            frame, size_bytes=len(chunk), digest=digest, base=piece
        )
        for frame, chunk, digest, piece in zip(frames, chunks, digests, bases, strict=True)
    ]
    decoded, decode_s = _timed(rounds, decoders)
    if decoded != chunks:
        raise SystemExit("ckptfs: error: a chunk did not come back")
    size = len(version)
    return _Measured(100 * sum(map(len, frames)) / size, size / encode_s / _GB, size / decode_s / _GB)


def _measure_zstd(version: bytes, rounds: int) -> tuple[float, float]:
    stored, seconds = _timed(rounds, [lambda chunk=chunk: compress(chunk) for chunk in _chunks(version)])
    return 100 * sum(map(len, stored)) / len(version), len(version) / seconds / _GB


def main() -> None:
    """Print one line per sequence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("bench/results/sequences"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("percent of the version's bytes, and GB/s of one core: encoding, decoding (with its hash)")
    print(f"{'sequence':18}{'MB':>7}{'zstd -3':>15}{'fresh':>22}{'against the base':>22}")
    for name, (base, version) in make_sequences(arguments.directory).items():
        zstd_percent, zstd_gbps = _measure_zstd(version, arguments.rounds)
        line = f"{name:18}{len(version) / 1e6:7.1f}{zstd_percent:9.1f}{zstd_gbps:6.2f}"
        for with_base in (False, True):
            measured = _measure(base, version, arguments.rounds, with_base=with_base)
            line += f"{measured.percent:10.1f}{measured.encode_gbps:6.2f}{measured.decode_gbps:6.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
