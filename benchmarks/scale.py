"""How cost grows: with tokens, sequences a request, connections, and models that are loaded.

    python -m benchmarks.scale [--quick] [--only tokens sequences connections models profile]

`profile` starts the server under load and says which process to look at: `py-spy record --pid …`, from an
environment of its own.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import save as save_tensors

from benchmarks.load import Load
from benchmarks.peers.running import resident_mb
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.timed import closed, closed_until_done, request_of, summary
from benchmarks.workload import Body, bodies, sequences, write_layer

TOKENS = (1, 8, 32, 128, 512, 2048)
SEQUENCES = (1, 4, 16, 64)
CONNECTIONS = (1, 4, 16, 64, 256)
MODELS = (1, 2, 4, 8)
PROFILE_SECONDS = 60

Rows = list[dict[str, object]]


def show(what: str, number: int, load: Load, *, each: int = 1) -> dict[str, object]:
    """Print one line and return it as a row; `each` is how many sequences a request has."""
    rate = load.requests_per_second * each
    print(
        f"  {number:6} {what:12} {rate:8.1f} sequences/s  "
        f"p50 {load.p50_ms:8.2f} ms  p99 {load.p99_ms:8.2f} ms"
        + (f"  {load.errors} REFUSED" if load.errors else ""),
        flush=True,
    )
    return {"what": what, "number": number, "sequences_per_second": rate, "load": load}


def by_tokens(seconds: int) -> Rows:
    """One connection, one sequence of T tokens a request, z alone and with full weights."""
    rows: Rows = []
    with serving() as (url, _):
        for outputs in (("z",), ("z", "weights")):
            print(f"tokens, {' + '.join(outputs)}")
            for tokens in TOKENS:
                sent = bodies("oip", sequences(tokens, tokens, count=2), outputs)
                load = closed_until_done(url, path_of("oip", outputs), sent, connections=1, seconds=seconds)
                rows.append({**show("tokens", tokens, load), "outputs": outputs})
    return rows


def by_sequences(seconds: int) -> Rows:
    """One connection, N sequences a request."""
    rows: Rows = []
    print("sequences a request, z")
    with serving() as (url, _):
        for number in SEQUENCES:
            tensors = {f"{at}.embeddings": x for at, x in enumerate(sequences(8, 128, count=number))}
            accept = (("Accept", "application/x-safetensors"),)  # else the reply would be JSON
            body = Body("application/x-safetensors", save_tensors(tensors), accept)
            path = path_of("safetensors", ("z",))
            load = closed_until_done(url, path, [body], connections=1, seconds=seconds)
            rows.append(show("sequences", number, load, each=number))
    return rows


def by_connections(seconds: int) -> Rows:
    """N connections, one short sequence a request."""
    rows: Rows = []
    print("connections, z")
    with serving() as (url, _):
        sent = bodies("oip", sequences(8, 128))
        for number in CONNECTIONS:
            load = closed_until_done(url, path_of("oip", ("z",)), sent, connections=number, seconds=seconds)
            rows.append(show("connections", number, load))
    return rows


def by_models(seconds: int) -> Rows:
    """N models loaded, requests going round all of them: what a model more costs in memory and time."""
    rows: Rows = []
    print("models, z, requests going round")
    for number in MODELS:
        with tempfile.TemporaryDirectory() as name:
            for at in range(number):
                write_layer(Path(name) / f"layer{at}")
            with serving(repository=Path(name)) as (url, pid):
                paths = [f"/v2/models/layer{at}/infer" for at in range(number)]
                requests = [
                    request_of("", url, path, body)
                    for body in bodies("oip", sequences(8, 128))
                    for path in paths
                ]
                load = summary(closed(url, requests, connections=8, seconds=seconds), connections=8)
                resident = resident_mb(pid)
            rows.append({**show("models", number, load), "resident_mb": resident})
            print(f"         {resident:.0f} MiB resident")
    return rows


def profile(_: int) -> Rows:
    """Keep the server busy while someone looks at it."""
    with serving() as (url, pid):
        print(f"for {PROFILE_SECONDS} s: py-spy record --pid {pid} --subprocesses --native -o profile.svg")
        sent = bodies("json", sequences(8, 128))
        load = closed_until_done(url, path_of("json", ("z",)), sent, connections=32, seconds=PROFILE_SECONDS)
        return [show("connections", 32, load)]


SCENARIOS: dict[str, Callable[[int], Rows]] = {
    "tokens": by_tokens,
    "sequences": by_sequences,
    "connections": by_connections,
    "models": by_models,
    "profile": profile,
}


def main() -> int:
    """Run what was asked for, all but `profile` by default."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a second each instead of five")
    everything = [name for name in SCENARIOS if name != "profile"]
    parser.add_argument("--only", nargs="+", choices=tuple(SCENARIOS), default=everything)
    chosen = parser.parse_args()
    rows = {name: SCENARIOS[name](1 if chosen.quick else 5) for name in chosen.only}
    save("scale" if chosen.only == everything else f"scale-{'-'.join(chosen.only)}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
