"""What tests of the compiled products and attention share."""

import ctypes
import importlib.util
import platform

import torch

from models.compiled.instructions import SETS

# The sets of instructions that processors like this one may have, and those that differ in float32.
ALL_OF_THIS_KIND = tuple(name for name in SETS if (name == "neon") == (platform.machine() == "aarch64"))
OF_THIS_KIND = tuple(name for name in ALL_OF_THIS_KIND if "_" not in name)


def library() -> ctypes.CDLL:
    """Return the extension `models.compiled._native`, which must be there."""
    found = importlib.util.find_spec("models.compiled._native")
    assert found is not None
    return ctypes.CDLL(found.origin)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normally distributed numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
