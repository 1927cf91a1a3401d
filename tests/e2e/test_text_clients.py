"""Other people's clients, unmodified, against `heed serve` on the real minilm.

`make clients` puts them into environments of their own: `.cache/clients`, and `.cache/mteb` for mteb, which
shares torch with the development environment.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.real_server import Server, serving

SCRIPT = Path(__file__).parent / "text_clients.py"
CLIENTS, MTEB = ROOT / ".cache" / "clients", ROOT / ".cache" / "mteb"
PEERS = ("openai", "litellm", "langchain", "llamaindex", "haystack", "infinity", "triton", "kserve")
CASES = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith(PEERS)
]


@pytest.fixture(scope="module")
def cutting_server(repository: Path) -> Iterator[Server]:
    with serving(repository, "--truncate") as running:
        yield running


def test_every_peer_has_a_case() -> None:
    assert {peer for peer in PEERS for case in CASES if case.startswith(peer)} == set(PEERS)


@pytest.mark.skipif(not (CLIENTS / "ready").exists(), reason="make clients installs other people's clients")
@pytest.mark.parametrize("case", CASES)
def test_unmodified_client_gets_what_a_plain_request_gets(
    case: str, server: Server, minilm_folder: Path
) -> None:
    command = [str(CLIENTS / "bin" / "python"), str(SCRIPT), server.url, str(minilm_folder), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.skipif(not (MTEB / "ready").exists(), reason="make clients installs mteb")
def test_mteb_embeds_a_text_that_the_server_cuts(cutting_server: Server) -> None:
    command = [sys.executable, str(SCRIPT.with_name("mteb_client.py")), cutting_server.url]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(MTEB)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
