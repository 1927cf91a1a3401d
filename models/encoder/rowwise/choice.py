"""With which tiles a kernel over rows is compiled, and the kernel itself."""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

WIDEST = 16384  # numbers of a row that one program holds
ROOMS = {"add_norm": "norms", "gated": "gates", "turn": "turning"}
NUMBERS = 2048  # of a tile: 16 a thread of 4 warps, so that no thread has to double another's


@dataclass(frozen=True, slots=True)
class RowTiles:
    """How many rows and columns a tile has, and by how many warps it is made."""

    rows: int
    columns: int
    warps: int


@cache
def row_tiles(width: int) -> RowTiles:
    """Return the tiles of whole rows: one program holds all that a norm sums."""
    columns = power(width)
    warps = 4 if columns <= 2048 else 8 if columns <= 4096 else 16
    return RowTiles(max(1, NUMBERS // columns), columns, warps)


@cache
def gate_tiles(width: int) -> RowTiles:
    """Return the tiles of rows of which any part may be made by itself."""
    columns = min(1024, power(width))
    return RowTiles(NUMBERS // columns, columns, 4)


@cache
def head_tiles(half: int) -> RowTiles:
    """Return the tiles of vectors of heads that are turned: a half of each in a row of a tile."""
    columns = power(half)
    return RowTiles(max(1, NUMBERS // columns), columns, 4)


@cache
def kernel(name: str) -> Any:
    """Return a kernel by its name; Triton is imported now at the earliest."""
    return getattr(importlib.import_module(f"models.encoder.rowwise.{ROOMS[name]}"), name)


def parts(size: int, of: int) -> int:
    """Return how many parts of a size something is cut into."""
    return -(-size // of)


def power(number: int) -> int:
    """Return the power of two that holds a number, at least 1."""
    return 1 << max(0, number - 1).bit_length()
