"""What is known to be wrong and is not mended yet: a line goes when its fault does.

Each is expected to fail, strictly: once it is mended, its test fails loudly until the line is taken away.
"""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["UNMENDED", "cases", "unmended"]

SHAPES_F1 = (
    "token_ids 2^22x0 JSON",
    "token_ids 2^24x0 JSON",
    "token_ids 2^40x0 JSON",
    "token_ids 2^22x0 binary",
    "token_ids 2^24x0 binary",
    "token_ids 2^40x0 binary",
    "embeddings 2^24x0x64 binary",
    "embeddings 2^24x64x0 binary",
    "embeddings 2^24x0x64 JSON",
    "safetensors 0.spans I64 2^24x0",
    "token_ids 2^20x1 of 4 MiB",
    "token_ids 2^22x1 of 16 MiB",
    "4 Mi empty texts of 16 MiB",
    "15 Mi empty texts of 60 MiB",
    "safetensors 0.spans I64 2^21x2",
    "safetensors 0.spans BOOL 62914560x1",
    "safetensors 0.spans I64 2^22x1",
    "JSON 2 Mi mask entries of null",
)
SHAPES_F7 = (
    "token_ids 2^62x0 JSON",
    "token_ids 0x2^62 JSON",
    "token_ids 0x2^63-1 JSON",
    "token_ids 0x2^62 binary",
    "embeddings 0x2^62x64 binary",
    "embeddings 2^40x2^40x0 JSON",
    "npy (0, 9223372036854775807)",
    "npy (4611686018427387904, 0)",
    "safetensors 0.memory F32 0x2^62",
    "safetensors 0.memory F32 2^62x0",
    "safetensors 0.spans I64 2^40x0",
    "safetensors 0.spans I64 0x2^62",
    "safetensors query, key, value 0x2^62",
)
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
    **dict.fromkeys(SHAPES_F1, "F1: sequences are made before they are counted"),
    **dict.fromkeys(SHAPES_F7, "F7: 500 for a shape whose product is 0"),
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
