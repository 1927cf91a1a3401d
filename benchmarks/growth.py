"""Whether the server's memory grows: its size after every turn through requests of all kinds.

    python -m benchmarks.growth [--quick] [--requests 100000] [--most-seconds 900]

The first tenth warms the allocators; growth is what the rest adds, over what was there: the mean of the last
sizes over that of the first, for one size has noise of its own. A run that does not come to the end in its
time says how far it came.
"""

import argparse
import statistics
import sys
import time

from benchmarks.load import closed_loop
from benchmarks.peers.running import resident_mb
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.workload import bodies, sequences

LENGTHS = (2, 24)  # short: what grows does so by the request, not by the token
WARM_SHARE = 0.1
LIMIT = 0.02
WORK = (
    ("oip", ("z",)),
    ("json", ("z", "weights")),
    ("safetensors", ("z", "top_k", "entropy")),
    ("broken", ()),
)
PIECE_SECONDS = 1
AVERAGED = 3


def main() -> int:
    """Measure, print and keep; return 1 where memory grows beyond the limit or the run was cut short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20,000 requests in at most 90 seconds")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--most-seconds", type=int)
    chosen = parser.parse_args()
    wanted = chosen.requests or (20_000 if chosen.quick else 100_000)
    until = time.monotonic() + (chosen.most_seconds or (90 if chosen.quick else 900))
    sizes: list[tuple[int, float]] = []
    done = 0
    with serving() as (url, pid):
        while (done < wanted or len(sizes) < 2 * AVERAGED) and time.monotonic() < until:
            # A size is taken after whole turns only: the kinds differ in what they leave in the allocator.
            done += sum(burden(url, kind, outputs) for kind, outputs in WORK)
            if done >= wanted * WARM_SHARE:
                sizes.append((done, resident_mb(pid)))
                print(f"  {done:7} requests  {sizes[-1][1]:7.1f} MiB", flush=True)
    if len(sizes) < 2 * AVERAGED:
        print(f"too slow to say: {done} of {wanted} requests, {len(sizes)} sizes")
        return 1
    first, last = (
        statistics.fmean(size for _, size in part) for part in (sizes[:AVERAGED], sizes[-AVERAGED:])
    )
    growth = last / first - 1
    whole = done >= wanted
    print(f"growth after the first tenth: {growth:+.2%} over {done} of {wanted} requests", end=" ")
    print(f"(limit {LIMIT:.0%}: {'met' if growth < LIMIT else 'EXCEEDED'}{'' if whole else ', CUT SHORT'})")
    save("growth", {"requests": done, "wanted": wanted, "sizes": sizes, "growth": growth})
    return 0 if growth < LIMIT and whole else 1


def burden(url: str, kind: str, outputs: tuple[str, ...]) -> int:
    """Send one kind of request for a while; return how many were answered."""
    inputs = sequences(*LENGTHS)
    sent = bodies("json" if kind == "broken" else kind, inputs, outputs or ("z",))
    path = path_of(kind, outputs)
    if kind == "broken":  # errors must leave nothing behind either
        sent = [type(body)(body.content_type, body.content[: len(body.content) // 2]) for body in sent]
    load = closed_loop(url, path, sent, connections=8, seconds=PIECE_SECONDS)
    assert kind == "broken" or not load.errors, load
    return int(load.requests_per_second * PIECE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
