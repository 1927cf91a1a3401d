"""Which set of instructions compiled code uses: the widest that the processor has, unless one is asked for.

It is asked for by the environment, so that a server, its tests and any script can be held to less than the
processor has. Sets are numbered as in `native_kinds.h`.
"""

import os
from ctypes import CDLL

from models.errors import ModelError

VARIABLE = "HEED_INSTRUCTIONS"
WIDEST, NOTHING = "auto", "none"
SETS = {"avx2": 1, "avx512": 2, "neon": 3}


def sets_of(library: CDLL) -> tuple[str, ...]:
    """Return the sets that a library was built for and this processor has, the widest last."""
    return tuple(name for name, number in SETS.items() if library.heed_has(number))


def chosen(library: CDLL) -> str | None:
    """Return the set to use; None where there is none, or none is wanted.

    Raises ModelError where the one that is asked for is not there.
    """
    found = sets_of(library)
    asked = os.environ.get(VARIABLE, "") or WIDEST
    if asked == NOTHING:
        return None
    if asked == WIDEST:
        return found[-1] if found else None
    if asked not in found:
        there = ", ".join((WIDEST, NOTHING, *found))
        raise ModelError(f"{VARIABLE} is {asked[:64]!r}, which this processor has not; give one of {there}")
    return asked
