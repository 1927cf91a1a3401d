"""deploy/ray on a Ray of two cores: `serve run` as typed, other people's clients, and a replica's end."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import save_file

from models.mechanism import AttentionSpec
from models.spec import ModelSpec
from tests.deploy.conftest import DEPLOY, ROOT
from tests.deploy.ray_cluster import RAY, Ray, until
from tests.real_server import Server, serving
from tests.slow_stack import random_parameters

CLIENTS = ROOT / ".cache" / "clients"
FILES = DEPLOY / "ray"
CALLERS = 12
NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}
TEXT = {"inputs": [{"text": " ".join(["She sat on the bank of the river."] * 20)}], "outputs": ["z"]}
ATTEND = "/v1/models/minilm/attend"
WIDTH, TOKENS = 120, 43_700  # no matrix so large that kernels are chosen by a measurement, and 20 MB
SERVED = (FILES / "serve.yaml").read_text()
SECOND = """
  - name: second
    route_prefix: /second
    import_path: service.ray:app
    args: {models: demo-attention, log_level: warning, root_path: /second}
    deployments:
      - {name: heed, ray_actor_options: {num_cpus: 0}}
"""


pytestmark = pytest.mark.skipif(not (RAY / "ready").exists(), reason="Ray is not installed: make ray")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose z is as large as what it reads."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    folder.mkdir()
    spec = ModelSpec(d_model=WIDTH, heads=1, attention=AttentionSpec(left_window=2, right_window=2))
    (folder / "config.json").write_text(json.dumps(spec.to_config()))
    save_file(random_parameters(spec), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def ray(repository: Path, wide: Path) -> Iterator[Ray]:
    """`serve run deploy/ray/serve.yaml`, two replicas."""
    node = Ray(
        {
            "HEED_MODEL_REPOSITORY": str(repository),
            "HEED_MODELS": "demo-attention,minilm",
            "HEED_MODEL": f"wide={wide}",
            "HEED_MAX_SEQUENCE_TOKENS": str(TOKENS),
        }
    )
    try:
        node.start()
        node.serve(SERVED)
        until(lambda: len(node.replicas()) == 2)
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="module")
def one(repository: Path, wide: Path) -> Iterator[Server]:
    """The same models by one `heed serve`."""
    more = ("--model", f"wide={wide}", "--max-sequence-tokens", str(TOKENS))
    with serving(repository, *more, models="demo-attention,minilm") as running:
        yield running


@pytest.mark.skipif(not (CLIENTS / "ready").exists(), reason="make clients installs other people's clients")
@pytest.mark.parametrize("case", ["openai", "triton"])
def test_unmodified_clients_get_from_replicas_what_one_server_gives(ray: Ray, one: Server, case: str) -> None:
    script = Path(__file__).with_name("ray_clients.py")
    command = [str(CLIENTS / "bin" / "python"), str(script), ray.url, one.url, case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_twenty_megabytes_go_through_and_come_back_as_from_one_server(ray: Ray, one: Server) -> None:
    body = io.BytesIO()
    np.save(body, np.random.default_rng(0).standard_normal((TOKENS, WIDTH), dtype=np.float32))
    asked = {"content": body.getvalue(), "headers": NPY, "timeout": 60}
    assert len(body.getvalue()) > 20_000_000
    by_ray, by_one = (
        httpx.post(f"{url}/v1/models/wide/attend?outputs=z", **asked) for url in (ray.url, one.url)
    )
    assert by_one.status_code == by_ray.status_code == 200
    assert by_ray.content == by_one.content
    assert np.load(io.BytesIO(by_ray.content)).shape == (TOKENS, WIDTH)


def test_second_application_is_whole_below_its_path(ray: Ray) -> None:
    ray.apply(SERVED + SECOND)
    until(lambda: ray.answers("/second/health"))
    embed = {"model": "demo-attention", "input": "the cat sat"}
    replies = [httpx.post(f"{ray.url}{at}/v1/embeddings", json=embed) for at in ("", "/second")]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json()["data"] == replies[1].json()["data"]
    assert httpx.get(f"{ray.url}/second/health").json()["models"] == ["demo-attention", "wide"]
    assert httpx.post(f"{ray.url}/second{ATTEND}", json=TEXT).json()["error"]["code"] == "unknown_model"
    assert len(replies[1].headers.get_list("x-request-id")) == 1
    assert httpx.get(f"{ray.url}/second/web/explorer.js").status_code == 200
    assert httpx.get(f"{ray.url}/second/openapi.json").json()["servers"] == [{"url": "/second"}]


def test_requests_of_many_callers_are_batched_on_both_replicas_and_ray_s_metrics_say_so(ray: Ray) -> None:
    load = Load(ray)
    asyncio.run(load.run(callers=48, requests=4))
    assert set(load.statuses) == {200}

    def all_are_told_of() -> bool:
        page = ray.metrics()
        batches = of_replicas(page, "heed_batch_sequences_count")
        sequences = of_replicas(page, "heed_batch_sequences_sum")
        return sum(sequences.values()) >= len(load.statuses) and all(
            len(batches) == 2 and sequences[replica] > count > 0 for replica, count in batches.items()
        )

    until(all_are_told_of, 60)


def of_replicas(page: str, name: str) -> dict[str, float]:
    """Return a number of ours by replica of the first application, out of Ray's own metrics."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == f"ray_{name}" and sample.labels["application"] == "heed":
                replica = sample.labels["replica"]
                found[replica] = found.get(replica, 0) + sample.value
    return found


