"""What a release is made of: the sdist has all that the wheel is built of, and the wheel works installed.

`deploy/try-dist.sh` does the same with every dependency from an index, and with code that is optimized; here
dependencies are the development environment's.
"""

import os
import re
import select
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from tests.e2e.conftest import ROOT

PACKAGES = ("service", "models")
PROJECT = ("pyproject.toml", "MANIFEST.in", "constraints.txt", "README.md", "LICENSE")
BUILD_SECONDS, START_SECONDS = 300, 120
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "_native*.so", "*.egg-info")
COMPILED = (
    "from models.compiled.structures import NUMBERS, STRUCTURES; from models.c_library import load; "
    "from service.wire.compiled.native import native; import service; print(service.__file__); "
    "assert native() and load('models.compiled._native', STRUCTURES, NUMBERS)"
)


IN_A_HURRY = """#!/bin/sh
for word; do
  shift
  [ "$word" = -O3 ] && word=-O0
  set -- "$@" "$word"
done
exec gcc "$@"
"""


def backend(hook: str, project: Path, out: Path) -> Path:
    """Call one hook of the build backend, with the environment's own setuptools; return the file it made."""
    line = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    compiler = out / "gcc"
    compiler.write_text(IN_A_HURRY)
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", line, str(out)], env={**os.environ, "CC": str(compiler)},
        cwd=project, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dist")


@pytest.fixture(scope="module")
def sdist(out: Path) -> Path:
    tree = out / "tree"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=NOT_SHIPPED)
    for name in PROJECT:
        shutil.copy(ROOT / name, tree)
    return backend("build_sdist", tree, out)


@pytest.fixture(scope="module")
def wheel(sdist: Path, out: Path) -> Path:
    """Built of the sdist alone."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: see deploy/install-test-tools.sh")
    with tarfile.open(sdist) as packed:
        packed.extractall(out, filter="data")
    return backend("build_wheel", out / sdist.name.removesuffix(".tar.gz"), out)


@pytest.fixture(scope="module")
def client_wheel(out: Path) -> Path:
    shutil.copytree(ROOT / "client", out / "client", ignore=NOT_SHIPPED)
    return backend("build_wheel", out / "client", out)


@pytest.fixture(scope="module")
def environment(wheel: Path, client_wheel: Path, out: Path) -> Path:
    """An environment with the two wheels; what they depend on is the development environment's."""
    environment = out / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(environment),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, wheel, client_wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return environment


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Somebody's own folder, which has packages called as ours are."""
    for name in (*PACKAGES, "heed_client"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('a stranger: {name}')")
    return tmp_path


@pytest.fixture
def url(environment: Path, here: Path, repository: Path) -> Iterator[str]:
    """`heed serve` as it is installed, of several processes, started in that folder."""
    words = [
        "--port",
        "0",
        "--models",
        "minilm",
        "--model-repository",
        str(repository),
        "--http-workers",
        "2",
    ]
    with (here / "log").open("w") as log:
        process = subprocess.Popen(
            [environment / "bin" / "heed", "serve", *words],
            cwd=here, env=environ(), stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], START_SECONDS)[0]
        said = process.stdout.readline()
        assert " on http" in said, (here / "log").read_text()[-2000:]
        yield said.rpartition(" on ")[2].strip()
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def environ() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEED", "PYTHON"))}
    return kept | {"OMP_NUM_THREADS": "1"}


def test_wheel_of_the_sdist_has_every_file_of_the_packages_and_no_sources_of_c(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".c", ".h", ".so", ".pyc")
    }
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    compiled = sorted(name for name in names if name.endswith(".so"))
    assert set(names) - set(compiled) == ours
    assert compiled == ["models/compiled/_native.abi3.so", "service/wire/compiled/_native.abi3.so"]


def test_one_wheel_serves_every_python_for_its_c_knows_nothing_of_python(wheel: Path, out: Path) -> None:
    assert re.search(r"-cp311-abi3-\w+\.whl$", wheel.name)
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    with zipfile.ZipFile(wheel) as packed:
        for name in packed.namelist():
            if name.endswith(".so"):
                library = packed.extract(name, out)
                needed = subprocess.run(
                    ["nm", "-D", "-u", library], capture_output=True, text=True, check=True
                )
                assert re.findall(r"\b_?Py\w+", needed.stdout) == []


def test_what_is_installed_serves_from_a_folder_with_packages_called_as_ours(
    environment: Path, here: Path, url: str
) -> None:
    body = {"inputs": [{"text": "the bank of the river"}], "outputs": ["z"]}
    reply = httpx.post(f"{url}/v1/models/minilm/attend", json=body, timeout=60)
    assert reply.status_code == 200
    assert len(reply.json()["outputs"][0]["z"]) == 7
    for words in (["heed", "models"], ["heed", "attend", "minilm", "the bank"]):
        command = [environment / "bin" / words[0], *words[1:], "--url", url]
        done = subprocess.run(command, cwd=here, env=environ(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [environment / "bin" / "python", "-I", "-c", COMPILED],
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(environment)
