"""What traces cost: servers side by side, asked in turns, with traces and without.

    python -m benchmarks.traces [--against COMMIT] [--rounds 6] [--seconds 0.7]

`off` sends none; `before` is `off` of another commit; `on` sends every request's spans to a collector, rotel
of tests/deploy/tools.txt; `dead` to an address where nobody listens. A ratio is the median over all rounds of
what a server did over what `off` did in the same round. Held: `off` over `before` at least 0.99; no request
fails; p99 of `dead` within 5% of `off`. What `on` costs is said.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resilience.checkout import checkout, serving, write_layer_by
from benchmarks.serve import path_of
from benchmarks.timed import Request, closed, request_of, summary
from benchmarks.workload import bodies, sequences
from tests.faults.running import ROOT, free_port

LEAST, MOST_P99 = 0.99, 1.05
KINDS = ("json", "oip")
CONNECTIONS = (1, 8, 32)
WARM_SECONDS = 0.7
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
AGENT = "lib/*/site-packages/rotel/rotel-agent"


@dataclass(frozen=True, slots=True)
class Measured:
    """One server in one cell of one round."""

    speed: float  # requests a second
    p99_ms: float
    cpu_seconds: float  # of the server, a request
    errors: int


Cell = tuple[str, int]  # the kind of request, connections
Figures = dict[tuple[Cell, str], list[Measured]]


@contextmanager
def collector(folder: Path) -> Iterator[str]:
    """Run rotel, which takes spans and keeps none; give its address."""
    agents = list((ROOT / ".cache" / "deploy").glob(AGENT))
    if not agents:
        raise SystemExit("rotel is not installed; make fleet")
    grpc, http = free_port(), free_port()
    command = [agents[0], "start", "--exporter", "blackhole", "--pid-file", folder / "pid"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{http}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{http}"
    finally:
        process.kill()
        process.wait()


def measure(folder: Path, chosen: argparse.Namespace) -> Figures:
    """Start all servers, ask them in turns."""
    inputs = sequences(8, 128)
    requests = {
        kind: [
            request_of(kind, "http://127.0.0.1", path_of(kind, ("z",)), body)
            for body in bodies(kind, inputs, ("z",))
        ]
        for kind in KINDS
    }
    figures: Figures = {}
    with ExitStack() as stack:
        environs = {
            "off": {},
            "on": {ENDPOINT: stack.enter_context(collector(folder))},
            "dead": {ENDPOINT: f"http://127.0.0.1:{free_port()}"},
        }
        sides = dict.fromkeys(environs, ROOT)
        if chosen.against:
            sides["before"] = stack.enter_context(checkout(chosen.against, folder))
        servers = {}
        for name, at in sides.items():
            write_layer_by(at, folder / name)
            ready = serving(at, folder / name, folder / f"{name}.log", environs.get(name))
            servers[name] = stack.enter_context(ready)
        for url, _ in servers.values():
            for sent in requests.values():
                closed(url, sent, connections=8, seconds=WARM_SECONDS)
        for number in range(chosen.rounds):
            order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
            for cell in ((kind, count) for kind in KINDS for count in CONNECTIONS):
                for name in order:
                    one = ask(servers[name], requests[cell[0]], cell[1], chosen.seconds)
                    figures.setdefault((cell, name), []).append(one)
    return figures


def ask(server: tuple[str, int], requests: list[Request], connections: int, seconds: float) -> Measured:
    """Ask one server for a while."""
    url, pid = server
    before = cpu_seconds(pid)
    answers = closed(url, requests, connections=connections, seconds=seconds)
    cpu = (cpu_seconds(pid) - before) / len(answers)
    load = summary(answers, connections=connections)
    return Measured(load.requests_per_second, load.p99_ms, cpu, load.errors)


def cpu_seconds(pid: int) -> float:
    """Return how long a process's threads have run, to the nanosecond; what else runs changes that least."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def ratio(figures: Figures, cell: Cell, name: str, what: str) -> float:
    """Return the median of what a server did over what `off` did, round by round."""
    pairs = zip(figures[cell, name], figures[cell, "off"], strict=True)
    return statistics.median(getattr(one, what) / getattr(off, what) for one, off in pairs)


def main() -> int:
    """Measure, print the ratios; return 1 where what is held is not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), chosen)
    cells = list(dict.fromkeys(cell for cell, _ in figures))
    names = list(dict.fromkeys(name for _, name in figures if name != "off"))
    print(f"over off, medians of {chosen.rounds} rounds: requests a second, p99, processor time a request")
    for name in ("off", *names):
        spent = [one.cpu_seconds for cell in cells for one in figures[cell, name]]
        print(f"  {name:6} {statistics.median(spent) * 1e6:.0f} µs of processor time a request, all cells")
    for cell in cells:
        found = [
            f"{name} {ratio(figures, cell, name, 'speed'):.3f} {ratio(figures, cell, name, 'p99_ms'):.3f} "
            f"{ratio(figures, cell, name, 'cpu_seconds'):.3f}"
            for name in names
        ]
        print(f"  {cell[0]:5} at {cell[1]:2}   " + "   ".join(found))
    errors = sum(one.errors for found in figures.values() for one in found)
    dead = statistics.median(ratio(figures, cell, "dead", "p99_ms") for cell in cells)
    held = {f"no request failed: {errors} did": errors == 0}
    held[f"p99 with a dead collector within 5%: {dead:.3f}"] = dead <= MOST_P99
    if chosen.against:
        off = statistics.median(1 / ratio(figures, cell, "before", "speed") for cell in cells)
        held[f"off over {chosen.against} at least {LEAST}: {off:.3f}"] = off >= LEAST
    for what, met in held.items():
        print(f"{'met   ' if met else 'MISSED'} {what}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
