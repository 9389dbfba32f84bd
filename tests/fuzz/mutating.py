"""Mutations of bytes: a few at a time, of the kinds that break decoders."""

import random
from collections.abc import Sequence

from tests.fuzz.targets import Target

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
_WORDS = (
    b"..",
    b"/",
    b"//",
    b"/../",
    b"\0",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[",
    b"{}",
    b'"',
    b"9" * 40,
    b"\xff\xfe",
)
_MOST_BYTES = 256 << 10
_MOST_UNDERSTOOD = 200


def mutate(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """Return bytes with 1 to 4 mutations."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        _mutate_once(mutated, seeds, rng)
    return bytes(mutated[:_MOST_BYTES])


class Explorer:
    """Feeds a target mutated and repaired inputs; what it understood is mutated further.

    Args:
        seeds: To begin with.
    """

    def __init__(self, target: Target, seeds: Sequence[bytes], rng: random.Random) -> None:
        self._target = target
        self._seeds = seeds
        self._rng = rng
        self._understood: list[bytes] = []
        self.data = b""
        """The last input."""

    def step(self) -> bool:
        """Feed one more input; return whether it was understood. Raises what the target does."""
        rng = self._rng
        # half of them are near the examples: what is far from all of them has lost what most mutations need
        pool = self._understood if self._understood and rng.random() < 0.5 else self._seeds
        self.data = self._target.repair(mutate(rng.choice(pool), self._seeds, rng))
        is_understood = self._target.run(self.data)
        if is_understood and len(self._understood) < _MOST_UNDERSTOOD:
            self._understood.append(self.data)
        elif is_understood:
            self._understood[rng.randrange(_MOST_UNDERSTOOD)] = self.data
        return is_understood


def _mutate_once(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    length = min(rng.choice((1, 2, 4, 8, 16, 64, 1024)), len(data) - start)
    match rng.randrange(9):
        case 0 if data:
            place = min(start, len(data) - 1)
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[start : start + length] = rng.randbytes(length)
        case 2:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(_NUMBERS) + rng.choice((0, 0, -1, 1))) % (1 << 8 * size)
            data[start : start + size] = number.to_bytes(size, "little")
        case 3:
            del data[start : start + length]
        case 4:
            data[start:start] = data[start : start + length]
        case 5:
            data[start:start] = rng.choice(_WORDS)
        case 6:
            other = rng.choice(seeds)
            cut = rng.randrange(len(other) + 1)
            data[start : start + length] = other[cut : cut + length]
        case 7:
            del data[start:]
        case _:
            data += rng.randbytes(length)
