"""Run the contests, print the table, keep the result; a peer that fails is named, and the status is 1.

python -m benchmarks.peers [--quick] [--only triton litserve ...] [--connections 1 8 32]
"""

import argparse
import sys
import urllib.error

from benchmarks.peers.contest import Row, WrongAnswer, contest
from benchmarks.peers.contestants import CONTESTANTS, Contestant
from benchmarks.peers.environments import EnvironmentFailed
from benchmarks.peers.running import StartFailed
from benchmarks.report import save
from benchmarks.serve import serving

PEERS = tuple(dict.fromkeys(contestant.peer for contestant in CONTESTANTS))
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
        f"{peer.requests_per_second:8.1f} {heed.requests_per_second:8.1f} {row.ratio:6.2f}   "
        f"{peer.p50_ms:7.1f} {heed.p50_ms:7.1f}   {peer.p99_ms:7.1f} {heed.p99_ms:7.1f}   "
        f"{row.peer_mb:5.0f} {row.heed_mb:5.0f}" + (f"   {errors} ERRORS" if errors else "")
    )


def run(
    contestant: Contestant, heed: tuple[str, int], chosen: argparse.Namespace, rows: list[Row]
) -> str | None:
    """Add one contestant's rows, printing each; return why it could not be compared, or None."""
    try:
        for row in contest(
            contestant,
            heed,
            connections=chosen.connections,
            seconds=chosen.seconds,
            rounds=chosen.rounds,
        ):
            rows.append(row)
            print(line(row), flush=True)
    except (EnvironmentFailed, StartFailed, WrongAnswer, urllib.error.HTTPError) as error:
        print(f"{contestant.name}: FAILED: {error}", flush=True)
        return f"{contestant.name}: {error}"
    return None


def main() -> int:
    """Run what was asked for; return 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round; under six minutes")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--rounds", type=int)
    chosen = parser.parse_args()
    chosen.seconds = chosen.seconds or (2 if chosen.quick else 5)
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    rows: list[Row] = []
    failures = []
    print(HEADER)
    with serving() as heed:
        for contestant in CONTESTANTS:
            if contestant.peer in chosen.only:
                failure = run(contestant, heed, chosen, rows)
                failures += [failure] if failure else []
    kept = [
        {"ratio": row.ratio, **{name: getattr(row, name) for name in row.__dataclass_fields__}}
        for row in rows
    ]
    name = "peers" if tuple(chosen.only) == PEERS else f"peers-{'-'.join(chosen.only)}"
    file = save(name, {"seconds": chosen.seconds, "rows": kept, "failures": failures})
    print(f"kept in {file}")
    wrong = [row for row in rows if row.peer.errors or row.heed.errors]
    return 1 if failures or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
