"""Rows that are about the compiled parts and about what goes on for long: sanitizers, growth, cost."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks.report import RESULTS
from benchmarks.resilience.figures import Figure
from tests.faults.running import ROOT

__all__ = ["cost", "fuzz", "growth"]

FLAGS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-g",
    "-O1",
    "-std=c11",
    "-shared",
    "-fPIC",
]
EXTENSIONS = {"service/wire/_native": "service/wire/native_*.c", "models/_native": "models/native_*.c"}
KERNEL_TESTS = ["tests/models/test_native.py", "tests/models/test_linear.py", "tests/models/test_finish.py"]
REPORT = re.compile(r"ERROR: AddressSanitizer|runtime error:")
COPIED = ("models", "service", "tests", "benchmarks")
REQUESTS = 250_000


def fuzz(folder: Path, *, short: bool) -> Figure:
    """Compiled code under sanitizers: broken bodies over the wire's, other seeds over attention's."""
    promised = "fuzz under ASAN and UBSAN, ten minutes each: 0 reports"
    if (why := _build(folder)) is not None:
        return Figure("fuzz", promised, why, met=None)
    seconds = 30 if short else 600
    wire = [sys.executable, "-m", "benchmarks.resilience.fuzzing", str(seconds)]
    reports, ran, failed = _count(folder, wire, seconds)
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            f"--hypothesis-seed={rounds}",
            "-p",
            "no:cacheprovider",
        ]
        more, _, broke = _count(folder, [*command, *KERNEL_TESTS], 600)
        reports, failed, rounds = reports + more, failed + broke, rounds + 1
    reached = f"{seconds} s each: {ran.strip()}, {rounds} rounds of the kernels' tests, "
    reached += f"{reports} reports, {failed} ended badly"
    return Figure("fuzz", promised, reached, met=not reports and not failed, short=short)


def _build(folder: Path) -> str | None:
    """Copy the code and compile its C with sanitizers; returns why that cannot be done."""
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    for name in COPIED:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("_native*.so", "__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for target, sources in EXTENSIONS.items():
        files = [str(one) for one in sorted(folder.glob(sources))]
        include = f"-I{sysconfig.get_paths()['include']}"
        command = ["gcc", *FLAGS, include, *files, "-o", f"{folder / target}{suffix}", "-lm", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"gcc: {done.stderr[-200:]}"
    return None


def _count(folder: Path, command: list[str], seconds: int) -> tuple[int, str, int]:
    """Run under the sanitizers; returns reports, the last line, and 1 where it ended badly."""
    # C++'s library as well: the sanitizer looks for its exceptions when the first one is thrown.
    libraries = " ".join(_found_by_gcc(name) for name in ("libasan.so", "libstdc++.so"))
    environment = os.environ | {
        "LD_PRELOAD": libraries,
        "PYTHONPATH": str(folder),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds + 300
        )
    except subprocess.TimeoutExpired:
        print(f"  {' '.join(command[1:4])}: not done in time", flush=True)
        return 0, "not done in time", 1
    said = done.stdout + done.stderr
    if done.returncode:
        print(said[-1500:], flush=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return len(REPORT.findall(said)), lines[-1] if lines else "", int(done.returncode != 0)


def _found_by_gcc(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def growth(_: Path, *, short: bool) -> Figure:
    """Resident memory over mixed requests (`benchmarks.growth`)."""
    promised = "250,000 mixed requests, a third broken: growth under 2%"
    if shutil.which("wrk") is None:
        return Figure("growth", promised, "wrk is not installed; apt-get install wrk", met=None)
    wanted = 20_000 if short else REQUESTS
    options = ["--requests", str(wanted), "--most-seconds", "300" if short else "3600"]
    status = subprocess.run([sys.executable, "-m", "benchmarks.growth", *options], cwd=ROOT).returncode
    file = RESULTS / "growth.json"
    result = json.loads(file.read_text())["result"]
    reached = f"{result['requests']:,} requests: {result['growth']:+.2%}"
    return Figure("growth", promised, reached, met=status == 0, short=short)


def cost(_: Path, *, short: bool) -> Figure:
    """Say how the cost of the mends is measured, which takes two checkouts in turns."""
    promised = "serve and latency in turns with the commit before: every cell at least 0.98"
    reached = "run `benchmarks.serve` and `benchmarks.latency` in turns from two checkouts"
    return Figure("cost", promised, reached, met=None, short=short)
