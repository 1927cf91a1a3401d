"""With which tiles a kernel is compiled, and the kernel itself."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch

WIDEST = 256  # of a head: wider ones leave no room for tiles


@dataclass(frozen=True, slots=True)
class Tiles:
    """How many rows and keys a tile has, by how many warps it is made, and how far ahead keys are read."""

    rows: int
    keys: int
    warps: int
    stages: int


def tiles_of(dtype: torch.dtype, width: int, *, much: bool = False) -> Tiles:
    """Return the tiles of heads of a width, the wider of q and v; `much`: masks or biases are read as well.

    The largest of which, compiled for compute capability 9.0, nothing is spilled from registers.
    """
    if dtype == torch.float32:
        return Tiles(64, 16, 8, 2 if width <= 128 else 1)
    return Tiles(64, 32, 8, 2) if much or width > 128 else Tiles(128, 32, 8, 3)


def precision_of(dtype: torch.dtype) -> str:
    """Return how products are made: of float32 by three on tensor cores, as exact as one in float32."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def kernel(name: str) -> Any:
    """Return a kernel by its name; Triton is imported now at the earliest."""
    module = {"forward": "forward", "put_lse": "lse"}.get(name, "weights")
    return getattr(importlib.import_module(f"models.attention.tiles.{module}"), name)


def parts(size: int, of: int) -> int:
    """Return how many parts of a size something is cut into."""
    return -(-size // of)


def lanes_of(top: int) -> int:
    """Return how many lanes a list of so many has: few numbers, for a kernel is compiled for each."""
    return 1 if not top else 8 if top <= 8 else power(top)


def power(number: int) -> int:
    """Return the power of two that holds a number, at least 1."""
    return 1 << max(0, number - 1).bit_length()


def padded(width: int) -> int:
    """Return how wide a tile of vectors is: a power of two that products can be made of."""
    return max(16, power(width))
