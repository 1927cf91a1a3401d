"""Clients of text-embeddings-inference, unmodified, against `heed serve` on the real minilm.

In the environment of `test_text_clients`, which `make clients` makes.
"""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.real_server import Server

SCRIPT = Path(__file__).parent / "tei_clients.py"
CLIENTS = ROOT / ".cache" / "clients"
PEERS = ("llamaindex", "huggingface", "haystack", "tei", "dify")
CASES = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith(PEERS)
]
INSTALLED = bool(list(CLIENTS.glob("lib/python*/site-packages/tei_client")))


def test_every_peer_has_a_case() -> None:
    assert {peer for peer in PEERS for case in CASES if case.startswith(peer)} == set(PEERS)


@pytest.mark.skipif(not INSTALLED, reason="make clients installs other people's clients")
@pytest.mark.parametrize("case", CASES)
def test_unmodified_client_gets_what_v1_embeddings_gives(
    case: str, server: Server, minilm_folder: Path
) -> None:
    command = [str(CLIENTS / "bin" / "python"), str(SCRIPT), server.url, str(minilm_folder), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
