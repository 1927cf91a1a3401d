"""The C kernels without Python: against plain loops, under sanitizers, and as an ARM processor runs them.

`kernels.c` and `narrow.c` draw shapes, rules and numbers at random. Where a compiler or the emulator is not
to be had, the tests that need it are skipped: `deploy/install-test-tools.sh` installs them on Debian.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from models.compiled.instructions import SETS
from tests.compiled import ALL_OF_THIS_KIND, OF_THIS_KIND

ROOT = Path(__file__).parents[2]
HARNESS = [ROOT / "tests" / "models" / name for name in ("kernels.c", "narrow.c", "tiles.c")]
SOURCES = [*HARNESS, *sorted((ROOT / "models/compiled").glob("*/*.c"))]
LACKING = 77  # what the program returns where the processor has not the set
NATIVE, ARM, EMULATOR = "gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64"


def built(folder: Path, compiler: str, *options: str) -> Path:
    """Return the program, compiled with these options; skips where there is no such compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    program = folder / "kernels"
    command = [compiler, "-std=c11", *options, *map(str, SOURCES), "-o", str(program), "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    for library in ("asan", "ubsan", "tsan"):
        if f"cannot find -l{library}" in done.stderr or f"lib{library}_preinit.o" in done.stderr:
            pytest.skip(f"{compiler} has no {library}")
    assert done.returncode == 0, done.stderr[-2000:]
    return program


def run(
    program: Path, name: str, *before: str, seed: int = 1, rounds: int, callers: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run it for one set of instructions; skips where the processor lacks that."""
    command = [*before, str(program), *map(str, (SETS[name], seed, rounds, callers))]
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | options)
    if done.returncode == LACKING:
        pytest.skip(f"this processor has not {name}")
    return done


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with sanitizers of addresses and of undefined behaviour."""
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    return built(tmp_path_factory.mktemp("watched"), NATIVE, "-O1", *sanitizers)


@pytest.mark.parametrize("name", ALL_OF_THIS_KIND)
def test_kernels_give_what_plain_loops_give_and_touch_nothing_else(watched: Path, name: str) -> None:
    done = run(watched, name, rounds=40)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


def test_threads_of_callers_side_by_side_race_for_nothing(tmp_path: Path) -> None:
    program = built(tmp_path, NATIVE, "-O1", "-fsanitize=thread")
    # The sanitizer wants memory where a kernel with much randomness of addresses may have put something else.
    before = ("setarch", "-R") if shutil.which("setarch") else ()
    done = run(program, OF_THIS_KIND[0], *before, rounds=6, callers=4)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


def test_an_arm_processor_gives_what_plain_loops_give(tmp_path: Path) -> None:
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed")
    program = built(tmp_path, ARM, "-O2", "-static")
    done = run(program, "neon", EMULATOR, rounds=8, callers=2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    """A program whose exponentials are wrong says so: the tests above can fail."""
    if shutil.which(NATIVE) is None:
        pytest.skip(f"{NATIVE} is not installed")
    wrong = tmp_path / "compiled"
    for folder in ("c", "kinds"):
        shutil.copytree(ROOT / "models" / "compiled" / folder, wrong / folder)
    rows = wrong / "kinds" / "native_rows.h"
    rows.write_text(rows.read_text().replace("5.5503323674e-2f", "5.6e-2f"))
    for one in HARNESS:
        (tmp_path / one.name).write_text(one.read_text().replace("../../models/compiled", str(wrong)))
    sources = (*tmp_path.glob("*.c"), *wrong.glob("*/*.c"))
    command = [NATIVE, "-std=c11", "-O0", "-w", *map(str, sources)]
    subprocess.run([*command, "-o", str(tmp_path / "kernels"), "-lm", "-lpthread"], check=True, timeout=300)
    done = run(tmp_path / "kernels", OF_THIS_KIND[0], rounds=5)
    assert done.returncode == 1
    assert ", not " in done.stdout
