"""Kernels in tiles without a GPU, in processes that have Triton: see tests/triton."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.attention.tiles import launch
from tests.triton_processes import ROOT, run_with_triton


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("file", "mode", "most"),
    [
        ("test_interpreted.py", "interpreted", 25),
        ("test_batches.py", "interpreted", 65),
        ("test_compiled.py", "compiled", 51),
    ],
)
def test_kernels_are_right_in_the_interpreter_and_compile_without_a_gpu(
    file: str, mode: str, most: int, tmp_path: Path
) -> None:
    run_with_triton(file, mode, passing=most, cache=tmp_path, seconds=800, HEED_TEST_TRITON=mode)


def test_nothing_of_triton_is_imported_before_a_kernel_is_asked_for() -> None:
    own = f"import sys; import {launch.__name__}; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", own], cwd=ROOT, check=True, timeout=120)
