"""Another commit beside this one: its files, its compiled code, and a server that is really of it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.running import HEALTH, ROOT, free_port
from tests.faults.wire import Cut, ask

C_FILES = ("service/wire/*.c", "service/wire/*.h", "models/*.c", "models/*.h", "pyproject.toml")
COMPILED = ("service/wire/compiled", "models/compiled")
START_SECONDS = 120


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Put the files of a commit beside, with its extensions, until the block ends."""
    at = folder / "before"
    _git("worktree", "add", "--detach", "--force", str(at), commit)
    try:
        if _git("diff", "--quiet", commit, "--", *C_FILES, check=False):
            _build(at)
        else:  # the same C, built for this interpreter already
            for where in COMPILED:
                for file in (ROOT / where).glob("_native*.so"):
                    shutil.copy2(file, at / where)
        if _built(ROOT) != _built(at):
            raise RuntimeError(f"compiled parts here: {_built(ROOT)}, there: {_built(at)}")
        yield at
    finally:
        _git("worktree", "remove", "--force", str(at))


def _built(at: Path) -> list[str]:
    """Return the compiled parts that stand where they are looked for: without them servers are no match."""
    # Of which Python they are, or of any, stands behind the first point of their names.
    return sorted(
        {str(Path(where, "_native")) for where in COMPILED if any((at / where).glob("_native*.so"))}
    )


def _git(*arguments: str, check: bool = True) -> int:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=check, stdout=subprocess.DEVNULL).returncode


def _build(at: Path) -> None:
    """Build its extensions as an installation does, in place."""
    code = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", code, "build_ext", "--inplace"]
    subprocess.run(command, cwd=at, check=True, stdout=subprocess.DEVNULL)


def _environment(at: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEED_")}
    return environment | {"PYTHONPATH": str(at)}


def write_layer_by(at: Path, repository: Path) -> None:
    """Make the benchmarks' repository as these files do: another commit may not know every field of ours."""
    code = "import service, models, sys, pathlib; from benchmarks.workload import write_layer; "
    code += "write_layer(pathlib.Path(sys.argv[1]) / 'layer'); print(service.__file__, models.__file__)"
    command = [sys.executable, "-c", code, str(repository)]
    done = subprocess.run(
        command, cwd=at, env=_environment(at), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    if not all(Path(file).is_relative_to(at) for file in done.split()):
        raise RuntimeError(f"not the code of {at}: {done}")


@contextmanager
def serving(
    at: Path, repository: Path, log_file: Path, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """Run `heed serve` of these files until the block ends; yields its address and its process id.

    `environ`: what is in its environment beside what is in ours.
    """
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--log-level", "warning"]
    command += ["--model-repository", str(repository)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=at, env=_environment(at) | dict(environ or {}), stdout=log, stderr=log
        )
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if ask(port, HEALTH, 2).status == 200:
                return
        except (OSError, Cut):
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready")
