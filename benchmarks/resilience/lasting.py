"""The row about what goes on for long: whether memory grows (`benchmarks.growth`)."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import RESULTS
from benchmarks.resilience.figures import Figure
from tests.faults.running import ROOT

REQUESTS = 250_000
PROMISED = "250,000 mixed requests, a third broken: growth under 2%"


def growth(_: Path, *, short: bool) -> Figure:
    """Measure resident memory over mixed requests; what was measured is kept in `growth.json`, too."""
    wanted, seconds = (20_000, 300) if short else (REQUESTS, 7200)
    command = [sys.executable, "-m", "benchmarks.growth"]
    command += ["--requests", str(wanted), "--most-seconds", str(seconds)]
    file = RESULTS / "growth.json"
    before = file.stat().st_mtime_ns if file.exists() else 0
    status = subprocess.run(command, cwd=ROOT).returncode
    if not file.exists() or file.stat().st_mtime_ns == before:
        return Figure("growth", PROMISED, f"ended with {status} before it could say", met=False, short=short)
    result = json.loads(file.read_text())["result"]
    sizes = [size for _, size in result["sizes"]]
    reached = (
        f"{result['requests']:,} requests, {result['broken']:,} of them broken: {result['growth']:+.2%}, "
    )
    reached += f"{sizes[0]:.0f} to {sizes[-1]:.0f} MiB"
    enough = 3 * result["broken"] >= 0.99 * result["requests"]
    return Figure("growth", PROMISED, reached, met=status == 0 and enough, short=short)
