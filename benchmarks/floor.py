"""The floor: what bare torch does with the same ragged sequences, in the best of several ways.

Prints one line a way, its time over the best one's; the best is the most that can be had of torch.

    python -m benchmarks.floor [--shortest 8] [--longest 128] [--threads 2]
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.workload import D_MODEL, HEADS, layer_weights, sequences

Layer = Callable[[Tensor], Tensor]
Answer = list[tuple[Tensor, Tensor | None]]
BUCKET = 32
ROUNDS = 7


class Bare:
    """The layer as anyone would write it: fused QKV, attention, W_O; stock or prepacked linears."""

    def __init__(self, *, packed: bool, weights: bool) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in layer_weights().items()}
        parts = [f"layers.0.attention.{which}" for which in ("query", "key", "value")]
        self.qkv = _linear(
            torch.cat([tensors[f"{part}.weight"] for part in parts]),
            torch.cat([tensors[f"{part}.bias"] for part in parts]),
            packed=packed,
        )
        out = "layers.0.attention.output"
        self.out = _linear(tensors[f"{out}.weight"], tensors[f"{out}.bias"], packed=packed)
        self.weights = weights

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, H, T, D] each; z [B, H, T, D] and, if asked for, weights [B, H, T, T]."""
        if not self.weights:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), None
        scores = q @ k.mT * q.shape[-1] ** -0.5
        a = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)
        return a @ v, a

    def one_by_one(self, inputs: list[Tensor]) -> Answer:
        """Each sequence alone."""
        return [self.padded([x])[0] for x in inputs]

    def padded(self, inputs: list[Tensor]) -> Answer:
        """All sequences padded to the longest, with a mask."""
        lengths = [len(x) for x in inputs]
        x = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        mask = None
        if min(lengths) < max(lengths):
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None]
        q, k, v = self.qkv(x.flatten(0, 1)).view(len(inputs), -1, 3, HEADS, D_MODEL // HEADS).unbind(2)
        z, a = self.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        z = self.out(z.transpose(1, 2).reshape(-1, D_MODEL)).view(len(inputs), -1, D_MODEL)
        return [(z[i, :n], None if a is None else a[i, :, :n, :n]) for i, n in enumerate(lengths)]

    def packed(self, inputs: list[Tensor]) -> Answer:
        """Linears over all rows at once, attention a sequence at a time."""
        lengths = [len(x) for x in inputs]
        qkv = self.qkv(torch.cat(inputs)).view(-1, 3, HEADS, D_MODEL // HEADS)
        parts = []
        for own in qkv.split(lengths):
            q, k, v = own.permute(1, 2, 0, 3)
            parts.append(self.attend(q[None], k[None], v[None]))
        z = self.out(torch.cat([z[0].transpose(0, 1) for z, _ in parts]).reshape(-1, D_MODEL))
        return [(own, a) for own, (_, a) in zip(z.split(lengths), parts, strict=True)]

    def bucketed(self, inputs: list[Tensor]) -> Answer:
        """Sequences of similar length padded together."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        groups: dict[int, list[int]] = {}
        for i in order:
            groups.setdefault(len(inputs[i]) // BUCKET, []).append(i)
        return [answer for group in groups.values() for answer in self.padded([inputs[i] for i in group])]


def _linear(weight: Tensor, bias: Tensor, *, packed: bool) -> Layer:
    if not packed:
        return lambda x: F.linear(x, weight, bias)
    prepared = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 - what is measured
    run = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: run(x, prepared, bias, "none", [], "")


def ways(*, weights: bool) -> Iterator[tuple[str, Callable[[list[Tensor]], Answer]]]:
    """Yield every way to run a list of sequences [T, 768], by name."""
    for packed in (False, True):
        bare = Bare(packed=packed, weights=weights)
        kernel = "oneDNN" if packed else "stock"
        for way in (bare.one_by_one, bare.padded, bare.packed, bare.bucketed):
            yield f"{way.__name__} ({kernel})", way


def best_seconds(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the best of several timings, after one to warm up."""
    function()
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
    return best


def floor(inputs: list[Tensor], *, weights: bool) -> dict[str, float]:
    """Return seconds for all of `inputs`, by way, the fastest first."""
    with torch.inference_mode():
        timed = {name: best_seconds(lambda way=way: way(inputs)) for name, way in ways(weights=weights)}
    return dict(sorted(timed.items(), key=lambda entry: entry[1]))


def per_second(inputs: list[Tensor], *, way: str, weights: bool, seconds: float) -> float:
    """Return the sequences a second of one way, over all of so many seconds: as a server is measured."""
    run = dict(ways(weights=weights))[way]
    with torch.inference_mode():
        run(inputs)
        begin, done = time.perf_counter(), 0
        while (now := time.perf_counter()) < begin + seconds:
            run(inputs)
            done += len(inputs)
    return done / (now - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    inputs = [torch.from_numpy(x) for x in sequences(chosen.shortest, chosen.longest)]
    print(f"{len(inputs)} sequences, T {chosen.shortest}..{chosen.longest}, {chosen.threads} threads")
    for weights in (False, True):
        timed = floor(inputs, weights=weights)
        best = next(iter(timed.values()))
        print(f"\n{'z + weights' if weights else 'z only'}: floor {len(inputs) / best:.0f} sequences/s")
        for name, seconds in timed.items():
            print(f"  {seconds / best:5.2f} × floor   {name}")


if __name__ == "__main__":
    main()
