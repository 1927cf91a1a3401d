"""Compiled products, attention and feed-forward against oneDNN's and torch's, on one thread as a lane has it.

Ratios of the best of several runs, taken in turns in one process: over the faster of the others.

    python -m benchmarks.kernels [--quick]
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.report import save
from models.attention.torch_private import lay_out_linear
from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.linear import packed_product
from models.folders.parameters import parameter_shapes
from models.spec import FeedForwardSpec, ModelSpec, NormSpec

WEIGHTS = (
    (3072, 768),
    (768, 3072),
    (4096, 1024),
    (1024, 4096),
    (2304, 768),
    (768, 768),
    (1536, 384),
    (384, 1536),
)  # out, in: feed-forward of 768 and of 1,024, a layer of 768, minilm's feed-forward
ROWS = (1, 8, 68, 256, 1024)
LENGTHS = (16, 68, 128, 256, 512)
HEADS = 12
BLOCKS = ((768, 12), (384, 12))  # d_model, heads: BERT base, minilm
SECONDS = 0.02  # of one turn of one kernel
SLOWEST = 0.9  # of the others' speed, where a lane's batches are


def turns(kernels: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least seconds of a call of each."""
    counts = {name: max(1, int(SECONDS / _seconds(kernel, 2))) for name, kernel in kernels.items()}
    least = dict.fromkeys(kernels, float("inf"))
    for _ in range(rounds):
        for name, kernel in kernels.items():
            least[name] = min(least[name], _seconds(kernel, counts[name]))
    return least


def _seconds(kernel: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        kernel()
    return (time.perf_counter() - started) / count


def products(ours: Native, rounds: int) -> list[dict[str, float]]:
    """Print and return the GFLOP/s of each linear kernel."""
    found = []
    print("linear, GFLOP/s     rows      heed    oneDNN     torch   heed / best other")
    for out, inner in WEIGHTS:
        weight, bias = torch.randn(out, inner), torch.randn(out)
        packed = lay_out_linear(weight)
        panels = ours.lay_out(weight, bias)
        for rows in ROWS:
            x = torch.randn(rows, inner)
            least = turns(
                {
                    "heed": lambda x=x, panels=panels: ours.linear(x, panels),
                    "onednn": lambda x=x, w=packed, b=bias: packed_product(x, w, b),
                    "torch": lambda x=x, w=weight, b=bias: F.linear(x, w, b),
                },
                rounds,
            )
            speed = {name: 2e-9 * rows * out * inner / seconds for name, seconds in least.items()}
            ratio = speed["heed"] / max(speed["onednn"], speed["torch"])
            found.append({"in": inner, "out": out, "rows": rows, **speed, "ratio": ratio})
            speeds = "".join(f"{speed[name]:10.0f}" for name in ("heed", "onednn", "torch"))
            print(f"{f'{inner} → {out}':15} {rows:8}{speeds}{ratio:20.2f}")
    return found


def attention(ours: Native, rounds: int) -> list[dict[str, float]]:
    """Print and return the milliseconds of each way to attend, heads of 64 and of 32."""
    found = []
    print("\nattention, ms     d_k    tokens      heed  with weights    fused     plain   heed / best other")
    for width in (64, 32):
        for length in LENGTHS:
            rows = torch.randn(length, 3 * HEADS, width)
            three = q, k, v = rows.split(HEADS, dim=1)
            heads = [one.transpose(0, 1)[None] for one in (q, k, v)]
            scale = width**-0.5

            def own(three=three, length=length, scale=scale, *, weights: bool) -> object:
                extent = Extent(slice(0, length), weights=weights)
                return ours.attend(*three, [extent], scale=scale, causal=False)

            def plain(heads=heads, scale=scale) -> object:
                return torch.softmax(heads[0] @ heads[1].mT * scale, dim=-1) @ heads[2]

            least = turns(
                {
                    "heed": lambda own=own: own(weights=False),
                    "with weights": lambda own=own: own(weights=True),
                    "fused": lambda heads=heads: F.scaled_dot_product_attention(*heads),
                    "plain": plain,
                },
                rounds,
            )
            ratio = min(least["fused"], least["plain"]) / least["heed"]
            found.append({"width": width, "tokens": length, "ratio": ratio, **least})
            print(
                f"{width:20} {length:9} {least['heed'] * 1e3:9.3f} {least['with weights'] * 1e3:13.3f} "
                f"{least['fused'] * 1e3:8.3f} {least['plain'] * 1e3:9.3f} {ratio:19.2f}"
            )
    return found


def rest(rounds: int) -> list[dict[str, float]]:
    """Print and return the milliseconds of what a block does after attention: one call, or operators.

    The operators run on the same products.
    """
    found = []
    print("\nafter attention, ms   d_model      rows      heed  operators   heed / operators")
    for d_model, heads in BLOCKS:
        spec = ModelSpec(
            d_model=d_model,
            heads=heads,
            norm=NormSpec(kind="layer"),
            residual=True,
            feed_forward=FeedForwardSpec(d_ff=4 * d_model),
        )
        parameters = {name: torch.randn(shape) / 20 for name, shape in parameter_shapes(spec).items()}
        one, apart = (Block(spec, parameters, 0, in_one_call=whole) for whole in (True, False))
        if one.kernels != {"heed"}:  # operators against operators
            print(f"{d_model:29} left out: other products were chosen for it")
            continue
        for rows in ROWS:
            x, z = torch.randn(rows, d_model), torch.randn(rows, d_model)
            least = turns(
                {
                    "heed": lambda x=x, z=z, block=one: finish(block.finish(x, x, z)),
                    "operators": lambda x=x, z=z, block=apart: finish(block.finish(x, x, z)),
                },
                rounds,
            )
            ratio = least["operators"] / least["heed"]
            found.append({"d_model": d_model, "rows": rows, "ratio": ratio, **least})
            print(
                f"{d_model:29} {rows:9} {least['heed'] * 1e3:9.3f} {least['operators'] * 1e3:10.3f} "
                f"{ratio:18.2f}"
            )
    return found


def main() -> int:
    """Measure, print and keep; return 1 where ours is much slower than another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 20")
    rounds = 5 if parser.parse_args().quick else 20
    ours = native()
    if ours is None:
        print("Heed was installed without a C compiler, or not for this processor: nothing to measure")
        return 1
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {
            "products": products(ours, rounds),
            "attention": attention(ours, rounds),
            "rest": rest(rounds),
        }
    save("kernels", found)
    slowest = min(row["ratio"] for rows in found.values() for row in rows)
    verdict = "met" if slowest >= SLOWEST else "MISSED"
    print(f"\nat its worst {slowest:.2f} of the best other (limit {SLOWEST}: {verdict})")
    return int(slowest < SLOWEST)


if __name__ == "__main__":
    sys.exit(main())
