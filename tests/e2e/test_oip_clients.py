"""Other people's clients, unmodified, against a real socket: tritonclient and kserve.

They need versions of packages that the server must not have, so `make clients`, a part of `make test`, puts
them into an environment of their own, `.cache/clients`.
"""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, FakeServer, Start

SCRIPT = Path(__file__).parent / "oip_clients.py"
CLIENTS = ROOT / ".cache" / "clients"
CASES = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith(("triton_", "kserve_"))
]


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once(settings={"admin": True})


@pytest.mark.skipif(not (CLIENTS / "ready").exists(), reason="make clients installs tritonclient and kserve")
@pytest.mark.parametrize("case", CASES)
def test_unmodified_client(case: str, server: FakeServer) -> None:
    command = [str(CLIENTS / "bin" / "python"), str(SCRIPT), f"127.0.0.1:{server.port}", case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
