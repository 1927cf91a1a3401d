"""Servers started as hosting platforms start them, from what deploy/ and the Dockerfile say."""

import io
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.environment import load_settings
from tests.deploy.conftest import DEPLOY
from tests.deploy.containers import ROOT, Container, running

MINILM = ROOT / "repository" / "minilm"
CLIENTS = ROOT / ".cache" / "clients"
SAGEMAKER = DEPLOY / "sagemaker"
KILL_SECONDS = 30  # SageMaker's SIGKILL behind SIGTERM

with_models = pytest.mark.skipif(not MINILM.exists(), reason="the demo models are not there: make models")


def image_environment() -> dict[str, str]:
    """Return what the image's own environment says to the server."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stage = text.rpartition(" AS base\n")[2].partition("\nFROM ")[0]
    words = [word for line in re.findall(r"^ENV (.*)$", stage, re.MULTILINE) for word in shlex.split(line)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def sagemaker_environment() -> dict[str, str]:
    container = json.loads((SAGEMAKER / "create-model.json").read_text())["PrimaryContainer"]
    found: dict[str, str] = container["Environment"]
    return found


def test_the_image_leaves_the_port_to_the_platform_that_chooses_it() -> None:
    image = image_environment()
    assert image["HEED_HOST"] == "0.0.0.0"
    assert load_settings(image | {"AIP_HTTP_PORT": "8080"}, {}).port == 8080
    assert load_settings(image | {"SAGEMAKER_BIND_TO_PORT": "8123"}, {}).port == 8123
    assert load_settings(image, {}).port == 8000


def test_sagemakers_recipe_is_one_model_on_its_port_that_ends_in_time() -> None:
    settings = load_settings(image_environment() | sagemaker_environment(), {})
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.named == {"model"}
    assert settings.models == ("model",)  # of the image's own repository none
    assert settings.drain_seconds + 2 < KILL_SECONDS
    script = (SAGEMAKER / "deploy.sh").read_text()
    named = set(re.findall(r"file://(\S+)", script))
    assert named == {file.name for file in SAGEMAKER.glob("*.json")}
    model, config = (json.loads((SAGEMAKER / name).read_text()) for name in sorted(named, reverse=True))
    assert model["ModelName"] == config["ProductionVariants"][0]["ModelName"]


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def of_triton(url: str) -> Any:
    """Return what Triton's own client gets; None where it is not installed."""
    if not (CLIENTS / "ready").exists():
        return None
    command = [str(CLIENTS / "bin" / "python"), str(Path(__file__).with_name("sagemaker_client.py")), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@with_models
def test_sagemaker_starts_it_asks_it_and_ends_it(tmp_path: Path) -> None:
    mounts = {"/opt/ml/model": MINILM}
    with running(["serve"], sagemaker_environment(), tmp_path / "tmp", mounts=mounts) as container:
        container.wait("/ping")
        with httpx.Client(base_url=container.url, timeout=60) as gateway:
            listed = [model["name"] for model in gateway.get("/v1/models").json()["models"]]
            vectors = gateway.post("/invocations", json={"input": ["the bank of the river", "a loan"]})
            attended = gateway.post(
                "/invocations", json={"inputs": [{"text": "a loan"}], "outputs": ["pooled"]}
            )
            headers = {
                "content-type": "application/x-npy",
                "accept": "application/x-npy",
                "x-amzn-sagemaker-custom-attributes": "outputs=z&layers=all",
            }
            npy = gateway.post("/invocations", content=saved(np.ones((5, 384), np.float32)), headers=headers)
        by_triton = of_triton(f"{container.url}/invocations")
        assert container.stop(seconds=KILL_SECONDS) == 0, container.said
    assert listed == ["model"]
    assert vectors.json()["model"] == "model"
    np.testing.assert_allclose(
        vectors.json()["data"][1]["embedding"], attended.json()["outputs"][0]["pooled"], atol=1e-6
    )
    assert np.load(io.BytesIO(npy.content)).shape == (6, 5, 384)
    if by_triton is not None:
        embedded = [one["embedding"] for one in vectors.json()["data"]]
        np.testing.assert_allclose(by_triton, embedded, atol=1e-6)


class OnVertex(Container):
    """A server whose port is Vertex AI's to say, and whose user is somebody else's, as a Space's is."""

    user = 1000

    def at(self, port: int) -> dict[str, str]:
        return {"AIP_HTTP_PORT": str(port)}


@with_models
def test_vertex_starts_it_by_its_own_variables_and_asks_under_its_own_paths(tmp_path: Path) -> None:
    environment = {
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        "AIP_STORAGE_URI": "",
        "AIP_MODE": "PREDICTION",
        "HEED_HOST": "127.0.0.1",
        "HEED_MODEL": "model=/mnt/mine",
        "HEED_MODELS": "model",
    }
    body = {"instances": ["a loan", {"text": "the bank"}], "parameters": {"outputs": ["pooled"]}}
    mounts = {"/mnt/mine": MINILM}
    with running(["serve"], environment, tmp_path / "tmp", mounts=mounts, kind=OnVertex) as container:
        container.wait(environment["AIP_HEALTH_ROUTE"])
        ask = container.url + environment["AIP_PREDICT_ROUTE"]
        predicted = httpx.post(ask, json=body, timeout=60)
        status = Path(f"/proc/{container.process.pid}/status").read_text()
        raw = httpx.post(ask, json={"input": "a loan"}, timeout=60)  # rawPredict
        assert container.stop(seconds=KILL_SECONDS) == 0, container.said
    assert "Uid:\t1000\t" in status or not container.is_confined
    assert list(predicted.json()) == ["predictions"]
    first, second = (one["pooled"] for one in predicted.json()["predictions"])
    np.testing.assert_allclose(first, raw.json()["data"][0]["embedding"], atol=1e-6)
    assert len(second) == 384
