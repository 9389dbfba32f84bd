"""The data of the examples: scikit-learn's digits (1,797 of 8x8 pixels), in the files that MNIST comes in, and as CSV.

python -m examples.digits DIRECTORY
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
CSV = "digits.csv"


def write(directory: Path) -> None:
    """Write the images and labels as idx files, and both as lines of `label,pixel,...` with pixels in [0, 1]."""
    digits = load_digits()
    pixels = digits.images * (255 / 16)
    directory.mkdir(parents=True, exist_ok=True)
    _write_idx(directory / IMAGES, pixels.round().astype(np.uint8))
    _write_idx(directory / LABELS, digits.target.astype(np.uint8))
    lines = [
        ",".join([str(label), *(f"{pixel:g}" for pixel in row)])
        for label, row in zip(digits.target, digits.data / 16, strict=True)
    ]
    (directory / CSV).write_text("\n".join(lines) + "\n")


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write bytes in the format of MNIST: 0, 0, 8 for bytes, dimensions, each size as big-endian 32 bits, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
