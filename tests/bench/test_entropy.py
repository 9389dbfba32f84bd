"""The yardstick of the codec."""

import random

import numpy as np
import pytest

from bench.versions.entropy import floor_bytes


def test_random_bytes_have_all_their_entropy_and_constant_ones_none() -> None:
    content = random.Random(0).randbytes(1 << 20)
    assert floor_bytes({"a": content}, {}) == pytest.approx(len(content), rel=1e-3)
    assert floor_bytes({"a": bytes(1 << 20)}, {}) == 0


def test_a_file_that_is_as_before_has_none_under_any_checkpoint_folder() -> None:
    content = random.Random(1).randbytes(3_000_001)
    # a last byte that is no whole number counts
    assert floor_bytes({"checkpoint-2/a": content}, {"checkpoint-1/a": content}) <= 1


def test_small_differences_of_either_sign_take_one_plane() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    steps = generator.integers(-128, 128, 1 << 18)
    after = (before + steps).astype(np.uint32)
    assert floor_bytes({"a": after.tobytes()}, {"a": before.tobytes()}) == pytest.approx(1 << 18, rel=1e-2)
