"""Tests of kernels in Triton, in a process of their own, which alone has Triton: see tests/triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRITON = ROOT / ".cache" / "triton"
OPTIONS = ("-p", "no:cacheprovider", "--noconftest", "-W", "default", "-o", "addopts=--import-mode=importlib")


def run_with_triton(
    file: str, mode: str, *, passing: int, cache: Path, seconds: float, **environment: str
) -> None:
    """Run a file of tests/triton, `interpreted` or `compiled`; so many of its tests are to pass."""
    if not (TRITON / "ready").exists():
        pytest.skip(f"Triton is not in {TRITON}; `make triton` puts it there")
    own = {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(TRITON))),
        "OMP_NUM_THREADS": "1",
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_DEFAULT_FP_FUSION": "1",  # what later ones ask for by name
        **({"TRITON_INTERPRET": "1"} if mode == "interpreted" else {}),
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/triton/{file}", *OPTIONS],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"{passing} passed" in run.stdout
