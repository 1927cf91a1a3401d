"""Short requests beside long ones: what 5% of T = 4,096 with top_k does to the latency of the other 95%.

Two closed loops of the same number of connections: short requests alone, then one long among every twenty. In
a closed loop the long ones fill the server as far as they can; an open loop at one rate shows the same where
the server is not full.

    python -m benchmarks.mixed [--quick] [--connections 32]
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.load import Load
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.timed import Request, Timed, closed, open_loop, request_of, summary
from benchmarks.workload import bodies, sequences

SHORT, LONG = (8, 128), (4096, 4096)
EVERY = 20  # one of them is long
LIMIT = 3.0  # p99 of the short ones over their p99 alone
RATE = 20.0  # a second, one of which is long


def of_kind(answers: Sequence[Timed], kind: str, connections: int) -> Load:
    """Return what one kind of request measured."""
    return summary([answer for answer in answers if answer.kind == kind], connections=connections)


def show(name: str, load: Load) -> None:
    """Print one line."""
    print(
        f"  {name:32} {load.requests_per_second:7.1f}/s  p50 {load.p50_ms:9.2f} ms  p99 {load.p99_ms:9.2f} ms"
        + (f"  {load.errors} REFUSED" if load.errors else ""),
        flush=True,
    )


def main() -> int:
    """Measure, print and keep; return 1 where the short ones wait too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="loops of 8 seconds instead of 30")
    parser.add_argument("--connections", type=int, default=32)
    chosen = parser.parse_args()
    seconds = 8 if chosen.quick else 30
    with serving() as (url, _):
        short = _requests(url, "short", SHORT, ("z",), count=EVERY - 1)
        (long,) = _requests(url, "long", LONG, ("z", "top_k"), count=1)
        mixture = [*short, long]
        closed(url, mixture, connections=4, seconds=1)
        connections = chosen.connections
        alone = of_kind(closed(url, short, connections=connections, seconds=seconds), "short", connections)
        mixed = closed(url, mixture, connections=connections, seconds=seconds)
        calm = of_kind(open_loop(url, short, rate=RATE, seconds=seconds), "short", 0)
        arrived = open_loop(url, mixture, rate=RATE, seconds=seconds)
    loads = {
        "closed, short alone": alone,
        "closed, short among long": of_kind(mixed, "short", connections),
        "closed, long": of_kind(mixed, "long", connections),
        f"{RATE:.0f} a second, short alone": calm,
        f"{RATE:.0f} a second, short among long": of_kind(arrived, "short", 0),
        f"{RATE:.0f} a second, long": of_kind(arrived, "long", 0),
    }
    for name, load in loads.items():
        show(name, load)
    ratio = loads["closed, short among long"].p99_ms / alone.p99_ms
    open_ratio = loads[f"{RATE:.0f} a second, short among long"].p99_ms / calm.p99_ms
    verdict = "met" if ratio <= LIMIT else "EXCEEDED"
    print(f"p99 of short ones over their p99 alone: {ratio:.2f} closed (limit {LIMIT}: {verdict})")
    print(f"p99 of short ones over their p99 alone: {open_ratio:.2f} at {RATE:.0f} a second")
    save("mixed", {"connections": connections, "loads": loads, "ratio": ratio, "open_ratio": open_ratio})
    return 0 if ratio <= LIMIT else 1


def _requests(
    url: str, kind: str, lengths: tuple[int, int], outputs: tuple[str, ...], *, count: int
) -> list[Request]:
    made = bodies("oip" if outputs == ("z",) else "safetensors", sequences(*lengths, count=count), outputs)
    path = path_of("oip" if outputs == ("z",) else "safetensors", outputs)
    return [request_of(kind, url, path, body) for body in made]


if __name__ == "__main__":
    sys.exit(main())
