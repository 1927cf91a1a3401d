"""Our own C, loaded with ctypes where it was built for the structures that Python declares.

A library tells of every field that crosses its name, offset and size (`heed_fields`), and the numbers that
both sides give a name. Where any is otherwise here, the library is not called.
"""

import importlib.util
import logging
from collections.abc import Mapping
from ctypes import CDLL, Structure, c_char_p, c_int64, pointer
from itertools import count, takewhile
from typing import Any

__all__ = ["difference", "fields", "load"]

log = logging.getLogger(__name__)

Structures = Mapping[str, type[Structure]]


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Return fields of one kind for `_fields_`."""
    return [(name, kind) for name in names.split()]


class _Field(Structure):
    _fields_ = (*fields(c_char_p, "of name"), *fields(c_int64, "offset size"))


def load(name: str, structures: Structures, numbers: Mapping[str, int]) -> CDLL | None:
    """Return an extension's functions; None where it was not built, or for something else."""
    found = importlib.util.find_spec(name)
    try:
        if found is not None and found.origin is not None:
            library = CDLL(found.origin)
            if (other := difference(library, structures, numbers)) is None:
                return library
            log.warning("%s was built for other structures: %s", found.origin, other)
    except (OSError, ValueError):  # built for another machine, or no library of ours
        pass
    return None


def difference(library: CDLL, structures: Structures, numbers: Mapping[str, int]) -> str | None:
    """Return what a library has otherwise than these, by the names that C gives it; None where they agree."""
    first = pointer(_Field.in_dll(library, "heed_fields"))
    told = takewhile(lambda field: field.name, map(first.__getitem__, count()))
    theirs = {f"{one.of.decode()}.{one.name.decode()}": (one.offset, one.size) for one in told}
    ours = {f"number.{name}": (number, 0) for name, number in numbers.items()}
    for of, structure in structures.items():
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            ours[f"{of}.{name}"] = field.offset, field.size
    return ", ".join(name for name in ours | theirs if ours.get(name) != theirs.get(name)) or None
