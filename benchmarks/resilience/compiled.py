"""The row about the compiled parts: everything in C under sanitizers."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resilience.figures import Figure
from tests.faults.running import ROOT

FLAGS = [
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-g",
    "-O1",
    "-std=c11",
    "-shared",
    "-fPIC",
]
EXTENSIONS = {
    "service/wire/compiled/_native": "service/wire/compiled/native_*.c",
    "models/compiled/_native": "models/compiled/*/native_*.c",
}
# What fuzzing does not: edges of pages, other threads, structures of both sides.
TESTS = (
    "tests/models/test_native.py",
    "tests/models/test_native_rules.py",
    "tests/models/test_native_outputs.py",
    "tests/models/test_native_sums.py",
    "tests/models/test_finish.py",
    "tests/service/wire/test_native.py",
)
REPORT = re.compile(r"ERROR: AddressSanitizer|runtime error:")
COPIED = ("models", "service", "tests", "benchmarks")
SEED = 1


def fuzz(folder: Path, *, short: bool) -> Figure:
    """Compiled code under sanitizers: bodies over the wire's, shapes over attention's, and their tests.

    First each is made to do wrong: a build in which that is not reported would show nothing.
    """
    promised = "fuzz under ASAN and UBSAN, ten minutes each for wire and kernels: 0 reports"
    if (why := _build(folder)) is not None:
        return Figure("fuzz", promised, why, met=None)
    seconds = 30 if short else 600
    reports, failed, said = 0, 0, []
    for part in ("wire", "kernels"):
        module = ["-m", f"benchmarks.resilience.fuzz_{part}"]
        if not _run(folder, [*module, "overflow"], 120).reports:
            said.append(f"{part}: an overflow that was made on purpose was not reported")
            failed += 1
        done = _run(folder, [*module, str(seconds), str(SEED)], seconds + 900)
        print(f"  {part}: {done.last}, {done.reports} reports, status {done.status}", flush=True)
        reports, failed = reports + done.reports, failed + (done.status != 0)
        said.append(f"{part} {seconds} s: {done.last}")
    tests = TESTS[:1] if short else TESTS
    done = _run(folder, ["-m", "pytest", "-x", "-p", "no:cacheprovider", *tests], 1800)
    reports, failed = reports + done.reports, failed + (done.status != 0)
    said.append(f"tests: {done.last}")
    reached = f"{'; '.join(said)}; {reports} reports, {failed} ended badly"
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


@dataclass(frozen=True, slots=True)
class Done:
    """How a command under the sanitizers went: reports, its last line, its status."""

    reports: int
    last: str
    status: int


def _run(folder: Path, arguments: list[str], seconds: int) -> Done:
    """Run Python under the sanitizers, in the copy of the tree."""
    # C++'s library as well: the sanitizer looks for its exceptions when the first one is thrown.
    libraries = " ".join(_found_by_gcc(name) for name in ("libasan.so", "libstdc++.so"))
    environment = os.environ | {
        "LD_PRELOAD": libraries,
        "PYTHONPATH": str(folder),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Done(0, "not done in time", 1)
    said = done.stdout + done.stderr
    if done.returncode and arguments[-1] != "overflow":
        print(said[-3000:], flush=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return Done(len(REPORT.findall(said)), lines[-1].strip(" =") if lines else "", done.returncode)


def _found_by_gcc(name: str) -> str:
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
