import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Malformed
from service.wire.dtypes import (
    bits_to_float32,
    can_be_added,
    float32_to_bits,
    require_finite,
    size_in_bytes,
    widen,
)

floats = hnp.arrays(np.uint32, hnp.array_shapes(max_dims=2, min_side=0, max_side=9))


@given(floats)
def test_bfloat16_rounds_like_ml_dtypes_to_nearest_even(bits):
    numbers = bits.view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16)
    ours = float32_to_bits(numbers).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(numbers))
    known = ~np.isnan(numbers)
    np.testing.assert_array_equal(ours.view(np.uint16)[known], expected.view(np.uint16)[known])


def test_every_bfloat16_widens_exactly_and_comes_back():
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    wide = bits_to_float32(bits)
    np.testing.assert_array_equal(wide.view(np.uint32) >> 16, bits)
    known = ~np.isnan(wide)
    np.testing.assert_array_equal(float32_to_bits(wide)[known], bits[known])


def test_every_float16_widens_exactly():
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    known = ~np.isnan(halves)
    np.testing.assert_array_equal(widen(halves)[known], halves[known].astype(np.float64))


def test_float32_is_widened_without_a_copy():
    numbers = np.ones(3, np.float32)
    assert widen(numbers) is numbers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_that_are_not_finite_are_refused(bad, dtype):
    numbers = np.array([1, bad, -1], dtype=np.float32)
    array = float32_to_bits(numbers) if dtype == "bfloat16" else numbers.astype(dtype)
    with pytest.raises(Malformed, match="finite"):
        require_finite(array, name="embeddings")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_of_every_pattern_of_16_bits_it_is_known_what_it_is(dtype):
    patterns = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    array = patterns.view(np.float16) if dtype == "float16" else patterns
    wide = widen(array)
    for place in range(0, 1 << 16, 7):
        one, number = array[place : place + 1], wide[place]
        assert can_be_added(one) == (not np.isnan(number) and number != np.inf)
        if np.isfinite(number):
            require_finite(one, name="embeddings")
        else:
            with pytest.raises(Malformed, match="finite"):
                require_finite(one, name="embeddings")
    finite = array[np.isfinite(wide)]
    require_finite(finite.reshape(2, -1)[::-1, ::2], name="embeddings")
    assert can_be_added(array[np.isfinite(wide) | (wide == -np.inf)])
    require_finite(array[:0], name="embeddings")


def test_infinities_that_cancel_are_refused():
    with pytest.raises(Malformed):
        require_finite(np.array([np.inf, -np.inf], np.float32), name="embeddings")


def test_finite_numbers_whose_sum_overflows_are_accepted():
    large = (
        np.full(4, 3e38, np.float32),
        np.full(4000, 65504, np.float16),
        np.array([0x7F7F, 0xFF7F], np.uint16),
    )
    for array in large:
        assert require_finite(array, name="embeddings") is None


@pytest.mark.parametrize(
    "shape",
    [[-1], [1.0], [True], ["3"], [None], [[1]], [2**63], [2**62, 4], [2**40] * 3, [0, 2**64], [1] * 9],
)
def test_sizes_no_tensor_can_have_are_refused(shape):
    with pytest.raises(Malformed):
        size_in_bytes(shape, 4, name="x")


@given(st.lists(st.integers(0, 2**20), max_size=3))
def test_size_is_the_product(shape):
    assert size_in_bytes(shape, 2, name="x") == 2 * int(np.prod(np.array(shape, dtype=object), initial=1))


@pytest.mark.parametrize("shape", [[0, 2**62], [2**40, 2**40, 0], [0, 2**63 - 1]])
def test_a_shape_that_no_array_has_is_refused_though_it_holds_nothing(shape: list[int]) -> None:
    with pytest.raises(Malformed, match="holds more than"):
        size_in_bytes(shape, 4, name="a tensor")
    assert size_in_bytes([0, 4096], 4, name="a tensor") == 0
