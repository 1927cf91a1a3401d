"""Two servers behind each proxy of deploy/proxy: p99 by fewest outstanding, and in turn.

    python -m benchmarks.balance [--quick] [--only nginx haproxy envoy] [--busy 0.5] [--slept]

Requests cost very unequally: most have 8 to 16 tokens, one in twenty 512 to 2,000. Each proxy runs twice
before the same two servers of one core each, once with its own file and once with round robin in place of its
policy. Both are sent the same requests at the same random times, turn by turn, at a part of the rate that
the two servers answer at most. p99 by fewest outstanding over that in turn, the median of all turns, has to
be under 1. `--slept`: computing is slept, 1 ms for a short sequence and 80 to 600 ms for a long one, which
shows the policies where other work has the processors. `serve` as the first argument is the server for it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

import models.runtime
from benchmarks.report import save
from benchmarks.serve import serving
from benchmarks.timed import Request, Timed, closed, open_loop, request_of, summary
from benchmarks.workload import Body
from models.device.steps import finish
from models.folders.parameters import parameter_shapes
from models.protocol import Answer, BatchResult, Item
from models.runtime import TorchRuntime
from models.spec import EmbeddingSpec, ModelSpec
from service import cli
from tests.deploy.proxies import proxy

ROUND_ROBIN = {
    "nginx": ("        least_conn;\n", ""),
    "haproxy": ("balance leastconn", "balance roundrobin"),
    "envoy": ("lb_policy: LEAST_REQUEST", "lb_policy: ROUND_ROBIN"),
}
POLICIES = ("fewest", "in turn")
KINDS = ("all", "short", "long")
SHORT, LONG, EVERY = (8, 16), (512, 2000), 20
WORDS = 1000
SPEC = ModelSpec(d_model=256, heads=4, embedding=EmbeddingSpec(vocabulary=WORDS))
MIXTURE = 2000  # requests, after which they come again
CALIBRATION_SECONDS = 4
PATH = "/v1/models/layer/attend"
SLEPT_SECONDS = (1e-4, 1e-7)  # of a sequence of T tokens: so many times T, and times T²
STEP_SECONDS = 0.01  # after which a long batch is left for short ones


class Slept(TorchRuntime):
    """Whose z is 0, after a while."""

    def run(self, batch: Sequence[Item], *, slots: int = 1) -> BatchResult:
        """Sleep for all at once."""
        return finish(self.steps(batch, slots=slots))

    def steps(
        self,
        batch: Sequence[Item],
        *,
        slots: int = 1,  # noqa: ARG002  as of any runtime
    ) -> Generator[None, int | None, BatchResult]:
        """Sleep in steps."""
        left = sum(_slept(item.input.queries) for item in batch)
        while left > 0:
            time.sleep(min(left, STEP_SECONDS))
            left -= STEP_SECONDS
            yield
        z = np.zeros((1, SPEC.d_model), np.float32)
        tokens = sum(item.input.queries for item in batch)
        return BatchResult(answers=[Answer(tensors={"z": z}) for _ in batch], computed_tokens=tokens)


def _slept(tokens: int) -> float:
    linear, square = SLEPT_SECONDS
    return linear * tokens + square * tokens**2


def write_model(folder: Path) -> None:
    """Write one layer behind a table of words: requests are small, and long ones take some 50 ms."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(3)
    weights = {
        name: (chance.standard_normal(shape) / np.sqrt(SPEC.d_model)).astype(np.float32)
        for name, shape in parameter_shapes(SPEC).items()
    }
    (folder / "config.json").write_text(json.dumps(SPEC.to_config()))
    save_file(weights, folder / "model.safetensors")


def lengths(count: int = MIXTURE, seed: int = 4) -> list[tuple[str, int]]:
    """Return kinds and tokens of requests; which of them are long is chance, so that no turn is theirs."""
    chance = np.random.default_rng(seed)
    kinds = ["long" if long else "short" for long in chance.random(count) < 1 / EVERY]
    bounds = {"short": SHORT, "long": LONG}
    return [(kind, int(chance.integers(bounds[kind][0], bounds[kind][1] + 1))) for kind in kinds]


def mixture() -> list[Request]:
    """Return requests for one row of z each."""
    chance = np.random.default_rng(5)
    made = []
    for kind, tokens in lengths():
        ids = chance.integers(WORDS, size=tokens).tolist()
        content = json.dumps({"inputs": [{"token_ids": ids}], "outputs": ["z"], "rows": [0]}).encode()
        made.append(request_of(kind, "http://heed", PATH, Body("application/json", content)))
    return made


