"""One layer d 768 on long sequences: z against torch's fused kernel in the same layer, z + top-k against z.

    python -m benchmarks.long [--quick]

In process, two threads, a sequence at a time; the other layer is bare torch's with its fused kernel, on stock
or prepacked linears, whichever is faster (`benchmarks.floor`). Turns are taken; ratios are of the least of
several. Peak memory at the longest is that of a fresh process with Heed's runtime, the layer and the sequence
in it, z and top-k; the limit is what it was when this benchmark was written. The status is 1 where z is
slower than torch's, top-k costs more than a quarter of z, or memory has grown.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.floor import Bare
from benchmarks.memory import peak_mib
from benchmarks.report import save
from benchmarks.turns import least_within, with_threads
from benchmarks.workload import D_MODEL, write_layer
from models.outputs import ALIASES, Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime

LENGTHS = (512, 1024, 2048, 4096, 16384)
THREADS, TOP_K = 2, 8
TOLERANCE = 1e-4
LEAST_Z, MOST_TOP_K = 1.0, 1.25
MOST_MIB = 768  # 731 before there was compiled attention of long sequences
SECONDS = 4.0  # of the turns at a length
MOST_ROUNDS = 40
OUTPUTS = {"z": ("z",), "z + top-k": ("z", *ALIASES["top_k"])}


def layer() -> TorchRuntime:
    """Return a runtime with the benchmarks' layer."""
    with tempfile.TemporaryDirectory() as name:
        write_layer(Path(name) / "layer")
        return TorchRuntime(Path(name), models=None, device="cpu", dtype="float32")


def sequence(tokens: int) -> np.ndarray:
    """Return [T, 768]."""
    return np.random.default_rng(tokens).standard_normal((tokens, D_MODEL), dtype=np.float32)


def answering(runtime: TorchRuntime, x: np.ndarray, outputs: tuple[str, ...]) -> Callable[[], np.ndarray]:
    """Return what asks for some outputs of a sequence, on both slots, and returns z."""
    item = Item(
        card=runtime.card("layer"),
        input=Tokens(embeddings=x),
        selection=Selection(outputs=outputs, layers=(0,), top_k=TOP_K),
    )

    def ask() -> np.ndarray:
        (answer,) = runtime.run([item], slots=runtime.slots).answers
        assert isinstance(answer, Answer), answer
        return answer.tensors["z"]

    return ask


def measure(runtime: TorchRuntime, tokens: int, seconds: float) -> dict[str, float]:
    """Compare answers, then return the least milliseconds of each."""
    x = sequence(tokens)
    tensor = torch.from_numpy(x)
    ways: dict[str, Callable[[], object]] = {
        name: answering(runtime, x, outputs) for name, outputs in OUTPUTS.items()
    }
    for name, packed in (("torch", False), ("torch, prepacked", True)):
        bare = Bare(packed=packed, weights=False)
        ways[name] = lambda bare=bare: bare.one_by_one([tensor])[0][0]
    torch.set_num_threads(THREADS)
    away = np.abs(ways["z"]() - ways["torch"]().numpy()).max()  # type: ignore[operator, attr-defined]
    if away > TOLERANCE:
        raise SystemExit(f"z of {tokens} tokens is off by {away:.1e}")
    ways = {name: with_threads(way, THREADS) for name, way in ways.items()}
    least = least_within(ways, seconds, least_rounds=2, most_rounds=MOST_ROUNDS)
    return {name: 1e3 * found for name, found in least.items()}


def peak(tokens: int) -> float:
    """Return the peak MiB of a fresh process that answers z and top-k of one sequence."""
    command = [sys.executable, "-m", "benchmarks.long", "--peak", str(tokens)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Print the table, keep the result; return 1 where a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 2,048 tokens, half a second each")
    parser.add_argument("--peak", type=int, help="answer one sequence of so many tokens and print peak MiB")
    chosen = parser.parse_args()
    with torch.inference_mode():
        runtime = layer()
        if chosen.peak:
            answering(runtime, sequence(chosen.peak), OUTPUTS["z + top-k"])()
            print(peak_mib())
            return 0
        print(f"{'ms, two threads':>15} {'z':>9} {'torch':>9} {'z + top-k':>10}   torch / z   z + top-k / z")
        rows = []
        for tokens in LENGTHS[:3] if chosen.quick else LENGTHS:
            least = measure(runtime, tokens, SECONDS / (8 if chosen.quick else 1))
            other = min(least["torch"], least["torch, prepacked"])
            z, more = other / least["z"], least["z + top-k"] / least["z"]
            met = z >= LEAST_Z and more <= MOST_TOP_K
            print(
                f"{tokens:15} {least['z']:9.2f} {other:9.2f} {least['z + top-k']:10.2f}   {z:9.2f}   "
                f"{more:13.2f}   {'met' if met else 'MISSED'}",
                flush=True,
            )
            rows.append({"tokens": tokens, "milliseconds": least, "z": z, "top_k": more, "met": met})
    tokens = rows[-1]["tokens"]
    mib = peak(tokens)
    verdict = "met" if mib <= MOST_MIB else "EXCEEDED"
    print(f"\npeak memory of z + top-k at {tokens}: {mib:.0f} MiB, limit {MOST_MIB}: {verdict}")
    result = {"load_average": os.getloadavg()[0], "rows": rows, "peak_mib": mib, "limit_mib": MOST_MIB}
    save("long", result)
    return int(mib > MOST_MIB or not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
