"""Numbers as callers send them in 16 bits."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.halves import Numbers, bfloat16_of

HALVES: tuple[Literal["float16", "bfloat16"], ...] = ("float16", "bfloat16")


def halved(array: NDArray[Any], kind: Literal["float16", "bfloat16"]) -> Numbers:
    """Return numbers in 16 bits, as they cross the wall; bfloat16 cut off, not rounded."""
    if kind == "float16":
        return array.astype(np.float16)
    return bfloat16_of((array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
