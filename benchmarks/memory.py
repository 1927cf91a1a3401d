"""Peak memory and time of z with top_k as the sequence grows: memory as T, time as T².

Each length runs in a fresh process, whose peak resident set is the whole process: interpreter, torch,
inputs and results. The full matrix at 16,384 tokens would be 12 GiB.

    python -m benchmarks.memory
"""

import math
import resource
import subprocess
import sys
import time

HEADS, D_K, TOP_K = 12, 64, 8
LENGTHS = (1024, 2048, 4096, 8192, 16384)
LIMIT_MIB = 1536  # at the last length


def measure(tokens: int) -> None:
    """Compute z and top_k of one random sequence; print seconds and peak MiB."""
    import torch

    from models.attention import contextualize, prepare
    from models.outputs import Selection
    from models.reductions import derive
    from models.spec import AttentionSpec

    q, k, v = (torch.randn(HEADS, tokens, D_K) for _ in range(3))
    selection = Selection(outputs=("top_k_keys", "top_k_weights", "top_k_rest"), top_k=TOP_K)
    with torch.inference_mode():
        started = time.perf_counter()
        problem = prepare(q, k, v, spec=AttentionSpec())
        _, lse = contextualize(problem, want_lse=True)
        fused_seconds = time.perf_counter() - started
        derive(problem, lse, selection)
        seconds = time.perf_counter() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(fused_seconds, seconds, peak_kib / 1024)


def main() -> int:
    """Print the table; return 1 where the longest sequence is over the limit."""
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
    return 0 if peak < LIMIT_MIB else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        sys.exit(main())
