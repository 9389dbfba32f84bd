"""What the codec makes of real checkpoints: bytes and speed per core, beside coders and deduplication without it.

`python -m bench.codec [DIRECTORY]`; the sequences are trained once and kept in the directory. Times are processor time
of one thread, each chunk's least over the rounds: what else runs on the machine can only add to them. Memory is kept as
the processes keep it that upload and restore (ckptfs/memory.py).
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from bench.sequences import NAMES, load_sequences
from bench.versions.coders import MAKERS, coded_bytes
from bench.versions.dedup import METHODS, Dedup
from ckptfs.codec import blocks
from ckptfs.codec.frame import decode_frame, encode_frame, encode_frame_into
from ckptfs.format.pack import MAX_FRAME_EXTRA_BYTES
from ckptfs.hashing import hash_bytes
from ckptfs.memory import keep_freed_memory

_CHUNK_BYTES = 4 << 20
_GB = 1e9

Pair = tuple[bytes, bytes | None]
"""A chunk and its base."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """One way of storing one version."""

    percent: float
    """Stored bytes of those of the version."""
    encode_gbps: float
    unverified_gbps: float
    """Of encoding without decoding and comparing what was encoded."""
    decode_gbps: float


def _chunks(data: bytes) -> list[bytes]:
    return [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]


def _pairs(base: dict[str, bytes], version: dict[str, bytes]) -> list[Pair]:
    """Return the chunks of a version with their bases: the same place of the file of the same name, or a like one.

    Folders of checkpoints are named by their step: files are matched in the order of their names.
    """
    pairs: list[Pair] = []
    for content, before in zip(version.values(), base.values(), strict=False):
        bases = _chunks(before)
        pairs += [(chunk, bases[index] if index < len(bases) else None) for index, chunk in enumerate(_chunks(content))]
    return pairs


def _least_s(rounds: int, steps: Iterable[Callable[[], object]]) -> float:
    """Return the sum over the steps of the least processor time that each took in some rounds."""
    total = 0.0
    for step in steps:
        least = float("inf")
        for _ in range(rounds):
            start = time.thread_time()
            step()
            least = min(least, time.thread_time() - start)
        total += least
    return total


def _measure(pairs: Sequence[Pair], rounds: int, *, with_base: bool) -> _Measured:
    room = memoryview(bytearray(_CHUNK_BYTES + MAX_FRAME_EXTRA_BYTES))
    encoders, decoders = [], []
    stored = size = 0
    for chunk, before in pairs:
        base = (hash_bytes(before), before) if with_base and before is not None else None
        digest, frame = hash_bytes(chunk), encode_frame(chunk, base=base)

        def encode(chunk: bytes = chunk, base: tuple[bytes, bytes] | None = base) -> int:
            return encode_frame_into(room, chunk, base=base)

        def decode(
            frame: bytes = frame, size: int = len(chunk), digest: bytes = digest, base: bytes | None = before
        ) -> bytes:
            return decode_frame(frame, size_bytes=size, digest=digest, base=base)

        if decode() != chunk:
            raise SystemExit("ckptfs: error: a chunk did not come back")
        encoders.append(encode)
        decoders.append(decode)
        stored += len(frame)
        size += len(chunk)
    encode_s = _least_s(rounds, encoders)
    with patch.object(blocks, "_comes_back", lambda *_: True):
        unverified_s = _least_s(rounds, encoders)
    decode_s = _least_s(rounds, decoders)
    return _Measured(100 * stored / size, size / encode_s / _GB, size / unverified_s / _GB, size / decode_s / _GB)


def _others(base: dict[str, bytes], version: dict[str, bytes]) -> list[float]:
    """Return what others make of a version, in % of its bytes; NaN where one is not installed."""
    size = sum(map(len, version.values()))
    found = []
    for make in MAKERS.values():
        try:
            found.append(100 * coded_bytes(make(), list(version.values())) / size)
        except ImportError:
            found.append(float("nan"))
    for cut in METHODS.values():
        dedup = Dedup(cut)
        dedup.add(list(base.values()))
        found.append(100 * dedup.add(list(version.values())) / size)
    return found


def main() -> None:
    """Print one line per sequence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("bench/results/sequences"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES)
    arguments = parser.parse_args()
    keep_freed_memory()
    print(
        "% of the bytes of a second version: by others, and by ckptfs alone and against the first version, with GB/s of"
    )
    print("one core: encoding, encoding without verification, decoding (with its hash)")
    others = [*MAKERS, *METHODS]
    print(f"{'sequence':18}{'MB':>7}" + "".join(f"{name:>20}" for name in others) + f"{'alone':>25}{'against':>25}")
    for name, sequence in load_sequences(arguments.directory, arguments.names).items():
        base, version = sequence.files(0), sequence.files(1)
        line = f"{name:18}{sum(map(len, version.values())) / 1e6:7.1f}"
        line += "".join(f"{percent:20.1f}" for percent in _others(base, version))
        pairs = _pairs(base, version)
        for with_base in (False, True):
            measured = _measure(pairs, arguments.rounds, with_base=with_base)
            line += f"{measured.percent:10.1f}{measured.encode_gbps:5.2f}{measured.unverified_gbps:5.2f}"
            line += f"{measured.decode_gbps:5.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
