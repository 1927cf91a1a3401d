"""Whether the server's memory grows: its size after every turn through requests of all kinds.

    python -m benchmarks.growth [--quick] [--requests 100000] [--most-seconds 900]

A third of the requests is broken, each in one of a dozen ways. The first tenth warms the allocators; growth
is what the rest adds, over what was there: the mean of the last sizes over that of the first, for one size
has noise of its own. A run that does not come to the end in its time says how far it came.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.peers.running import resident_mb
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.timed import Request, answers_to, request_of
from benchmarks.workload import Body, bodies, sequences

LENGTHS = (2, 24)  # short: what grows does so by the request, not by the token
WARM_SHARE = 0.1
LIMIT = 0.02
WORK = (
    ("oip", ("z",)),
    ("json", ("z", "weights")),
    ("safetensors", ("z", "top_k", "entropy")),
)
OF_A_KIND = 400  # in one turn; broken ones are half as many as all the others
AVERAGED = 3
CONNECTIONS = 8


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
    done = refused = 0
    with serving() as (url, pid):
        good = [request for kind, outputs in WORK for request in good_ones(url, kind, outputs)]
        bad = broken(url)
        while (done < wanted or len(sizes) < 2 * AVERAGED) and time.monotonic() < until:
            # A size is taken after whole turns only: the kinds differ in what they leave in the allocator.
            done += send(url, good, OF_A_KIND * len(WORK), refused=False)
            more = send(url, bad, OF_A_KIND * len(WORK) // 2, refused=True)
            done, refused = done + more, refused + more
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
    print(
        f"growth after the first tenth: {growth:+.2%} over {done} of {wanted} requests, {refused} broken",
        end=" ",
    )
    print(f"(limit {LIMIT:.0%}: {'met' if growth < LIMIT else 'EXCEEDED'}{'' if whole else ', CUT SHORT'})")
    result = {"requests": done, "broken": refused, "wanted": wanted, "sizes": sizes, "growth": growth}
    save("growth", result)
    return 0 if growth < LIMIT and whole else 1


def good_ones(url: str, kind: str, outputs: tuple[str, ...]) -> list[Request]:
    """Return requests of one kind that are answered."""
    return [
        request_of(kind, url, path_of(kind, outputs), body)
        for body in bodies(kind, sequences(*LENGTHS), outputs)
    ]


def broken(url: str) -> list[Request]:
    """Return requests that are refused: each for another reason, at another station."""
    x = sequences(*LENGTHS)
    json, safetensors, oip = (bodies(kind, x, ("z",))[0] for kind in ("json", "safetensors", "oip"))
    attend, infer = path_of("json", ("z",)), path_of("oip", ("z",))

    def written(text: str) -> Body:
        return Body("application/json", text.encode())

    ways: Sequence[tuple[str, Body]] = (
        *((path_of("json", ()), _half(body)) for body in (json, safetensors)),
        (infer, _half(oip)),
        (attend, written('{"inputs": [{"embeddings": [[1, 2, 3]]}]}')),
        (attend, written('{"inputs": [{"embeddings": []}]}')),
        (attend, written('{"inputs": [], "inputs": []}')),
        (attend, written('{"inputs": [{"text": "no tokenizer"}]}')),
        (attend, written('{"inputs": [{"embeddings": [[NaN]]}]}')),
        (attend, written('{"inputs": [{"token_ids": [1]}], "outputs": ["nothing"]}')),
        (attend, written("[" * 40)),
        ("/v1/models/nobody/attend", json),
        ("/v1/nowhere", json),
        (attend, Body("application/pdf", b"%PDF")),
        (f"{attend}?outputs=z,z", Body(json.content_type, json.content, (("Accept", "image/png"),))),
        (
            infer,
            written('{"inputs": [{"name": "embeddings", "shape": [4, 0], "datatype": "FP32", "data": []}]}'),
        ),
    )
    return [request_of("broken", url, path, body) for path, body in ways]


def _half(body: Body) -> Body:
    return Body(body.content_type, body.content[: len(body.content) // 2], body.headers)


def send(url: str, requests: Sequence[Request], count: int, *, refused: bool) -> int:
    """Send so many in turns; return how many were answered, all of them as they must be."""
    chosen = [requests[at % len(requests)] for at in range(count)]
    answers = answers_to(url, chosen, connections=CONNECTIONS)
    right = (400, 499) if refused else (200, 299)
    wrong = {answer.status for answer in answers if not right[0] <= answer.status <= right[1]}
    assert not wrong, f"{'broken' if refused else 'good'} requests were answered with {wrong}"
    return len(answers)


if __name__ == "__main__":
    sys.exit(main())
