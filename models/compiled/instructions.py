"""Which set of instructions compiled code uses: the widest that the processor has, unless one is asked for.

It is asked for by the environment, so that a server, its tests and any script can be held to less than the
processor has. Sets are numbered as in `native_kinds.h`.
"""

import os
from ctypes import CDLL

from models.errors import ModelError

VARIABLE = "HEED_INSTRUCTIONS"
WIDEST, NOTHING = "auto", "none"
# From the narrowest; those of one kind of vector differ in how they multiply numbers narrower than float32.
SETS = {
    "avx2": 1,
    "avx2_vnni": 4,
    "avx512": 2,
    "avx512_vnni": 5,
    "avx512_bf16": 6,
    "avx512_amx": 7,
    "neon": 3,
}
MULTIPLY = {
    "bfloat16": ("avx512_bf16", "avx512_amx"),
    "int8": ("avx2_vnni", "avx512_vnni", "avx512_bf16", "avx512_amx"),
}


def sets_of(library: CDLL) -> tuple[str, ...]:
    """Return the sets that a library was built for and this processor has, the widest last."""
    return tuple(name for name, number in SETS.items() if library.heed_has(number))


def widens(using: str, kept_as: str) -> bool:
    """Whether weights kept so are widened as they are read, for no instruction of a set multiplies them."""
    return kept_as != "float32" and using not in MULTIPLY.get(kept_as, ())


def manner(using: str, kept_as: str) -> str:
    """Return what a kernel's name ends with: `:widened`, or `:amx` where tiles multiply weights kept so."""
    if widens(using, kept_as):
        return ":widened"
    return ":amx" if kept_as != "float32" and using == "avx512_amx" else ""


def left_out() -> bool:
    """Whether compiled code is asked to do nothing, wherever it is installed."""
    return os.environ.get(VARIABLE) == NOTHING


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
