"""What one replica answers behind Ray Serve's proxies, and what a request costs, against `heed serve` alone.

    python -m benchmarks.replicas [--seconds 5] [--rounds 2]

Needs Ray (`make ray`) and wrk. All servers are there from the beginning, each computes with one thread, and
they are asked in turns.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.load import closed_loop
from benchmarks.report import save
from benchmarks.workload import Body
from tests.deploy.ray_cluster import ROOT, Ray, processor_seconds, until
from tests.real_server import serving

JSON = "application/json"
ONE = (ROOT / "deploy" / "ray" / "serve.yaml").read_text().replace("num_replicas: 2", "num_replicas: 1")
PROXIES: dict[str, dict[str, str]] = {
    "ray": {},
    "ray, throughput optimised": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
    "ray, HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
MODELS = "demo-attention,minilm"
SENTENCE = "She sat on the bank of the river and watched the boats go by."
WORKLOADS = {
    "a sentence's embedding, minilm": (
        "/v1/embeddings",
        {"model": "minilm", "input": SENTENCE, "encoding_format": "base64"},
    ),
    "z of four tokens, demo-attention": (
        "/v1/models/demo-attention/attend",
        {"inputs": [{"token_ids": [1, 2, 3, 4]}], "outputs": ["z"]},
    ),
}


@dataclass(frozen=True, slots=True)
class Served:
    """What is asked: its address, and the processes that have to do with a request."""

    url: str
    processes: Callable[[], set[int]]

    def processor_seconds(self) -> float:
        """Return what they have used so far."""
        return sum(processor_seconds(number) for number in self.processes())


def started(stack: ExitStack) -> dict[str, Served]:
    """Start every server."""
    environ = {"HEED_MODEL_REPOSITORY": str(ROOT / "repository"), "HEED_MODELS": MODELS}
    alone = stack.enter_context(serving(ROOT / "repository", models=MODELS))
    servers = {"heed serve": Served(alone.url, lambda: {alone.process.pid})}
    for name, proxy in PROXIES.items():
        node = Ray({**environ, **proxy})
        stack.callback(node.stop)
        node.start()
        node.serve(ONE)
        until(lambda node=node: len(node.replicas()) == 1)
        servers[name] = Served(node.url, node.servers)
    return servers


def measured(server: Served, path: str, body: object, *, connections: int, seconds: int) -> dict[str, float]:
    """Return a closed loop's requests a second, and milliseconds of processor time a request."""
    before = server.processor_seconds()
    bodies = [Body(JSON, json.dumps(body).encode())]
    load = closed_loop(server.url, path, bodies, connections=connections, seconds=seconds)
    used = server.processor_seconds() - before
    assert load.errors == 0
    count = load.requests_per_second * seconds
    return {"requests_per_second": load.requests_per_second, "processor_ms": 1000 * used / count}


def main() -> None:
    """Print a table, with ratios to the server alone."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--connections", type=int, default=16)
    asked = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for a replica of one core
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with ExitStack() as stack:
        servers = started(stack)
        for _ in range(asked.rounds):
            for what, (path, body) in WORKLOADS.items():
                for name, server in servers.items():
                    how = {"connections": asked.connections, "seconds": asked.seconds}
                    found.setdefault(what, {}).setdefault(name, []).append(
                        measured(server, path, body, **how)
                    )
    for what, loads in found.items():
        print(f"\n{what}; {asked.connections} connections")
        middle = {
            name: {number: statistics.median(one[number] for one in several) for number in several[0]}
            for name, several in loads.items()
        }
        alone = middle["heed serve"]
        for name, one in middle.items():
            rate, used = one["requests_per_second"], one["processor_ms"]
            print(
                f"  {name:28} {rate:8.0f}/s {rate / alone['requests_per_second']:5.2f}"
                f"   {used:7.2f} ms of processor a request {used / alone['processor_ms']:5.2f}"
            )
    save("replicas", found)


if __name__ == "__main__":
    main()
