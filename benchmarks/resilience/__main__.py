"""What the server withstands: one row a figure, with what was promised and what was reached.

    python -m benchmarks.resilience [--only drain,network] [--short] [--table] [--against COMMIT]

Each row is kept in `benchmarks/results/resilience.json` when it is done, so that they may be run apart. The
status is 1 where a row is missed or was not run. The short forms are those that fit a few minutes; a row that
was run so says it. Everything goes over loopback, to servers that are started for it and ended with it.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.resilience import compiled, folders, harm, lasting, load, processes, traffic
from benchmarks.resilience.cost import cost
from benchmarks.resilience.figures import Figure, keep, kept, table

Row = Callable[..., Figure]
ROWS: dict[str, Row] = {
    "drain": traffic.drain,
    "network": traffic.network,
    "bombs": harm.bombs,
    "memory": harm.memory,
    "slow": load.slow,
    "overload": load.overload,
    "leavers": traffic.leavers,
    "deaths": processes.deaths,
    "strangers": folders.strangers,
    "fuzz": compiled.fuzz,
    "growth": lasting.growth,
    "cost": cost,
}


def chosen_rows(text: str) -> list[str]:
    """Read `--only`; refuse what is no row."""
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


def run(name: str, folder: Path, *, short: bool) -> Figure:
    """Run one row; one that breaks off is missed, and does not stop the others."""
    try:
        return ROWS[name](folder, short=short)
    except Exception as problem:  # noqa: BLE001  whatever it was, the row was not reached
        traceback.print_exc()
        return Figure(name, "", f"broke off: {problem!r}"[:200], met=False, short=short)


def main() -> int:
    """Run what was asked for, one row after another; print the table of all rows that were ever run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=chosen_rows, default=list(ROWS), help="rows, comma-separated")
    parser.add_argument("--short", action="store_true", help="fewer of each")
    parser.add_argument("--table", action="store_true", help="run nothing; print what is kept")
    parser.add_argument("--against", default="HEAD~1", help="the commit that `cost` compares with")
    parser.add_argument("--rounds", type=int, help="of `cost`; 9 unless given, 2 where it is short")
    parser.add_argument("--seconds", type=float, help="of one server in a round of `cost`; 1 or 0.5")
    chosen = parser.parse_args()
    ROWS["cost"] = partial(cost, against=chosen.against, rounds=chosen.rounds, seconds=chosen.seconds)
    print(f"load average before: {os.getloadavg()[0]:.2f}; other work on this machine makes figures worse")
    for name in [] if chosen.table else chosen.only:
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="heed-resilience-") as folder:
            figure = run(name, Path(folder), short=chosen.short)
        keep(figure)
        print(f"  {figure.verdict}: {figure.reached} ({time.monotonic() - started:.0f} s)", flush=True)
    figures = kept()
    print(f"\n{table({name: figures[name] for name in ROWS if name in figures})}")
    if missed := [name for name in ROWS if name not in figures or not figures[name].met]:
        print(f"\nmissed or not run: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
