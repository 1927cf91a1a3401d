"""Compiled products, attention and feed-forward against oneDNN's and torch's, on one thread as a slot has it.

Ratios of the best of several runs, taken in turns in one process: over the faster of the others.

    python -m benchmarks.kernels [--quick]
"""

import argparse
import sys

import torch
import torch.nn.functional as F

from benchmarks.products import ROWS, products
from benchmarks.report import save
from benchmarks.turns import turns
from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.device.steps import finish
from models.encoder.block import Block
from models.folders.parameters import parameter_shapes
from models.spec import FeedForwardSpec, ModelSpec, NormSpec

LENGTHS = (16, 68, 128, 256, 512)
HEADS = 12
BLOCKS = ((768, 12), (384, 12))  # d_model, heads: BERT base, minilm
# Of the others' speed. Narrow products read and give float32 and have a scale a row, which others have not.
SLOWEST, SLOWEST_NARROW = 0.9, 0.8


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
                    "heed": lambda x=x, z=z, block=one: finish(block.finish(x, z)),
                    "operators": lambda x=x, z=z, block=apart: finish(block.finish(x, z)),
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
    missed = False
    for what, limit in (("float32", SLOWEST), ("narrow", SLOWEST_NARROW)):
        rows = [row for kind in found.values() for row in kind]
        ratios = [
            row["ratio"] for row in rows if (row.get("kind", "float32") == "float32") == (what == "float32")
        ]
        verdict = "met" if min(ratios) >= limit else "MISSED"
        missed |= min(ratios) < limit
        print(f"{what}: at its worst {min(ratios):.2f} of the best other (limit {limit}: {verdict})")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
