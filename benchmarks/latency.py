"""What a request costs beside its compute: one connection's median over that of the bare forward.

The same sixteen sequences by wrk at one connection and by bare torch in this process, in turns; medians of
the rounds. Bare torch is measured in a loop without a gap, which keeps its caches warm and its threads awake,
and once more as a server computes: after a pause as long as a request spends outside the forward.

    python -m benchmarks.latency [--quick] [--kinds oip safetensors json]
"""

import argparse
import statistics
import sys
import time

import torch

from benchmarks.floor import Bare
from benchmarks.load import closed_loop
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.workload import bodies, sequences

LIMIT_MS = 1.0
PAUSE_SECONDS = 0.001
TURNS = 10  # through all sequences, a round


def main() -> int:
    """Measure, print and keep; return 1 where a binary request takes too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of a second instead of 9 of two")
    parser.add_argument("--kinds", nargs="+", default=["oip", "safetensors", "json"])
    chosen = parser.parse_args()
    rounds, seconds = (3, 1) if chosen.quick else (9, 2)
    inputs = sequences(8, 128)
    layer = Bare(packed=True, weights=False)
    tensors = [torch.from_numpy(x) for x in inputs]
    found: dict[str, list[float]] = {"bare": [], "bare, paused": [], **{kind: [] for kind in chosen.kinds}}
    with serving() as (url, _):
        for turn in range(rounds + 1):
            measured = {
                "bare": forward_ms(layer, tensors, pause_seconds=0.0),
                "bare, paused": forward_ms(layer, tensors, pause_seconds=PAUSE_SECONDS),
            }
            for kind in chosen.kinds:
                load = closed_loop(
                    url, path_of(kind, ("z",)), bodies(kind, inputs), connections=1, seconds=seconds
                )
                measured[kind] = load.p50_ms
            if turn:  # the first one warms
                for name, p50_ms in measured.items():
                    found[name].append(p50_ms)
    bare, paused = found["bare"], found["bare, paused"]
    print(
        f"bare forward: p50 {statistics.median(bare):.2f} ms, after a pause {statistics.median(paused):.2f}"
    )
    over = {}
    for kind in chosen.kinds:
        over[kind] = statistics.median(a - b for a, b in zip(found[kind], bare, strict=True))
        after = statistics.median(a - b for a, b in zip(found[kind], paused, strict=True))
        ratio = statistics.median(a / b for a, b in zip(found[kind], bare, strict=True))
        print(
            f"{kind:12} p50 {statistics.median(found[kind]):.2f} ms, {over[kind]:.2f} over it ({ratio:.2f} "
            f"times), {after:.2f} over it after a pause"
        )
    save("latency", {"p50_ms": found, "over_ms": over, "limit_ms": LIMIT_MS})
    missed = [kind for kind in chosen.kinds if kind != "json" and over[kind] > LIMIT_MS]
    print(
        f"limit {LIMIT_MS} ms over the bare forward: "
        + (f"EXCEEDED by {', '.join(missed)}" if missed else "kept")
    )
    return 1 if missed else 0


def forward_ms(layer: Bare, inputs: list[torch.Tensor], *, pause_seconds: float) -> float:
    """Return the median of bare torch's milliseconds for one sequence."""
    taken = []
    with torch.inference_mode():
        for _ in range(TURNS):
            for x in inputs:
                if pause_seconds:
                    time.sleep(pause_seconds)
                started = time.perf_counter()
                layer.one_by_one([x])
                taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
