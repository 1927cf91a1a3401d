"""What outputs derived from weights cost beside z, over HTTP: one layer d 768, OIP, T 8..128, in turns.

    python -m benchmarks.derived [--quick]

top-k is held against z + weights as if the weights' bytes cost nothing on the wire: against the requests a
second of z when what weights cost the engine is added, both slots busy, which is measured in the same turns
in process. Entropy and received are held against z. The status is 1 where one is below 0.97.
"""

import argparse
import os
import statistics
import sys
import time

import numpy as np
import torch

from benchmarks.load import closed_loop
from benchmarks.long import layer
from benchmarks.report import save
from benchmarks.serve import path_of, serving
from benchmarks.workload import bodies, sequences
from models.outputs import Selection, expand
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime

OUTPUTS = {
    "z": ("z",),
    "z + weights": ("z", "weights"),
    "z + top-k": ("z", "top_k"),
    "z + entropy": ("z", "entropy"),
    "z + received": ("z", "received"),
}
CONNECTIONS = (8, 32)
LEAST = 0.97
ENGINE_SECONDS = 0.3


def items(runtime: TorchRuntime, inputs: list[np.ndarray], outputs: tuple[str, ...]) -> list[Item]:
    """Return a batch that asks for some outputs of every sequence."""
    card = runtime.card("layer")
    chosen = Selection(outputs=expand(outputs), layers=(0,), top_k=8)
    return [Item(card=card, input=Tokens(embeddings=x), selection=chosen) for x in inputs]


def engine_seconds(runtime: TorchRuntime, batch: list[Item]) -> float:
    """Return the least seconds that one slot takes of one sequence."""
    least, until = float("inf"), time.perf_counter() + ENGINE_SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        runtime.run(batch)
        least = min(least, time.perf_counter() - started)
    return least / len(batch)


def without_bytes(z_rate: float, engine: dict[str, float], slots: int) -> float:
    """Return requests a second of z + weights, were weights made and nothing of them sent."""
    return 1 / (1 / z_rate + max(0.0, engine["z + weights"] - engine["z"]) / slots)


def measure(rounds: int, seconds: int) -> list[dict[str, object]]:
    """Print and return a row for each number of connections and output."""
    inputs = sequences(8, 128)
    runtime = layer()
    rates: dict[tuple[int, str], list[float]] = {}
    engine = dict.fromkeys(("z", "z + weights"), float("inf"))
    with serving() as (url, _), torch.inference_mode():
        sent = {name: bodies("oip", inputs, outputs) for name, outputs in OUTPUTS.items()}
        for number in range(rounds + 1):
            for name in engine:
                spent = engine_seconds(runtime, items(runtime, inputs, OUTPUTS[name]))
                engine[name] = min(engine[name], spent)
            for connections in CONNECTIONS:
                for name in list(OUTPUTS)[:: 1 if number % 2 else -1]:
                    load = closed_loop(
                        url,
                        path_of("oip", OUTPUTS[name]),
                        sent[name],
                        connections=connections,
                        seconds=seconds if number else 1,
                    )
                    if load.errors:
                        raise SystemExit(f"{name}: {load.errors} requests were refused")
                    if number:  # the first is to warm up
                        rates.setdefault((connections, name), []).append(load.requests_per_second)
    rows = []
    for connections in CONNECTIONS:
        z_rates = rates[connections, "z"]
        for name in OUTPUTS:
            own = rates[connections, name]
            of_z = statistics.median(a / b for a, b in zip(own, z_rates, strict=True))
            base = [without_bytes(rate, engine, runtime.slots) for rate in z_rates]
            of_weights = statistics.median(a / b for a, b in zip(own, base, strict=True))
            rows.append(
                {
                    "connections": connections,
                    "outputs": name,
                    "rate": statistics.median(own),
                    "of_z": of_z,
                    "of_weights": of_weights,
                }
            )
    return rows


def main() -> int:
    """Measure, print the table, keep the result; return 1 where one is below its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of a second")
    chosen = parser.parse_args()
    busy = os.getloadavg()[0]
    rows = measure(*((2, 1) if chosen.quick else (5, 2)))
    missed = False
    for row in rows:
        held = {"z + top-k": "of_weights", "z + entropy": "of_z", "z + received": "of_z"}.get(
            str(row["outputs"])
        )
        met = held is None or float(str(row[held])) >= LEAST
        missed |= not met
        verdict = "" if held is None else f"   {held} at least {LEAST}: {'met' if met else 'MISSED'}"
        print(
            f"{row['connections']:3} connections  {row['outputs']:13} {row['rate']:7.0f}/s  "
            f"{row['of_z']:5.2f} of z  {row['of_weights']:5.2f} of z + weights without their bytes{verdict}"
        )
    save("derived", {"load_average_before": busy, "rows": rows})
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
