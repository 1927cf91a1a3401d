"""What attention weights cost beside z, and what it costs z that there may be any.

Ratios of the best of several runs, taken in turns in one process.

python -m benchmarks.weights
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.floor import Bare
from benchmarks.workload import layer_weights, sequences, write_layer
from models.attention.problem import prepare
from models.attention.reductions import derive
from models.attention.reference import contextualize
from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.compiled.panels import Projections
from models.device.steps import finish
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime

HEADS, D_K = 12, 64
ROUNDS = 100


def inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v laid out as a fused projection leaves them: views [H, T, d_k] of [T, H, d_k]."""
    q, k, v = (torch.randn(tokens, HEADS, D_K).transpose(0, 1) for _ in range(3))
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, selection: Selection | None) -> object:
    """Return z, and what is selected beside it."""
    problem = prepare(q, k, v, spec=AttentionSpec())
    z, lse = finish(contextualize(problem, want_lse=selection is not None))
    return z if selection is None else (z, finish(derive(problem, lse, selection)))


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(QKᵀ/√d_k)V as one writes it in torch, with its weights in hand."""
    return torch.softmax(q @ k.mT * D_K**-0.5, dim=-1) @ v


def ragged() -> list[Callable[[], object]]:
    """Return the runtime, and bare torch and compiled code that know no outputs, on the same sequences."""
    with tempfile.TemporaryDirectory() as name:
        write_layer(Path(name) / "layer")
        runtime = TorchRuntime(Path(name), models=None, device="cpu", dtype="float32")
    arrays = sequences(8, 128)
    card = runtime.card("layer")
    items = [Item(card=card, input=Tokens(embeddings=x), selection=Selection(outputs=("z",))) for x in arrays]
    tensors = [torch.from_numpy(x) for x in arrays]
    bare = Bare(packed=True, weights=False)
    calls: list[Callable[[], object]] = [lambda: runtime.run(items), lambda: bare.packed(tensors)]
    ours = native()
    if ours is not None:
        calls.append(compiled(ours, tensors))
    return calls


def compiled(ours: Native, tensors: list[Tensor]) -> Callable[[], object]:
    """Return the layer by compiled code alone."""
    of = {
        name.removeprefix("layers.0.attention."): torch.from_numpy(a) for name, a in layer_weights().items()
    }
    stacked = [
        torch.cat([of[f"{part}.{which}"] for part in ("query", "key", "value")])
        for which in ("weight", "bias")
    ]
    projection, output = ours.lay_out(*stacked), ours.lay_out(of["output.weight"], of["output.bias"])
    ends = list(itertools.accumulate(len(x) for x in tensors))
    extents = [Extent(slice(end - len(x), end)) for x, end in zip(tensors, ends, strict=True)]
    layer = Projections(qkv=projection, output=output, heads=HEADS, key_heads=HEADS)
    return lambda: ours.block(torch.cat(tensors), extents, layer, scale=D_K**-0.5, causal=False)


def best(*calls: Callable[[], object]) -> list[float]:
    """Return the least milliseconds of each call; turns are taken, so that noise falls on all alike."""
    least = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for n, call in enumerate(calls):
            started = time.perf_counter()
            call()
            least[n] = min(least[n], (time.perf_counter() - started) * 1e3)
    return least


def main() -> int:
    """Print the ratios; return 1 where one is over its limit."""
    everything = Selection(outputs=("weights",))
    few = Selection(outputs=("weights",), heads=(3,), rows=tuple(range(16)))
    with torch.inference_mode():
        long, short = inputs(2048), inputs(512)
        alone, with_rows = best(lambda: attend(*long, None), lambda: attend(*long, few))
        full, written = best(lambda: attend(*short, everything), lambda: plain(*short))
        tiny = inputs(16)
        tiny_z, tiny_all = best(lambda: attend(*tiny, None), lambda: attend(*tiny, everything))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a device slot has it
        served, *bare = best(*ragged())
        torch.set_num_threads(threads)
    rows = (
        ("one head's 16 rows + z / z alone, T=2048", with_rows, alone, 1.3),
        ("full weights + z / plain softmax(QKᵀ)V, T=512", full, written, 1.5),
        ("full weights + z / z alone, T=16", tiny_all, tiny_z, None),
        ("z of 16 sequences / the layer without outputs, 1 thread", served, min(bare), 1 / 0.98),
    )
    print(f"H={HEADS}, d_k={D_K}, float32, {torch.get_num_threads()} threads, best of {ROUNDS}\n")
    for name, above, below, limit in rows:
        verdict = (
            "" if limit is None else f"  limit {limit:.2f}: {'met' if above / below < limit else 'EXCEEDED'}"
        )
        print(f"{name:<56} {above:8.3f} ms / {below:8.3f} ms = {above / below:.3f}{verdict}")
    return int(any(limit is not None and above / below >= limit for _, above, below, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
