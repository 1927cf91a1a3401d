"""Environments of the peers: one virtual environment each, made on demand, remade when its list changes."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

SERVERS = Path(__file__).parent / "servers"
ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "peers"
INSTALL_SECONDS = 1800


class EnvironmentFailed(Exception):
    """A peer's packages could not be installed; the message ends with what pip said."""


def python_of(name: str) -> Path:
    """Return the interpreter of the environment that `servers/<name>.txt` describes; make it where needed."""
    wanted = SERVERS / f"{name}.txt"
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / "ready"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"{name}: making its environment", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode != 0:
        raise EnvironmentFailed(f"{name}: {done.stderr.strip()[-500:]}")
    stamp.write_text(digest)
    return python
