"""Keeps large blocks of memory for the next batch, instead of giving them back and asking again.

glibc maps every block over 128 KiB anew: each batch's tensors then cost a page fault a page, which for
attention matrices is a large part of computing them. On other C libraries nothing is done.
"""

import ctypes
import sys

from models.device.locked import locked_memory

M_TRIM_THRESHOLD = -1  # malloc.h
M_MMAP_THRESHOLD = -3
LARGEST_KEPT_BYTES = 1 << 30
IDLE_SECONDS = 5.0  # without work, after which what batches left behind goes back to the system


class Rest:
    """Tells when free blocks are to go back: once, when nothing was done for so many seconds after work."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._since = 0.0
        self._served = 0  # when it was last looked at
        self._tidy = True

    def due(self, now: float, *, served: int, busy: bool) -> bool:
        """Whether now is the time; `served` counts what was done so far."""
        if busy or served != self._served:
            self._served, self._since, self._tidy = served, now, False
            return False
        if self._tidy or now - self._since < self._idle_seconds:
            return False
        self._tidy = True
        return True


def give_back_free_blocks() -> None:
    """Return to the system what is free: after a load, as much as weights took before they were laid out.

    And what is locked for a GPU's copies and not in use.
    """
    locked_memory().give_back()
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
