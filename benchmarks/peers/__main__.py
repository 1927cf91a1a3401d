"""Run the contests, print the table, keep the result; a peer that fails is named, and the status is 1.

python -m benchmarks.peers [--quick] [--only triton litserve ...] [--connections 1 8 32]

onnxruntime, openvino and ctranslate2 are a contest of their own, with promises; its result is `encoders`.
So is interp-engine; its result is `captures`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import signal
import sys
import time
import urllib.error
from collections.abc import Collection, Generator
from pathlib import Path

from benchmarks.peers.captures import PEER as CAPTURES
from benchmarks.peers.captures import capture_contests
from benchmarks.peers.contest import Row, WrongAnswer, contest
from benchmarks.peers.contestants import CONTESTANTS
from benchmarks.peers.encoders import ENCODERS, encoder_contests
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.running import StartFailed
from benchmarks.peers.sentences import LENGTHS, TEXT_PEERS, text_contest
from benchmarks.report import save
from benchmarks.serve import serving
from models.training.demo import place_demo_models

PEERS = (*dict.fromkeys(contestant.peer for contestant in CONTESTANTS), *TEXT_PEERS, *ENCODERS, CAPTURES)
APART = {*ENCODERS, CAPTURES}  # whose results are files of their own
FIRST = ("triton",)
QUICK_SECONDS = 330
REPOSITORY = Path(__file__).parents[2] / "repository"
HEADER = (
    f"{'':44} {'':>5} {'peer':>8} {'Heed':>8} {'Heed':>6}   {'p50 ms':>15}   {'p99 ms':>15}   {'MB':>11}\n"
    f"{'':44} {'conns':>5} {'req/s':>8} {'req/s':>8} {'/ peer':>6}   {'peer':>7} {'Heed':>7}   "
    f"{'peer':>7} {'Heed':>7}   {'peer':>5} {'Heed':>5}"
)


def line(row: Row) -> str:
    """Return one row of the table."""
    peer, heed = row.peer, row.heed
    errors = peer.errors + heed.errors
    return (
        f"{row.contestant + ', ' + row.lane:44} {row.connections:5} "
        f"{row.items * peer.requests_per_second:8.1f} {row.items * heed.requests_per_second:8.1f} "
        f"{'-' if row.ratio is None else format(row.ratio, '.2f'):>6}   "
        f"{peer.p50_ms:7.1f} {heed.p50_ms:7.1f}   {peer.p99_ms:7.1f} {heed.p99_ms:7.1f}   "
        f"{row.peer_mb:5.0f} {row.heed_mb:5.0f}" + (f"   {errors} ERRORS" if errors else "")
    )


def run(name: str, contest_rows: Generator[Row, None, None], rows: list[Row], *, until: float) -> str | None:
    """Add one contest's rows, printing each; return why it could not be finished, or None.

    `until`, on the monotonic clock, ends it between two rows: so a bounded run stays bounded.
    """
    try:
        with contextlib.closing(contest_rows):
            while time.monotonic() < until:
                row = next(contest_rows, None)
                if row is None:
                    return None
                rows.append(row)
                print(line(row), flush=True)
        print(f"{name}: NOT FINISHED: out of time", flush=True)
        return f"{name}: not finished, out of time"
    except (EnvironmentFailed, StartFailed, WrongAnswer, urllib.error.URLError) as error:
        print(f"{name}: FAILED: {error}", flush=True)
        return f"{name}: {error}"


def layer_contests(chosen: argparse.Namespace, rows: list[Row], peers: Collection[str]) -> list[str | None]:
    """Serve one attention layer against those of `peers` that were asked for."""
    failures = []
    wanted = [
        contestant
        for contestant in CONTESTANTS
        if contestant.peer in peers
        and contestant.peer in chosen.only
        and (contestant.quick or not chosen.quick)
    ]
    if wanted:
        with serving() as heed:
            for contestant in wanted:
                contested = contest(
                    contestant,
                    heed,
                    connections=chosen.connections,
                    seconds=chosen.seconds,
                    rounds=chosen.rounds * (1 if chosen.quick else contestant.rounds),
                )
                failures.append(run(contestant.name, contested, rows, until=chosen.until))
    return failures


def text_contests(chosen: argparse.Namespace, rows: list[Row]) -> list[str | None]:
    """Embed sentences against every peer that was asked for."""
    failures = []
    wanted = [peer for peer in TEXT_PEERS if peer in chosen.only]
    if wanted:
        place_demo_models(REPOSITORY)
        with serving("--models", "minilm", "--truncate", repository=REPOSITORY) as heed:
            for peer, lengths in itertools.product(wanted, LENGTHS):
                contested = text_contest(
                    peer,
                    heed,
                    connections=chosen.connections,
                    seconds=chosen.seconds,
                    rounds=chosen.rounds,
                    lengths=lengths,
                )
                failures.append(run(peer, contested, rows, until=chosen.until))
    return failures


def dtype_contests(chosen: argparse.Namespace) -> list[str | None]:
    """Embed sentences in several dtypes beside every compiled encoder that was asked for; keep the result."""
    wanted = [peer for peer in ENCODERS if peer in chosen.only]
    if not wanted:
        return []
    place_demo_models(REPOSITORY)
    found, kept = encoder_contests(
        wanted,
        seconds=chosen.seconds,
        rounds=chosen.rounds,
        quick=chosen.quick,
        until=chosen.until,
    )
    save("encoders", found)
    return [] if kept else ["encoders: something failed, or a promise is not kept"]


def captured(chosen: argparse.Namespace) -> list[str]:
    """Take attention and hidden states out of a decoder beside interp-engine; keep the result."""
    if CAPTURES not in chosen.only:
        return []
    found, failures = capture_contests(
        connections=chosen.connections, rounds=chosen.rounds, until=chosen.until
    )
    save("captures", found)
    return failures


def main() -> int:
    """Run what was asked for; return 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round of the tuned peers; under eight minutes"
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--rounds", type=int)
    chosen = parser.parse_args()
    # A server must not outlive its contest, whoever ends it: the blocks that end servers run on SystemExit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    chosen.seconds = chosen.seconds or 2  # rounds in turns, not long ones: the machine drifts
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    rows: list[Row] = []
    failures: list[str | None] = []
    started, busy = time.monotonic(), os.getloadavg()[0]
    chosen.until = started + (QUICK_SECONDS if chosen.quick else math.inf)
    if set(chosen.only) - APART:
        print(HEADER)
    try:
        # In the order of interest, for a quick run stops when its time is over.
        failures += layer_contests(chosen, rows, FIRST)
        failures += text_contests(chosen, rows)
        failures += dtype_contests(chosen)
        failures += captured(chosen)
        failures += layer_contests(chosen, rows, [peer for peer in PEERS if peer not in FIRST])
    finally:  # what was measured is kept whatever happens
        result = {
            "seconds": chosen.seconds,
            "rounds": chosen.rounds,
            "load_average_before": busy,
            "rows": [{"ratio": row.ratio, **dataclasses.asdict(row)} for row in rows],
            "failures": [failure for failure in failures if failure],
        }
        named = [peer for peer in chosen.only if peer not in APART]
        if named:
            whole = tuple(chosen.only) == PEERS
            save("peers" if whole else f"peers-{'-'.join(named)}", result)
        print(f"{time.monotonic() - started:.0f} s; load average before: {busy:.2f}")
    wrong = any(row.peer.errors or row.heed.errors for row in rows)
    return 1 if wrong or any(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
