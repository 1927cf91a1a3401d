"""Run every benchmark, one after another, each in a process of its own; end with one line each.

python -m benchmarks [--quick] [--only floor serve ...] [--without peers]

A benchmark that fails, or whose target is missed, does not stop the others: it is named at the end, and the
status is 1. Raw results are JSON in `benchmarks/results/`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time

import torch

from benchmarks.report import save

# Cheapest and most basic first: what comes later is read against the floor.
QUICK: dict[str, tuple[str, ...]] = {
    "floor": (),
    "kernels": ("--quick",),
    "rules": ("--quick",),
    "long": ("--quick",),
    "weights": (),
    "heads": ("--quick",),
    "memory": (),
    "wire": ("--seconds", "2"),
    "latency": ("--quick",),
    "serve": ("--quick",),
    "derived": ("--quick",),
    "dtypes": ("--quick",),
    "precision": ("--quick",),
    "mixed": ("--quick",),
    "processes": ("--quick",),
    "balance": ("--quick",),
    "calls": ("--quick",),
    "growth": ("--quick",),
    "scale": ("--quick",),
    "embeddings": ("--quick",),
    "families": ("--quick",),
    "peers": ("--quick",),
    "loop": (),
    "walk": (),
    "gpu": ("--quick",),
}
NEEDS_WRK = {"wire", "latency", "serve", "derived", "dtypes", "processes", "peers"}


def why_not(name: str) -> str | None:
    """Return what a benchmark lacks on this machine, or None."""
    if name in NEEDS_WRK and shutil.which("wrk") is None:
        return "wrk is not installed; apt-get install wrk"
    if name == "gpu" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def run(name: str, options: tuple[str, ...]) -> tuple[str, float]:
    """Run one benchmark, its output passing through; return how it ended, and its seconds."""
    print(f"\n== {name} {' '.join(options)}", flush=True)
    lacks = why_not(name)
    if lacks is not None:
        print(f"left out: {lacks}", flush=True)
        return f"left out: {lacks}", 0.0
    started = time.monotonic()
    status = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options]).returncode
    return (
        "done" if status == 0 else f"FAILED or missed a target (status {status})",
        time.monotonic() - started,
    )


def main() -> int:
    """Run what was asked for; return 1 where anything failed or lacked its load generator."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="half an hour instead of an hour and a half")
    parser.add_argument("--only", nargs="+", choices=tuple(QUICK), default=list(QUICK))
    parser.add_argument("--without", nargs="+", choices=tuple(QUICK), default=[])
    chosen = parser.parse_args()
    busy = os.getloadavg()[0]
    print(f"load average before: {busy:.2f}; other work on this machine makes every figure worse")
    ended = {}
    for name in chosen.only:
        if name not in chosen.without:
            ended[name] = run(name, QUICK[name] if chosen.quick else ())
    print("\n== summary")
    for name, (how, seconds) in ended.items():
        print(f"  {name:10} {seconds:6.0f} s  {how}")
    runs = {name: {"ended": how, "seconds": seconds} for name, (how, seconds) in ended.items()}
    save("summary", {"quick": chosen.quick, "load_average_before": busy, "runs": runs})
    missing = {name for name, (how, _) in ended.items() if how != "done" and name != "gpu"}
    failed = ended.get("gpu", ("done", 0.0))[0].startswith("FAILED")
    return 1 if missing or failed else 0


if __name__ == "__main__":
    sys.exit(main())
