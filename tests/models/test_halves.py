"""Halves cross the wall as they came; numpy cannot mistake bfloat16 for numbers."""

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from models.halves import BFLOAT16, bfloat16_of, widened

PATTERNS = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
X = bfloat16_of(np.array([[0x3F80, 0xBF80], [0x4049, 0x0000]], np.uint16))

MISTAKES: dict[str, Callable[[], Any]] = {
    "added": lambda: X + X,
    "multiplied": lambda: X @ X.T,
    "scaled": lambda: 2 * X,
    "summed": lambda: X.sum(),
    "compared": lambda: operator.lt(X, 1),
    "looked at": lambda: np.isfinite(X),
    "the largest": lambda: X.max(),
    "converted": lambda: X.astype(np.float32),
    "one of them": lambda: float(X[0, 0]),
    "beside others": lambda: np.concatenate([X, np.ones((1, 2), np.float16)]),
    "into others": lambda: np.concatenate([X, X], out=np.empty((4, 2), np.float32)),
    "a tensor": lambda: torch.from_numpy(X),
    "a tensor of its own": lambda: torch.tensor(X),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_whoever_takes_bfloat16_for_numbers_is_stopped(mistake: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        MISTAKES[mistake]()


def test_both_are_widened_exactly() -> None:
    wide = widened(bfloat16_of(PATTERNS))
    assert wide.dtype == np.float32
    assert np.array_equal(wide.view(np.uint32), PATTERNS.astype(np.uint32) << 16)
    assert np.array_equal(wide, PATTERNS.view(ml_dtypes.bfloat16).astype(np.float32), equal_nan=True)
    halves = PATTERNS.view(np.float16)
    assert np.array_equal(widened(halves), halves.astype(np.float64), equal_nan=True)


def test_nothing_is_copied_that_need_not_be() -> None:
    bits, numbers = np.zeros((2, 3), np.uint16), np.zeros((2, 3), np.float32)
    assert np.shares_memory(bfloat16_of(bits), bits)
    assert bfloat16_of(bits).dtype == BFLOAT16
    assert widened(numbers) is numbers
