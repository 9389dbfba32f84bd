"""How much faster two encoders are than one: `python -m bench.scaling`, after bench.codec or with what it has trained.

The chunks of a sequence's second version are encoded against the first by processes of their own, as an upload does it
(ckptfs/transfer/encoding.py), first by one of them, then by as many as there are processors. Judged is the ratio of
neighbouring times.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.figures import RESULTS, Figure
from bench.sequences import load_sequences
from ckptfs.cache.anchors import AnchorPlace
from ckptfs.codec.frame import encode_frame
from ckptfs.hashing import hash_bytes
from ckptfs.memory import keep_freed_memory
from ckptfs.transfer.content_writer import CHUNK_BYTES
from ckptfs.transfer.encoding import EncoderPool, Work

_ONE = "one encoder"
_MOST = 1 / 1.7
"""Of the time of one, for two."""


def _encode_all(pool: EncoderPool, pairs: list[tuple[bytes, AnchorPlace]]) -> float:
    """Return how long the encoders of a pool take for some chunks (s)."""

    def encode(pair: tuple[bytes, AnchorPlace]) -> None:
        chunk, base = pair
        slot = pool.slots.take()
        try:
            slot.plain[: len(chunk)] = chunk
            pool.encode(slot, Work(len(chunk), base, 0.02))
        finally:
            pool.slots.give(slot)

    with ThreadPoolExecutor(pool.count) as threads:
        started_s = time.perf_counter()
        for _ in threads.map(encode, pairs):
            pass
        return time.perf_counter() - started_s


def _pairs(before: bytes, after: bytes, directory: Path) -> list[tuple[bytes, AnchorPlace]]:
    """Return the chunks of a file with their bases, which lie on disk as those of an upload do."""
    pairs = []
    for start in range(0, len(after), CHUNK_BYTES):
        base = before[start : start + CHUNK_BYTES]
        frame = encode_frame(base)
        path = directory / str(start)
        path.write_bytes(frame)
        pairs.append(
            (after[start : start + CHUNK_BYTES], AnchorPlace(path, 0, len(frame), len(base), hash_bytes(base)))
        )
    return pairs


def main() -> None:
    """Print how long several encoders take, as a ratio to one."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=RESULTS / "sequences")
    parser.add_argument("--name", default="fp32-adamw-3e-4", help="of the sequence (fp32-adamw-3e-4)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    count = len(os.sched_getaffinity(0))
    pools = [EncoderPool(encoders, chunk_bytes=CHUNK_BYTES, forked=True) for encoders in (1, count)]
    sequence = load_sequences(arguments.directory, [arguments.name])[arguments.name]
    name = f"{arguments.name}: {count} encoders"
    figure = Figure(name=name, unit="s", against=_ONE, target=_MOST if count == 2 else None)
    with tempfile.TemporaryDirectory(prefix="ckptfs-scaling-") as directory:
        # as one piece: where a file ends is no matter here
        before, after = (b"".join(sequence.files(number).values()) for number in (0, 1))
        pairs = _pairs(before, after, Path(directory))
        for _ in range(arguments.rounds):
            alone_s, together_s = (_encode_all(pool, pairs) for pool in pools)
            figure.add({"ckptfs": together_s, _ONE: alone_s})
    print(figure.line())


if __name__ == "__main__":
    main()
