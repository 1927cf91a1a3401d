"""One layer d 768 in each dtype: OIP, 32 connections, T 8..128, z; servers side by side, asked in turns.

    python -m benchmarks.dtypes [--quick] [--connections 8 32]

bfloat16 is promised 1.5 times float32's requests a second at 32 connections; the status is 1 where it is not
so. A dtype that cannot be served is said and left out.
"""

import argparse
import contextlib
import os
import statistics
import sys

from benchmarks.load import closed_loop
from benchmarks.report import save
from benchmarks.serve import path_of, resident_peak_mb, serving
from benchmarks.workload import bodies, sequences

DTYPES = ("float32", "bfloat16", "int8")
LEAST = {"bfloat16": 1.5}
PROMISED_AT = 32


def rates(
    connections: list[int], rounds: int, seconds: int
) -> tuple[dict[str, dict[int, list[float]]], dict[str, float]]:
    """Return requests a second by dtype and number of connections, and each server's peak MiB."""
    sent, path = bodies("oip", sequences(8, 128)), path_of("oip", ("z",))
    found: dict[str, dict[int, list[float]]] = {}
    with contextlib.ExitStack() as running:
        servers = {}
        for dtype in DTYPES:
            try:
                servers[dtype] = running.enter_context(serving("--dtype", dtype))
            except SystemExit as why:
                print(f"left out: {dtype}: {why}")
        for number in range(rounds + 1):
            for dtype in list(servers)[:: 1 if number % 2 else -1]:
                for count in connections:
                    load = closed_loop(
                        servers[dtype][0], path, sent, connections=count, seconds=seconds if number else 1
                    )
                    if load.errors:
                        raise SystemExit(f"{dtype}: {load.errors} requests were refused")
                    if number:  # the first is to warm up
                        found.setdefault(dtype, {}).setdefault(count, []).append(load.requests_per_second)
        peaks = {dtype: resident_peak_mb(pid) for dtype, (_, pid) in servers.items()}
    return found, peaks


def main() -> int:
    """Measure, print the table, keep the result; return 1 where the promise is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of a second")
    parser.add_argument("--connections", type=int, nargs="+", default=[8, 32])
    chosen = parser.parse_args()
    busy = os.getloadavg()[0]
    found, peaks = rates(chosen.connections, *((2, 1) if chosen.quick else (5, 2)))
    rows, missed = [], False
    for dtype, by_count in found.items():
        for count, own in by_count.items():
            pairs = zip(own, found["float32"][count], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            least = LEAST.get(dtype) if count == PROMISED_AT else None
            missed |= least is not None and ratio < least
            verdict = "" if least is None else f"   at least {least}: {'met' if ratio >= least else 'MISSED'}"
            rate = statistics.median(own)
            print(
                f"{dtype:9} {count:3} connections  {rate:7.0f}/s  {ratio:5.2f} of float32  "
                f"peak {peaks[dtype]:.0f} MiB{verdict}"
            )
            rows.append({"dtype": dtype, "connections": count, "rate": rate, "ratio": ratio, "limit": least})
    save("dtypes", {"load_average_before": busy, "rows": rows, "peak_mib": peaks})
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
