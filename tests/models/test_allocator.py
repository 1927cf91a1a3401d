import ctypes
import subprocess
import sys

import pytest

from models.allocator import keep_large_blocks

SCRIPT = """
import resource, sys, torch
from models.allocator import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
for _ in range(3):
    torch.empty(8 << 20).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.empty(8 << 20).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_blocks_are_reused_without_page_faults() -> None:
    assert page_faults("keep") * 3 < page_faults("give back")


def test_asking_twice_is_harmless() -> None:
    assert keep_large_blocks() == keep_large_blocks()
