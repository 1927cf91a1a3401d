"""Keeps large blocks of memory for the next batch, instead of giving them back and asking again.

glibc maps every block over 128 KiB anew: each batch's tensors then cost a page fault a page, which for
attention matrices is a large part of computing them. On other C libraries nothing is done.
"""

import ctypes
import sys

__all__ = ["give_back_free_blocks", "keep_large_blocks"]

M_TRIM_THRESHOLD = -1  # malloc.h
M_MMAP_THRESHOLD = -3
LARGEST_KEPT_BYTES = 1 << 30


def give_back_free_blocks() -> None:
    """Return to the system what is free: after a load, as much as weights took before they were laid out."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def keep_large_blocks() -> bool:
    """Let freed blocks of up to 1 GiB be reused by this process; whether the C library agreed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, LARGEST_KEPT_BYTES) == 1 for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
