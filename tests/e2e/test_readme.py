"""What the README shows is run: every block with curl, against a real server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.real_server import Server, serving

README = (Path(__file__).parents[2] / "README.md").read_text()
SILENCED = "Silence a head"
BLOCKS = [block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "curl" in block]


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    """What `make serve` serves: all demo models."""
    with serving(repository, "--models", "minilm,demo-attention") as running:
        yield running


def run(block: str, server: Server, folder: Path) -> bytes:
    here = block.replace("localhost:8000", server.url.removeprefix("http://"))
    script = f'set -eu; curl() {{ command curl --fail-with-body --max-time 60 "$@"; }}\n{here}'
    # Whoever has the server's environment active finds its python first.
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=path, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[:500] + done.stderr[:500]
    return done.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_curl_in_the_readme_works(number: int, server: Server, tmp_path: Path) -> None:
    run(BLOCKS[number], server, tmp_path)


def test_the_first_curl_returns_the_shapes_it_promises(server: Server, tmp_path: Path) -> None:
    (output,) = json.loads(run(BLOCKS[0], server, tmp_path))["outputs"]
    for name in ("z", "weights"):
        shape = list(np.array(output[name]).shape)
        assert f"{shape}" in README
    assert json.dumps(output["tokens"]) in README


def test_silenced_head_changes_the_prediction_as_promised(server: Server, tmp_path: Path) -> None:
    section = README[README.index(SILENCED) :]
    (asked, *_), (promised, *_) = (
        re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("bash", "json")
    )
    replied, said = json.loads(run(asked, server, tmp_path)), json.loads(promised)
    for got, shown in zip(replied["outputs"], said["outputs"], strict=True):
        assert set(got) == set(shown)
        assert (got["next_ids"], got["next_tokens"]) == (shown["next_ids"], shown["next_tokens"])
    assert replied["usage"] == said["usage"]
