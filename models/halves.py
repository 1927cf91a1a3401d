"""Numbers of 16 bits on their way to a device: kept as they came, half as wide as float32.

float16 is numpy's own. numpy has no bfloat16, so its bit patterns cross the wall as `BFLOAT16`, two bytes
that are no number: whatever computes with them, converts them or puts them beside other numbers raises, where
uint16 would pass for whole numbers. `widened` makes float32 of either; `models/device/staging.py` makes
tensors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]] | NDArray[np.void]  # void: BFLOAT16

BFLOAT16 = np.dtype("V2")


def bfloat16_of(bits: NDArray[np.uint16]) -> NDArray[np.void]:
    """Return bit patterns of bfloat16 as what they are: a view."""
    return bits.view(BFLOAT16)


def widened(array: Numbers) -> NDArray[np.float32]:
    """Return float32 of float32 (itself), float16 or bfloat16; exact, NaN payloads of bfloat16 included."""
    if array.dtype == BFLOAT16:
        wide: NDArray[np.uint32] = array.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)
