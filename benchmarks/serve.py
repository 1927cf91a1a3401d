"""The server as a user starts it, under closed and open loops, against the floor measured in the same run.

python -m benchmarks.serve [--quick] [--connections 1 8 32] [--kinds json safetensors oip] [--rates 50 150]

A closed loop sends again when it is answered; an open loop sends at a rate, in requests a second, whatever
the server does, and counts latency from when each request was due. The floor is bare torch in the fastest of
eight ways, for half a second before and half a second after every closed loop: the machine drifts.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.floor import floor, per_second
from benchmarks.load import Load, closed_loop
from benchmarks.report import save
from benchmarks.timed import open_loop, request_of, summary
from benchmarks.workload import bodies, sequences, write_layer

START_SECONDS = 120
FLOOR_SECONDS = 0.5
OUTPUTS = (("z",), ("z", "top_k"), ("z", "entropy"), ("z", "received"), ("z", "weights"))


@contextmanager
def serving(
    *options: str, repository: Path | None = None, module: str = "service.cli"
) -> Iterator[tuple[str, int]]:
    """Run `heed serve` on a repository (default: the benchmark layer); yields its address and process id."""
    with tempfile.TemporaryDirectory() as name:
        if repository is None:
            repository = Path(name)
            write_layer(repository / "layer")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            module,
            "serve",
            "--port",
            str(port),
            "--log-level",
            "warning",
        ]
        process = subprocess.Popen(
            [*command, "--model-repository", str(repository), *options], stdout=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("the server did not become ready")


def resident_peak_mb(pid: int) -> float:
    """Return the process's peak resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def path_of(kind: str, outputs: tuple[str, ...]) -> str:
    """Return where a body of this kind is posted."""
    if kind == "oip":
        return "/v2/models/layer/infer"
    return "/v1/models/layer/attend" + (f"?outputs={','.join(outputs)}" if kind == "safetensors" else "")


def measure(
    url: str, kind: str, inputs: list, outputs: tuple[str, ...], way: str, chosen: argparse.Namespace
) -> list[tuple[Load, float]]:
    """Return one closed loop a number of connections, after one to warm up; and the floor around each."""
    requests = bodies(kind, inputs, outputs)
    path = path_of(kind, outputs)
    tensors = [torch.from_numpy(x) for x in inputs]

    def around() -> float:
        return per_second(tensors, way=way, weights="weights" in outputs, seconds=FLOOR_SECONDS)

    closed_loop(url, path, requests, connections=8, seconds=1)
    found, before = [], around()
    for connections in chosen.connections:
        load = closed_loop(url, path, requests, connections=connections, seconds=chosen.seconds)
        after = around()
        found.append((load, (before + after) / 2))
        before = after
    return found


def arrivals(url: str, kind: str, inputs: list, chosen: argparse.Namespace) -> list[dict[str, object]]:
    """Measure z alone in an open loop at each rate; print and return a row each."""
    requests = [request_of(kind, url, path_of(kind, ("z",)), body) for body in bodies(kind, inputs)]
    rows: list[dict[str, object]] = []
    for rate in chosen.rates:
        load = summary(open_loop(url, requests, rate=rate, seconds=chosen.seconds))
        print(
            f"  {kind:12} {rate:4} a second asked  {load.requests_per_second:6.0f}/s answered  "
            f"p50 {load.p50_ms:7.2f} ms  p99 {load.p99_ms:7.2f} ms" + refusals(load)
        )
        rows.append({"kind": kind, "rate": rate, "load": load})
    return rows


def refusals(load: Load) -> str:
    """Return a mark for answers that were not 2xx, or nothing."""
    return f"  {load.errors} REFUSED" if load.errors else ""


def main() -> None:
    """Measure, print the table, keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="runs of 2 seconds instead of 5")
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--rates", type=float, nargs="*", default=[50, 150, 300])
    parser.add_argument("--kinds", nargs="+", default=["json", "safetensors", "oip"])
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=128)
    chosen = parser.parse_args()
    chosen.seconds = chosen.seconds or (2 if chosen.quick else 5)
    inputs = sequences(chosen.shortest, chosen.longest)
    rows = []
    with serving() as (url, pid):
        for outputs in OUTPUTS:
            timed = floor([torch.from_numpy(x) for x in inputs], weights="weights" in outputs)
            way, seconds = next(iter(timed.items()))
            print(
                f"\n{' + '.join(outputs)}   floor: {way}, {len(inputs) / seconds:.0f} sequences/s at its best"
            )
            for kind in chosen.kinds:
                for load, below in measure(url, kind, inputs, outputs, way, chosen):
                    ratio = load.requests_per_second / below
                    print(
                        f"  {kind:12} {load.connections:4} connections  {load.requests_per_second:7.0f}/s  "
                        f"{ratio:5.2f} of the floor ({below:3.0f})  p50 {load.p50_ms:7.2f} ms  "
                        f"p99 {load.p99_ms:7.2f} ms" + refusals(load)
                    )
                    rows.append(
                        {"outputs": outputs, "kind": kind, "floor": below, "ratio": ratio, "load": load}
                    )
        print("\nopen loop, z")
        open_rows = [row for kind in chosen.kinds for row in arrivals(url, kind, inputs, chosen)]
        print(f"\npeak resident {resident_peak_mb(pid):.0f} MiB")
    save("serve", {"shortest": chosen.shortest, "longest": chosen.longest, "rows": rows, "open": open_rows})


if __name__ == "__main__":
    main()
