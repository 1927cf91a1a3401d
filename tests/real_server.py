"""`heed serve` as a process of its own: what a user starts. Of minilm, where nothing else is said."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

ATTEND = "/v1/models/minilm/attend"
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]

    def post(self, body: dict[str, object]) -> httpx.Response:
        return httpx.post(self.url + ATTEND, json=body, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of all samples of one name whose labels include `labels`."""
        families = text_string_to_metric_families(httpx.get(self.url + "/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@contextmanager
def serving(
    repository: Path,
    *options: str,
    models: str = "minilm",
    environ: Mapping[str, str] | None = None,
    log: Path = Path(os.devnull),
) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--models", models]
    command += ["--model-repository", str(repository), *options]
    with log.open("wb") as lines:
        environ = {**os.environ, **(environ or {})}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=lines, env=environ)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)


def wait_until_ready(server: Server) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert server.process.poll() is None, "the server ended before it was ready"
        try:
            if httpx.get(server.url + "/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # polling a process that gives no other sign
    pytest.fail(f"not ready after {START_SECONDS} s")