@contextmanager
def two_servers(repository: Path, module: str) -> Iterator[list[int]]:
    """Run two servers of one core each; give their ports."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = "1"
    with ExitStack() as servers:
        ports = []
        for number in range(2):
            os.sched_setaffinity(0, {cores[number % len(cores)]})  # which is born with it
            try:
                url, _ = servers.enter_context(serving(repository=repository, module=module))
            finally:
                os.sched_setaffinity(0, cores)
            port = urlsplit(url).port
            assert port is not None
            ports.append(port)
        yield ports


def compare(
    name: str, ports: list[int], requests: list[Request], folder: Path, chosen: argparse.Namespace
) -> "Comparison":
    """Return both policies' latencies behind one proxy."""
    was, now = ROUND_ROBIN[name]

    def in_turn(text: str) -> str:
        assert was in text
        return text.replace(was, now)

    found = {policy: Latencies() for policy in POLICIES}
    with ExitStack() as proxies:
        urls = {}
        for policy in POLICIES:
            place = folder / f"{name} {policy}".replace(" ", "-")
            place.mkdir()
            change = in_turn if policy == "in turn" else str
            urls[policy] = proxies.enter_context(proxy(name, ports, place, change=change))
        rate = chosen.busy * (_most_slept() if chosen.slept else _most_answered(urls["fewest"], requests))
        for turn in range(chosen.turns):
            sent = requests[turn * 97 :] + requests[: turn * 97]
            for policy in POLICIES if turn % 2 == 0 else POLICIES[::-1]:
                found[policy].add(open_loop(urls[policy], sent, rate=rate, seconds=chosen.seconds, seed=turn))
    return Comparison(rate, found)


def _most_answered(url: str, requests: Sequence[Request]) -> float:
    """Return how many requests a second both servers answer, as measured."""
    return summary(closed(url, requests, connections=16, seconds=CALIBRATION_SECONDS)).requests_per_second


def _most_slept() -> float:
    """Return the same of two servers that sleep, whatever else the machine does."""
    return 2 / float(np.mean([_slept(tokens) for _, tokens in lengths()]))


@dataclass(slots=True)
class Latencies:
    """What one policy measured: percentiles of each turn by kind of request, in milliseconds; failures."""

    p50_ms: dict[str, list[float]] = field(default_factory=dict)
    p99_ms: dict[str, list[float]] = field(default_factory=dict)
    errors: int = 0

    def add(self, answers: list[Timed]) -> None:
        """Take one turn."""
        self.errors += summary(answers).errors
        for kind in KINDS:
            load = summary([one for one in answers if kind in ("all", one.kind)])
            self.p50_ms.setdefault(kind, []).append(load.p50_ms)
            self.p99_ms.setdefault(kind, []).append(load.p99_ms)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies behind one proxy, at so many requests a second."""

    rate: float
    by_policy: dict[str, Latencies]

    def ratio(self, kind: str = "all") -> float:
        """Return p99 by fewest outstanding over that in turn, the median of all turns.

        The two of a turn had the same arrivals, and were measured one right after the other.
        """
        fewest, in_turn = (self.by_policy[policy].p99_ms[kind] for policy in POLICIES)
        return median(one / other for one, other in zip(fewest, in_turn, strict=True))

    @property
    def better(self) -> bool:
        """Whether p99 of all is under round robin's, and nothing failed."""
        return self.ratio() < 1 and not any(found.errors for found in self.by_policy.values())


def show(name: str, comparison: Comparison) -> None:
    """Print one proxy's lines."""
    print(f"{name}, {comparison.rate:.0f} requests a second")
    for policy, found in comparison.by_policy.items():
        for kind in KINDS:
            p50, p99 = (median(times[kind]) for times in (found.p50_ms, found.p99_ms))
            each = " ".join(f"{one:.0f}" for one in found.p99_ms[kind])
            print(f"    {policy:8} {kind:5}  p50 {p50:7.2f} ms  p99 {p99:8.2f} ms  ({each})")
        if found.errors:
            print(f"    {policy:8} {found.errors} FAILED")
    said = ", ".join(f"{kind} {comparison.ratio(kind):.2f}" for kind in KINDS)
    print(f"    p99, fewest over in turn: {said}", flush=True)


def main() -> int:
    """Measure, print and keep; return 1 where round robin was no worse, or anything failed."""
    if sys.argv[1:2] == ["serve"]:
        models.runtime.TorchRuntime = Slept  # type: ignore[misc]  # what `heed serve` loads
        cli.main()
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three turns of four seconds")
    parser.add_argument("--only", nargs="+", choices=tuple(ROUND_ROBIN), default=list(ROUND_ROBIN))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--busy", type=float, default=0.5, help="part of the rate that is answered at most")
    parser.add_argument("--slept", action="store_true", help="sleep instead of computing")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.turns, chosen.seconds = 3, 4
    requests = mixture()
    results: dict[str, Comparison] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "repository" / "layer")
        module = "benchmarks.balance" if chosen.slept else "service.cli"
        with two_servers(folder / "repository", module) as ports:
            for one in chosen.only:
                try:
                    results[one] = compare(one, ports, requests, folder, chosen)
                except pytest.skip.Exception as lacks:
                    print(f"{one} left out: {lacks}")
                    continue
                show(one, results[one])
    ratios = {name: {kind: one.ratio(kind) for kind in KINDS} for name, one in results.items()}
    save("balance", {"slept": chosen.slept, "busy": chosen.busy, "p99_ratios": ratios, "proxies": results})
    return 0 if results and all(one.better for one in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
