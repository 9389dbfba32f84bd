"""Planes: every bit pattern comes back from every prediction and every way of cutting numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfs.codec.planes import UNSIGNED, Numbers, Prediction, are_planes, can_scale, join, predict, split, unpredict

WIDTHS = {
    2: [(1, 1)],
    4: [(1, 1, 2), (1, 1, 1, 1), (2, 1, 1), (2, 2)],
    8: [(1, 1, 2, 4), (4, 4), (2, 2, 2, 2), (1,) * 8, (4, 1, 1, 2), (2, 1, 1, 4)],
}
CASES = [(stride, widths) for stride, all_widths in WIDTHS.items() for widths in all_widths]
SPECIAL = {
    2: np.array([0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 1, 0x8001, 0xFFFF, 0x3F80], "<u2"),
    4: np.concatenate(
        [
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, 1.0], "<f4").view("<u4"),
            np.array([0x7F800001, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FC00123], "<u4"),
        ]
    ),
    8: np.concatenate(
        [
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e308, 1.0], "<f8").view("<u8"),
            np.array([0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 1 << 63, (1 << 63) - 1], "<u8"),
        ]
    ),
}


def planes_of(numbers: Numbers, widths: tuple[int, ...], *, sign_last: bool) -> list[Numbers]:
    planes: list[Numbers] = [np.empty(len(numbers), UNSIGNED[width]) for width in widths]
    split(numbers, planes, sign_last=sign_last)
    return planes


def some_numbers(stride: int) -> Numbers:
    noise: Numbers = np.random.default_rng(0).integers(0, 256, 500 * stride, dtype=np.uint8).view(UNSIGNED[stride])
    return np.concatenate([SPECIAL[stride], noise])


@pytest.mark.parametrize("sign_last", [False, True])
@pytest.mark.parametrize(("stride", "widths"), CASES)
def test_numbers_come_back_from_planes(stride: int, widths: tuple[int, ...], sign_last: bool) -> None:
    numbers = some_numbers(stride)
    out = np.empty_like(numbers)
    join(planes_of(numbers, widths, sign_last=sign_last), sign_last=sign_last, out=out)
    assert out.tobytes() == numbers.tobytes()


@pytest.mark.parametrize(("stride", "widths"), CASES)
def test_planes_are_the_bytes_of_numbers_from_the_most_significant(stride: int, widths: tuple[int, ...]) -> None:
    number = sum((index + 1) << 8 * (stride - 1 - index) for index in range(stride))
    planes = planes_of(np.array([number], UNSIGNED[stride]), widths, sign_last=False)
    assert b"".join(plane.byteswap().tobytes() for plane in planes) == bytes(range(1, stride + 1))


def test_the_exponent_is_a_plane_of_its_own_when_the_sign_goes_last() -> None:
    for floats, kind in ((np.array([1.5, -1.5], "<f4"), "<u4"), (np.array([0x3FC0, 0xBFC0], "<u2"), "<u2")):
        numbers = floats.view(kind)
        widths = (1, 1, 2) if kind == "<u4" else (1, 1)
        planes = planes_of(numbers, widths, sign_last=True)
        assert planes[0].tolist() == [127, 127]
        assert planes[1].tolist() == [0x80, 0x81]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.binary(min_size=16, max_size=400), st.binary(min_size=16, max_size=400))
def test_any_bit_pattern_comes_back_from_a_difference(stride: int, one: bytes, other: bytes) -> None:
    count = min(len(one), len(other)) // stride
    numbers, base = (np.frombuffer(data, UNSIGNED[stride], count) for data in (one, other))
    residuals = predict(numbers, Prediction.BASE, base, 0.0, np.empty_like(numbers)).copy()
    unpredict(residuals, Prediction.BASE, base, 0.0)
    assert residuals.tobytes() == numbers.tobytes()


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_every_special_number_comes_back_from_a_difference_to_every_other(stride: int) -> None:
    special = SPECIAL[stride]
    numbers = np.repeat(special, len(special))
    base = np.tile(special, len(special))
    residuals = predict(numbers, Prediction.BASE, base, 0.0, np.empty_like(numbers))
    unpredict(residuals, Prediction.BASE, base, 0.0)
    assert residuals.tobytes() == numbers.tobytes()


def test_small_differences_of_both_signs_are_small_numbers() -> None:
    base = np.array([1000, 1000, 1000, 0], "<u4")
    numbers = np.array([1001, 999, 1000, 0xFFFFFFFF], "<u4")
    assert predict(numbers, Prediction.BASE, base, 0.0, np.empty_like(numbers)).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1e-30, -2.0, 3e38])
def test_floats_come_back_from_a_ratio(ratio: float) -> None:
    base = some_numbers(4)
    base = base[np.isfinite(base.view("<f4"))]
    assert can_scale(base)
    numbers = some_numbers(4)[: len(base)]
    residuals = predict(numbers, Prediction.RATIO, base, ratio, np.empty_like(numbers))
    unpredict(residuals, Prediction.RATIO, base, ratio)
    assert residuals.tobytes() == numbers.tobytes()


def test_a_decaying_moment_is_predicted_by_its_ratio() -> None:
    base = np.random.default_rng(0).standard_normal(1000).astype("<f4")
    decayed = base * np.float32(0.9)
    residuals = predict(decayed.view("<u4"), Prediction.RATIO, base.view("<u4"), 0.9, np.empty(1000, "<u4"))
    assert residuals.tolist() == [0] * 1000


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF])
def test_what_is_not_finite_is_not_scaled(bits: int) -> None:
    assert not can_scale(np.array([0, bits, 1], "<u4"))
    assert can_scale(np.array([0, 0x7F7FFFFF, 0xFF7FFFFF, 1], "<u4"))


@pytest.mark.parametrize(
    ("widths", "stride"),
    [((4,), 4), ((1, 2, 1), 4), ((1, 1, 1), 4), ((1, 1, 4), 4), ((1, 1, 1, 1, 1), 4), ((2,), 2), ((8,), 8), ((), 2)],
)
def test_numbers_are_not_cut_across_their_halves(widths: tuple[int, ...], stride: int) -> None:
    assert not are_planes(widths, stride)
    assert all(are_planes(legal, stride) for legal in WIDTHS[stride])
