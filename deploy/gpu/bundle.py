"""Make a folder that a machine with a GPU and no network needs, and nothing else: under 64 MiB.

bundle.py FOLDER [--python 3.12] [--machine x86_64]

It has the sources, the tests of the GPU and the benchmarks, the compiled code of this checkout (plain C, for
ctypes, so of no Python in particular), minilm in bfloat16, wheels of what the server needs beside torch, and
`gpu/run.sh`, which runs all of it. Run where there is a network, in the environment that `make` makes.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
MOST_BYTES = 64 << 20
SOURCES = ("service", "models", "client/heed_client", "benchmarks", "tests")
FILES = ("pyproject.toml", "constraints.txt", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "results", "*.c", "*.h")
OTHER_TESTS = ("client", "conformance", "deploy", "e2e", "faults", "models", "peers", "service", "triton")
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux1", "linux")


def main() -> int:
    """Make the folder; return 1 where it came out larger than it may be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--machine", default="x86_64")
    parser.add_argument("--without-wheels", action="store_true", help="where there is no network")
    chosen = parser.parse_args()
    if chosen.folder.exists():
        shutil.rmtree(chosen.folder)
    chosen.folder.mkdir(parents=True)
    _copy_sources(chosen.folder)
    _copy_compiled(chosen.folder)
    _copy_minilm(chosen.folder / "repository" / "minilm")
    if not chosen.without_wheels:
        _fetch_wheels(chosen.folder / "wheels", chosen.python, chosen.machine)
    sizes = [file.stat().st_size for file in chosen.folder.rglob("*") if file.is_file()]
    print(f"{chosen.folder}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB of {MOST_BYTES >> 20}")
    return int(sum(sizes) > MOST_BYTES)


def _copy_sources(folder: Path) -> None:
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
    for name in OTHER_TESTS:
        shutil.rmtree(folder / "tests" / name)
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    # No other package of these names may be taken for ours.
    for name in ("tests", "benchmarks"):
        (folder / name / "__init__.py").touch()
    shutil.copytree(
        Path(__file__).parent, folder / "gpu", ignore=shutil.ignore_patterns("__pycache__", "bundle.py")
    )


def _copy_compiled(folder: Path) -> None:
    for room in ("models/compiled", "service/wire/compiled"):
        built = sorted((ROOT / room).glob("_native*.so"))
        if not built:
            raise SystemExit(f"{room} has no compiled code; `make install` builds it")
        here = shutil.copy2(built[0], folder / room / "_native.so")  # a name that every Python finds
        if strip := shutil.which("strip"):  # what debuggers read is nine tenths of it
            subprocess.run([strip, "--strip-debug", here], check=True)


def _copy_minilm(folder: Path) -> None:
    given = ROOT / "repository" / "minilm"
    if not given.is_dir():
        raise SystemExit(f"{given} is not there; `make models` puts it there")
    shutil.copytree(given, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with safe_open(given / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    narrow = {
        name: one.to(torch.bfloat16) if one.is_floating_point() else one for name, one in tensors.items()
    }
    save_file(narrow, folder / "model.safetensors")


def _fetch_wheels(folder: Path, python: str, machine: str) -> None:
    """Download wheels for another machine: each by itself, so that one that is missing costs no other."""
    wanted = [line for line in (Path(__file__).parent / "wheels.txt").read_text().split("\n") if line]
    platforms = [option for name in PLATFORMS for option in ("--platform", f"{name}_{machine}")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    only = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    for name in (line for line in wanted if not line.startswith("#")):
        pinned = ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder)]
        if subprocess.run([*pip, *only, *pinned, name], check=False).returncode:
            print(f"no wheel of {name} for Python {python} on {machine}: the server may not start there")


if __name__ == "__main__":
    sys.exit(main())
