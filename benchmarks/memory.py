"""Peak memory: of z with top_k as the sequence grows (as T, its time as T²), and of loading a model.

Each length runs in a fresh process, whose peak resident set is the whole process: interpreter, torch,
inputs and results. The full matrix at 16,384 tokens would be 12 GiB. A model's peak is what its load and its
largest batch add to a process that has torch already, over its weights and that batch's tensors.

    python -m benchmarks.memory
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from models.folders.parameters import parameter_shapes
from models.spec import ModelSpec

HEADS, D_K, TOP_K = 12, 64, 8
LENGTHS = (1024, 2048, 4096, 8192, 16384)
LIMIT_MIB = 1536  # at the last length
BATCH_ROWS = 2048
ROW_WIDTHS = 7  # of d_model: what enters, q, k, v, heads, z, and the answer's
MODEL_LIMIT = 1.5


def peak_mib() -> float:
    """Return this process's own peak; what getrusage gives may be that of the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def measure(tokens: int) -> None:
    """Compute z and top_k of one random sequence; print seconds and peak MiB."""
    import torch

    from models.attention.problem import prepare
    from models.attention.reductions import derive
    from models.attention.reference import contextualize
    from models.device.steps import finish
    from models.outputs import ALIASES, Selection
    from models.spec import AttentionSpec

    q, k, v = (torch.randn(HEADS, tokens, D_K) for _ in range(3))
    selection = Selection(outputs=ALIASES["top_k"], top_k=TOP_K)
    with torch.inference_mode():
        started = time.perf_counter()
        problem = prepare(q, k, v, spec=AttentionSpec())
        _, lse = finish(contextualize(problem, want_lse=True))
        fused_seconds = time.perf_counter() - started
        finish(derive(problem, lse, selection))
        seconds = time.perf_counter() - started
    print(fused_seconds, seconds, peak_mib())


def measure_model(repository: str) -> None:
    """Load a repository's model, run a batch of 2,048 rows; print MiB: base, peak, weights, batch."""
    import numpy as np
    import torch

    from models.outputs import Selection
    from models.protocol import Item, Tokens
    from models.runtime import TorchRuntime

    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))
    base = peak_mib()
    runtime = TorchRuntime(Path(repository), models=None, device="cpu", dtype="float32")
    (card,) = runtime.cards()
    rows = np.random.default_rng(0).standard_normal((BATCH_ROWS // 4, card.d_model), dtype=np.float32)
    chosen = Selection(outputs=("z",), layers=(card.layers - 1,))
    runtime.run([Item(card=card, input=Tokens(embeddings=rows), selection=chosen)] * 4)
    batch_bytes = ROW_WIDTHS * card.d_model * 4 * BATCH_ROWS
    print(base, peak_mib(), card.bytes_resident / 2**20, batch_bytes / 2**20)


def model() -> int:
    """Print what a model of 384 MiB takes; return 1 where it is over the limit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "layers"
        folder.mkdir()
        spec = ModelSpec(d_model=1024, heads=16, layers=24)
        (folder / "config.json").write_text(json.dumps(spec.to_config()))
        chance = np.random.default_rng(0)
        shapes = parameter_shapes(spec).items()
        tensors = {key: chance.standard_normal(shape, dtype=np.float32) / 32 for key, shape in shapes}
        save_file(tensors, folder / "model.safetensors")
        command = [sys.executable, "-m", "benchmarks.memory", name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    base, peak, weights, batch = map(float, printed.split())
    ratio = (peak - base) / (weights + batch)
    verdict = "met" if ratio <= MODEL_LIMIT else "EXCEEDED"
    print(
        f"\na model of {weights:.0f} MiB and a batch of {BATCH_ROWS} rows, {batch:.0f} MiB: peak "
        f"{peak - base:.0f} MiB over the process before, {ratio:.2f} of both; limit {MODEL_LIMIT}: {verdict}"
    )
    return int(ratio > MODEL_LIMIT)


def main() -> int:
    """Print the table; return 1 where the longest sequence or the model is over its limit."""
    print(f"z + top_k (k={TOP_K}), H={HEADS}, d_k={D_K}, float32; one fresh process a line\n")
    print(f"{'T':>6} {'z s':>8} {'all s':>8} {'growth':>7} {'peak MiB':>9} {'whole matrix MiB':>17}")
    before = math.nan
    peak = 0.0
    for tokens in LENGTHS:
        command = [sys.executable, "-m", "benchmarks.memory", str(tokens)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        fused_seconds, seconds, peak = map(float, printed.split())
        matrix = HEADS * tokens * tokens * 4 / 2**20
        growth = "" if math.isnan(before) else f"×{seconds / before:.1f}"
        print(f"{tokens:>6} {fused_seconds:>8.2f} {seconds:>8.2f} {growth:>7} {peak:>9.0f} {matrix:>17,.0f}")
        before = seconds
    verdict = "met" if peak < LIMIT_MIB else "EXCEEDED"
    print(f"\nlimit at T={LENGTHS[-1]}: {LIMIT_MIB} MiB for the whole process: {verdict}")
    return int(peak >= LIMIT_MIB) | model()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        measure(int(sys.argv[1]))
    elif len(sys.argv) > 1:
        measure_model(sys.argv[1])
    else:
        sys.exit(main())
