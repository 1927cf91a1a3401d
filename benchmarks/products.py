"""Compiled products in float32, bfloat16 and int8 against oneDNN's and torch's, on one thread, for `kernels`.

Ours read rows of float32 and give rows of float32, whatever the weight is kept as. The others are given what
they like best: of bfloat16 rows that are bfloat16 already; of int8 they quantize rows themselves, all by one
scale, where ours has a scale a row.
"""

import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.turns import turns
from models.attention.torch_private import lay_out_linear
from models.compiled.native import Native
from models.encoder.linear import packed_product

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
KINDS = ("float32", "bfloat16", "int8")
ENGINES = ("x86", "onednn")  # of torch's quantized linears

Product = Callable[[Tensor], Tensor]


def others(kind: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[str, Product, bool]]:
    """Yield other products of the same weight: a name, a function, and whether it wants bfloat16 rows."""
    if kind == "int8":
        scales = weight.abs().amax(1).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are to go, and are what torch has
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        for engine in ENGINES:
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(quantized, bias)
            yield engine, lambda x, packed=packed: torch.ops.quantized.linear_dynamic(x, packed), False
        return
    own, own_bias = (weight.bfloat16(), bias.bfloat16()) if kind == "bfloat16" else (weight, bias)
    laid_out = lay_out_linear(own)
    yield "onednn", lambda x: packed_product(x, laid_out, own_bias), kind == "bfloat16"
    yield "torch", lambda x: F.linear(x, own, own_bias), kind == "bfloat16"


def products(ours: Native, rounds: int) -> list[dict[str, object]]:
    """Print and return the GFLOP/s of each linear kernel."""
    found: list[dict[str, object]] = []
    for kind in KINDS:
        print(f"\nlinear, {kind}, GFLOP/s     rows      heed   others            heed / best other")
        for out, inner in WEIGHTS:
            weight, bias = torch.randn(out, inner) / inner**0.5, torch.randn(out)
            panels = ours.lay_out(weight, bias, kept_as=kind)
            rivals = list(others(kind, weight, bias))
            for rows in ROWS:
                x = torch.randn(rows, inner)
                kernels: dict[str, Callable[[], object]] = {"heed": lambda x=x, p=panels: ours.linear(x, p)}
                for name, product, halves in rivals:
                    given = x.bfloat16() if halves else x
                    kernels[name] = lambda x=given, product=product: product(x)
                least = turns(kernels, rounds)
                speed = {name: 2e-9 * rows * out * inner / seconds for name, seconds in least.items()}
                ratio = speed["heed"] / max(rate for name, rate in speed.items() if name != "heed")
                found.append(
                    {"kind": kind, "in": inner, "out": out, "rows": rows, "speed": speed, "ratio": ratio}
                )
                rates = "".join(f"{rate:8.0f} {name}" for name, rate in speed.items() if name != "heed")
                print(
                    f"{f'{inner} → {out}':22} {rows:8}{speed['heed']:10.0f}{rates}{ratio:14.2f}", flush=True
                )
    return found
