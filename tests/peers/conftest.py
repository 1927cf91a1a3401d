"""Our server on small models, and what other people's tools make of the same folders.

`make tools` puts the tools into `.cache/tools`, which shares torch and transformers with the development
environment and what mteb needs with `.cache/mteb`; each tool runs in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.cli import cli
from tests.peers.models import CAPTURED, EDITED, FOLDERS, eager, save_models
from tests.peers.questions import LONG_IDS
from tests.real_server import Server, serving

ROOT = Path(__file__).parent.parent.parent
TOOLS, BESIDE = ROOT / ".cache" / "tools", ROOT / ".cache" / "mteb"
TOLERANCE = 1e-5  # of the largest number

TOOL_SECONDS = 240
USES = {"lens": EDITED, "captures": CAPTURED, "citations": (), "hooks": ()}  # each module: its models

Reference = Callable[[str], dict[str, np.ndarray]]


class Asked:
    """What our server says of one model, by JSON over HTTP."""

    def __init__(self, server: Server) -> None:
        self.url = server.url

    def import_heads(self, file: Path, folder: Path) -> None:
        """Read somebody's file into a model's sets, as a person does, and load the model again."""
        done = CliRunner().invoke(cli, ["heads", "import", str(file), "--model", str(folder)])
        assert done.exit_code == 0, done.output
        loaded = httpx.post(f"{self.url}/v2/repository/models/{folder.name}/load", json={}, timeout=60)
        assert loaded.status_code == 200, loaded.text

    def many(self, model: str, inputs: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
        """Return the outputs of each input of one request."""
        reply = httpx.post(
            f"{self.url}/v1/models/{model}/attend", json={"inputs": inputs, **fields}, timeout=60
        )
        assert reply.status_code == 200, reply.text
        outputs: list[dict[str, Any]] = reply.json()["outputs"]
        return outputs

    def one(self, model: str, ids: list[int], outputs: str, **fields: Any) -> dict[str, np.ndarray]:
        """Return the outputs of one sequence, named in one string, as arrays."""
        (found,) = self.many(model, [{"token_ids": ids}], outputs=outputs.split(), **fields)
        return {name: numbers(value) for name, value in found.items() if name in outputs.split()}


def numbers(value: Any) -> np.ndarray:
    """Return a tensor of a JSON reply; null is NaN: of `scores` it stands for minus infinity."""
    return np.array(value, dtype=np.float64)


def distance(found: Any, right: np.ndarray) -> float:
    """Return the largest difference, relative to the largest number of what is right."""
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == right.shape, (found.shape, right.shape)
    return float(np.abs(found - right).max() / np.abs(right).max())


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of every model of `FOLDERS`."""
    repository = tmp_path_factory.mktemp("models")
    save_models(repository)
    return repository


@pytest.fixture(scope="session")
def asked(small_models: Path) -> Iterator[Asked]:
    with serving(small_models, "--admin", "--predictions", models=",".join(FOLDERS)) as server:
        yield Asked(server)


def started(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a module of this folder where the tools are; skip where they are not."""
    if not ((TOOLS / "ready").exists() and (BESIDE / "ready").exists()):
        pytest.skip("make tools installs other people's tools")
    settings = {"PYTHONPATH": f"{TOOLS}:{BESIDE}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.peers.{module}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    )


def written(process: subprocess.Popen[str], out: Path) -> dict[str, np.ndarray]:
    """Wait for a module, and return what it wrote."""
    said = process.communicate(timeout=TOOL_SECONDS)[1]
    assert process.returncode == 0, said[-4000:]
    with np.load(out) as read:
        return dict(read.items())


@pytest.fixture(scope="session")
def tools(small_models: Path) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """Every tool at work on the models, all at once, each in its own process."""
    running: dict[str, tuple[subprocess.Popen[str], Path]] = {}
    try:
        for module, names in USES.items():
            out = small_models.parent / f"{module}.npz"
            running[module] = started(module, str(small_models), str(out), *names), out
        yield running
    finally:
        for process, _ in running.values():
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def reference(tools: dict[str, tuple[subprocess.Popen[str], Path]]) -> Reference:
    """Return how to have what one of the modules of USES has written."""
    kept: dict[str, dict[str, np.ndarray]] = {}

    def made(module: str) -> dict[str, np.ndarray]:
        if module not in kept:
            kept[module] = written(*tools[module])
        return kept[module]

    return made


@pytest.fixture(scope="session")
def at2(reference: Reference) -> dict[str, np.ndarray]:
    """What AT2 makes of the Qwen2 over LONG_IDS: `features`, `theta` and `scores`."""
    return reference("citations")


@pytest.fixture(scope="session")
def whole_attention(small_models: Path) -> np.ndarray:
    """All attention of the Qwen2 over LONG_IDS [L, H, T, S], by transformers' eager attention."""
    model = eager("Qwen2ForCausalLM", small_models / "qwen2")
    with torch.no_grad():
        return torch.cat(model(torch.tensor([LONG_IDS]), output_attentions=True).attentions).numpy()
