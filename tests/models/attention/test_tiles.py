"""Kernels in tiles without a GPU, in processes that have Triton: see tests/triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.attention.tiles import launch

ROOT = Path(__file__).parents[3]
TRITON = ROOT / ".cache" / "triton"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("file", "mode", "most"),
    [
        ("test_interpreted.py", "interpreted", 25),
        ("test_batches.py", "interpreted", 60),
        ("test_compiled.py", "compiled", 44),
    ],
)
def test_kernels_are_right_in_the_interpreter_and_compile_without_a_gpu(
    file: str, mode: str, most: int, tmp_path: Path
) -> None:
    if not (TRITON / "ready").exists():
        pytest.skip(f"Triton is not in {TRITON}; `make triton` puts it there")
    own = {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(TRITON))),
        "HEED_TEST_TRITON": mode,
        "OMP_NUM_THREADS": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_DEFAULT_FP_FUSION": "1",  # what later ones ask for by name
        **({"TRITON_INTERPRET": "1"} if mode == "interpreted" else {}),
    }
    options = [
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-W",
        "default",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/triton/{file}", *options],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"{most} passed" in run.stdout


def test_nothing_of_triton_is_imported_before_a_kernel_is_asked_for() -> None:
    own = f"import sys; import {launch.__name__}; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", own], cwd=ROOT, check=True, timeout=120)
