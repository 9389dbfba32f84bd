"""How far a coder of single bytes could get that knows the version before: the order-0 entropy of byte planes.

A yardstick, no method: a real coder also writes its tables, and one that predicts better can be below it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 20
_STRIDES = {2: np.uint16, 4: np.uint32}


def floor_bytes(files: Mapping[str, bytes], before: Mapping[str, bytes]) -> int:
    """Return the entropy of some files, given those of the same names in the version before (bytes).

    Each block of 1 MiB counts as what is least: its byte planes at a stride of 1, 2 or 4, or those of the zigzag
    differences of its numbers to the same place before.
    """
    # the folder of a checkpoint is named after its step
    earlier = {_last(name): content for name, content in before.items()}
    return round(
        sum(
            _block_bytes(block, base)
            for name, content in files.items()
            for block, base in _pairs(content, earlier.get(_last(name), b""))
        )
    )


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _pairs(content: bytes, base: bytes) -> Iterable[tuple[bytes, bytes]]:
    for start in range(0, len(content), _BLOCK_BYTES):
        yield content[start : start + _BLOCK_BYTES], base[start : start + _BLOCK_BYTES]


def _block_bytes(block: bytes, base: bytes) -> float:
    least = _planes_bytes(np.frombuffer(block, np.uint8), 1)
    for stride, kind in _STRIDES.items():
        whole = len(block) // stride * stride
        numbers = np.frombuffer(block[:whole], kind)
        ways = [numbers]
        if len(base) >= len(block):
            difference = (numbers - np.frombuffer(base[:whole], kind)).astype(kind)
            # the sign into the lowest bit: small differences of either sign have zeros at the top
            sign = (difference >> kind(8 * stride - 1)) * kind((1 << 8 * stride) - 1)
            ways.append((difference << kind(1)) ^ sign)
        least = min(least, len(block) - whole + min(_planes_bytes(way.view(np.uint8), stride) for way in ways))
    return least


def _planes_bytes(values: NDArray[np.uint8], stride: int) -> float:
    return sum(_entropy_bytes(values[plane::stride]) for plane in range(stride))


def _entropy_bytes(values: NDArray[np.uint8]) -> float:
    counts = np.bincount(values, minlength=256)
    shares = counts[counts > 0] / len(values)
    return float(-(shares * np.log2(shares)).sum() / 8 * len(values))
