"""Models of published shapes on a device: what is asked against z alone, and z against bare torch.

Bare torch by fused attention of one padded batch, and by FlashAttention of sequences one after another.

Two layers of Llama 3 8B are timed where a model has 32; their time by 16 is said beside, for who asks what a
whole model takes.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import varlen
from benchmarks.gpu.layer import seconds_of
from benchmarks.gpu.shapes import SHAPES, Bare, Shape, write_shape
from benchmarks.gpu.varlen import Packed
from models.encoder.graphs.shapes import TOKENS
from models.outputs import Selection, expand
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime

OUTPUTS = (("hidden",), ("hidden", "top_k"), ("hidden", "received"))
MOST_GRAPHED = max(TOKENS)  # tokens of a batch
SMALLER = 64  # on a machine without a GPU: only that it runs is seen


@dataclass(frozen=True, slots=True)
class Work:
    """Sequences of one length, so many, and what of it is asked of all layers."""

    shape: str
    length: int
    count: int


WORK = (
    Work("minilm", 17, 128),
    Work("minilm", 128, 128),
    Work("bert-base", 68, 1),
    Work("bert-base", 512, 32),
    Work("llama-3-8b", 4096, 1),
    Work("llama-3-8b", 32768, 1),
    Work("llama-3-8b", 131072, 1),
)


def items(card: ModelCard, shape: Shape, work: Work, outputs: tuple[str, ...]) -> list[Item]:
    """Return a batch of which all rows of the last layer are asked for."""
    chance = np.random.default_rng(0)
    x = chance.standard_normal((work.length, shape.d_model), dtype=np.float32)
    made = Selection(outputs=expand(outputs), layers=(shape.layers - 1,))
    return [Item(card=card, input=Tokens(embeddings=x), selection=made) for _ in range(work.count)]


def run(*, device: str, quick: bool, dtype: str = "bfloat16") -> list[dict[str, object]]:
    """Measure all models of SHAPES; print and return a row each."""
    rows: list[dict[str, object]] = []
    small = not device.startswith("cuda")
    for given in SHAPES:
        shape = given.smaller(SMALLER) if small else given
        with tempfile.TemporaryDirectory() as name:
            write_shape(Path(name) / shape.name, shape, device)
            runtime = TorchRuntime(Path(name), models=(shape.name,), device=device, dtype=dtype)
            launched = None
            if not small:  # the same launch by launch
                launched = TorchRuntime(
                    Path(name), models=(shape.name,), device=device, dtype=dtype, graphs=False
                )
            bare = Bare(shape, device, getattr(torch, dtype))
            for work in (one for one in WORK if one.shape == shape.name):
                own = Work(work.shape, max(2, work.length // SMALLER), work.count) if small else work
                rows += measure(runtime, launched, shape, bare, own, device, rounds=3 if quick else 9)
            del runtime, launched, bare
        if not small:
            torch.cuda.empty_cache()
    return rows


def floors(shape: Shape, bare: Bare, work: Work, device: str, rounds: int) -> tuple[float, float | None]:
    """Return the seconds of bare torch by fused attention and, where there is FlashAttention, by that."""
    dtype = bare.norm.dtype
    with torch.inference_mode():
        x = torch.randn(work.count, work.length, shape.d_model, device=device, dtype=dtype)
        fused = seconds_of(lambda: bare(x), device, rounds)
        width = shape.d_model // shape.heads
        if varlen.refusal(device, dtype, heads=shape.heads, key_heads=shape.kv_heads, width=width):
            return fused, None
        packed = Packed.of([work.length] * work.count, device)
        return fused, seconds_of(lambda: bare.packed(x.view(1, -1, shape.d_model), packed), device, rounds)


def measure(
    runtime: TorchRuntime,
    launched: TorchRuntime | None,
    shape: Shape,
    bare: Bare,
    work: Work,
    device: str,
    *,
    rounds: int,
) -> list[dict[str, object]]:
    """Measure one piece of work: bare torch in two ways, then each of OUTPUTS, with graphs and without."""
    floor, flash = floors(shape, bare, work, device, rounds)
    card, found = runtime.card(shape.name), []
    first = 0.0
    for outputs in OUTPUTS:
        batch = items(card, shape, work, outputs)
        answers = runtime.run(batch).answers
        assert all(isinstance(answer, Answer) for answer in answers), answers
        took = seconds_of(lambda batch=batch: runtime.run(batch), device, rounds)
        first = first or took
        apart = None
        if launched is not None and work.length * work.count <= MOST_GRAPHED:
            own = [replace(one, card=launched.card(shape.name)) for one in batch]
            apart = seconds_of(lambda own=own: launched.run(own), device, rounds)
        row = {
            "shape": shape.name,
            "tokens": work.length,
            "sequences": work.count,
            "outputs": outputs,
            "layers": shape.layers,
            "seconds": took,
            "seconds_of_whole_model": took * shape.whole / shape.layers,
            "floor_seconds": floor,
            "flash_seconds": flash,
            "launched_seconds": apart,
        }
        found.append(row)
        print(
            f"  {shape.name:10} {work.count:4} × {work.length:6} tokens  {' + '.join(outputs):18} "
            f"{took * 1e3:10.3f} ms  {took / first:5.2f} of the first  {floor / took:5.2f} of bare torch"
            + (f"  {flash / took:5.2f} of flash" if flash else "")
            + (f"  {apart / took:5.2f} of launch by launch" if apart else "")
            + (
                f"  (all {shape.whole} layers {took * 1e3 * shape.whole / shape.layers:,.0f} ms)"
                if shape.whole != shape.layers
                else ""
            ),
            flush=True,
        )
    return found