def test_replica_that_is_killed_takes_its_own_requests_with_it_and_no_others(ray: Ray) -> None:
    killed, living = sorted(ray.replicas())
    load = Load(ray, killed=killed)
    asyncio.run(load.run(callers=CALLERS, requests=30))
    assert len(load.statuses) == CALLERS * 30  # each had its answer
    failed = [status for status in load.statuses if status != 200]
    assert set(failed) <= {500}  # Ray's, for those that were on it
    assert len(failed) <= CALLERS
    assert set(load.later) == {200}  # none of those that came behind its end
    assert living in ray.replicas()
    until(lambda: len(ray.replicas()) == 2 and killed not in ray.replicas(), 60)
    again = Load(ray)
    asyncio.run(again.run(callers=CALLERS, requests=2))
    assert set(again.statuses) == {200}


def test_replica_that_is_taken_away_answers_what_it_has_accepted(ray: Ray) -> None:
    assert len(ray.replicas()) == 2

    load = Load(ray)

    async def fewer() -> None:
        asked = asyncio.create_task(load.run(callers=CALLERS))
        await asyncio.to_thread(ray.apply, SERVED.replace("num_replicas: 2", "num_replicas: 1"))
        await asyncio.to_thread(until, lambda: len(ray.replicas()) == 1)
        load.is_over = True
        await asked

    asyncio.run(fewer())
    assert len(load.statuses) > CALLERS
    assert set(load.statuses) == {200}


class Load:
    """Requests from many callers at once; a process is `killed` when a third of them are answered.

    `statuses` are of all of them, `later` of those that were asked after that.
    """

    def __init__(self, ray: Ray, *, killed: int | None = None) -> None:
        self.ray = ray
        self.killed = killed
        self.is_over = False
        self.statuses: list[int] = []
        self.later: list[int] = []

    async def run(self, *, callers: int, requests: int = 2**30) -> None:
        """Ask so often from each caller, or until it is over."""
        kill_at = callers * requests // 3

        async def caller(http: httpx.AsyncClient) -> None:
            for _ in range(requests):
                if self.is_over:
                    return
                late = len(self.statuses) >= kill_at
                reply = await http.post(self.ray.url + ATTEND, json=TEXT)
                self.statuses.append(reply.status_code)
                if late:
                    self.later.append(reply.status_code)
                if self.killed and len(self.statuses) == kill_at:
                    os.kill(self.killed, signal.SIGKILL)

        async with httpx.AsyncClient(timeout=60) as http:
            await asyncio.gather(*(caller(http) for _ in range(callers)))


SCHEMA = """
import json, sys
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema, HTTPOptionsSchema, RayActorOptionsSchema, ServeApplicationSchema, ServeDeploySchema
)

def strange(one, schema):
    return [f"{schema.__name__} has no {name}" for name in one.keys() - schema.model_fields.keys()]

found = []
for one in json.load(sys.stdin):
    try:
        ServeDeploySchema.model_validate(one)
    except ValueError as error:
        found.append(str(error))
    found += strange(one, ServeDeploySchema) + strange(one["http_options"], HTTPOptionsSchema)
    for application in one["applications"]:
        found += strange(application, ServeApplicationSchema)
        for deployment in application["deployments"]:
            found += strange(deployment, DeploymentSchema)
            found += strange(deployment["ray_actor_options"], RayActorOptionsSchema)
            found += strange(deployment.get("autoscaling_config", {}), AutoscalingConfig)
print(json.dumps(found))
"""


def complaints_of_ray(files: list[dict[str, Any]]) -> list[str]:
    """Return what Ray's own schema says against files of its, and which names in them it passes over."""
    done = subprocess.run(
        [sys.executable, "-c", SCHEMA],
        input=json.dumps(files),
        env={**os.environ, "PYTHONPATH": str(RAY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout)
    return found


def test_files_pass_ray_s_own_schema_and_mistyped_ones_do_not() -> None:
    service = yaml.safe_load((FILES / "rayservice.yaml").read_text())
    files = [yaml.safe_load((FILES / name).read_text()) for name in ("serve.yaml", "serve-gpu.yaml")]
    files.append(yaml.safe_load(service["spec"]["serveConfigV2"]))
    assert complaints_of_ray(files) == []
    (deployment,) = files[0]["applications"][0]["deployments"]
    deployment["max_ongoing_request"] = deployment.pop("max_ongoing_requests")
    deployment["num_replicas"] = "two"
    unknown, wrong = sorted(complaints_of_ray(files[:1]), key=len)
    assert unknown == "DeploymentSchema has no max_ongoing_request"
    assert "num_replicas" in wrong
