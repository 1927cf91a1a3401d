"""What is known to be wrong and is not mended yet: a line goes when its fault does.

Each is expected to fail, strictly: once it is mended, its test fails loudly until the line is taken away.
"""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["UNMENDED", "cases", "unmended"]

MANY = "whole numbers in JSON take up to twenty times their bytes while they are parsed"
UNMENDED: dict[str, str] = dict.fromkeys(
    ("4 Mi ids to attend", "4 Mi numbers as a mask", "4 Mi ids to infer"), MANY
)


def cases(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; those that are not mended are expected to fail."""
    return [pytest.param(name, marks=[_expected(name)] if name in UNMENDED else []) for name in names]


def unmended(name: str) -> Any:
    """A mark for a whole test, which does nothing once the line is gone."""
    return _expected(name) if name in UNMENDED else lambda test: test


def _expected(name: str) -> Any:
    return pytest.mark.xfail(strict=True, reason=UNMENDED[name])
