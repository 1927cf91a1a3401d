"""What is known to be wrong and is not mended yet: a line goes when its fault does.

Each is expected to fail, strictly: once it is mended, its test fails loudly until the line is taken away.
"""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["UNMENDED", "cases", "unmended"]

TEXTS_F6 = (
    "JSON a text of 1 Mi characters",
    "JSON 8 texts of 1 Mi characters",
    "JSON 60 texts of 1 Mi characters",
    "JSON 4,096 texts of 15,600 characters",
    "JSON a word of 1 Mi characters",
    "JSON 1 Mi characters of four bytes",
    "JSON 8 texts of 1 Mi characters to embed",
)

UNMENDED: dict[str, str] = {
    **dict.fromkeys(TEXTS_F6, "F6: texts are encoded before their length is looked at"),
    "few descriptors": "F9: slow bodies hold all descriptors",
    "memory budget": "F2, F3: no budget of memory for all callers together (MAX_MEMORY_BYTES)",
    "tokenizer-multiplies": "F15: a tokenizer that multiplies takes the process along",
}


def cases(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; those that are not mended are expected to fail."""
    return [pytest.param(name, marks=[_expected(name)] if name in UNMENDED else []) for name in names]


def unmended(name: str) -> Any:
    """A mark for a whole test, which does nothing once the line is gone."""
    return _expected(name) if name in UNMENDED else lambda test: test


def _expected(name: str) -> Any:
    return pytest.mark.xfail(strict=True, reason=UNMENDED[name])
