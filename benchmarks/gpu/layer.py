"""The layer on a GPU against a CPU, in float32, bfloat16 and float16: the runtime alone, no HTTP.

Per dtype and batch: sequences and tokens a second, the device's memory at its peak, and two floors: bare
torch on the same device, tensors already there, no copies; one padded batch with a mask and fused attention,
and in halves FlashAttention of sequences one after another, without padding (`varlen`). What the runtime adds
is packing, the copies each way, and numpy. "Side by side" is the time of a batch where every slot has one to
do, as in a server that is full: one is computed while another is copied.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import varlen
from benchmarks.gpu.varlen import Packed
from benchmarks.workload import D_MODEL, HEADS, layer_weights, sequences, write_layer
from models.outputs import Selection, expand
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime

DTYPES = ("float32", "bfloat16", "float16")
BATCHES = (1, 8, 32, 128)
LENGTHS = ((8, 128), (8, 512), (4096, 4096), (32768, 32768), (131072, 131072))
MOST_TOKENS = 2**17  # of a batch
MOST_ON_A_PROCESSOR = 4096  # tokens of a sequence
SMALLEST = 8  # sequences, where only that it runs is to be seen
OUTPUTS = (("z",), ("z", "top_k"), ("z", "weights"))
MOST_WEIGHTS = 2**31  # elements; larger batches with full weights are left out


class Bare:
    """The layer in bare torch on the device, on one batch that is already there."""

    def __init__(self, device: str, dtype: str) -> None:
        kind = getattr(torch, dtype)
        tensors = {
            name.rsplit("attention.", 1)[1]: torch.from_numpy(array).to(device, kind)
            for name, array in layer_weights().items()
        }
        parts = ("query", "key", "value")
        self.weight = torch.cat([tensors[f"{part}.weight"] for part in parts])
        self.bias = torch.cat([tensors[f"{part}.bias"] for part in parts])
        self.out = tensors["output.weight"], tensors["output.bias"]

    def __call__(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Return z [B, T, D]."""
        batch, length, _ = x_BTD.shape
        qkv = F.linear(x_BTD, self.weight, self.bias).view(batch, length, 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(z.transpose(1, 2).reshape(batch, length, D_MODEL), *self.out)

    def packed(self, x_ND: Tensor, packed: Packed, attend: varlen.Attend = varlen.attend) -> Tensor:
        """Return z [N, D] of sequences one after another."""
        q, k, v = F.linear(x_ND, self.weight, self.bias).view(len(x_ND), 3, HEADS, -1).unbind(1)
        z = attend(q, k, v, packed, causal=False)
        return F.linear(z.reshape(len(x_ND), D_MODEL), *self.out)


def padded(inputs: list[np.ndarray], device: str, dtype: str) -> tuple[Tensor, Tensor | None]:
    """Return the sequences as one [B, T, D] tensor on the device, and the mask of what is not padding."""
    tensors = [torch.from_numpy(x) for x in inputs]
    x = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device, getattr(torch, dtype))
    lengths = torch.tensor([len(one) for one in tensors], device=device)
    if int(lengths.min()) == x.shape[1]:
        return x, None
    return x, (torch.arange(x.shape[1], device=device) < lengths[:, None])[:, None, None]


def floors(
    bare: Bare, inputs: list[np.ndarray], device: str, dtype: str, rounds: int
) -> tuple[float, float | None]:
    """Return the seconds of z padded and, where there is FlashAttention, packed."""
    kind = getattr(torch, dtype)
    with torch.inference_mode():
        x, mask = padded(inputs, device, dtype)
        fused = seconds_of(lambda: bare(x, mask), device, rounds)
        if varlen.refusal(device, kind, heads=HEADS, key_heads=HEADS, width=D_MODEL // HEADS):
            return fused, None
        rows = torch.cat([torch.from_numpy(one) for one in inputs]).to(device, kind)
        packed = Packed.of([len(one) for one in inputs], device)
        return fused, seconds_of(lambda: bare.packed(rows, packed), device, rounds)


def seconds_of(work: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median seconds of some runs, the device waited for, after two that warm it."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    times = []
    for number in range(rounds + 2):
        started = time.perf_counter()
        work()
        wait()
        if number >= 2:
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def side_by_side(runtime: TorchRuntime, work: list[Item], rounds: int) -> float:
    """Return the seconds of a batch when all slots of the device are kept busy."""
    count = rounds * runtime.slots
    with ThreadPoolExecutor(runtime.slots) as threads:
        list(threads.map(lambda _: runtime.run(work), range(2 * runtime.slots)))  # to warm each of them
        started = time.perf_counter()
        list(threads.map(lambda _: runtime.run(work), range(count)))
        return (time.perf_counter() - started) / count


def items(card: ModelCard, inputs: list[np.ndarray], outputs: tuple[str, ...]) -> list[Item]:
    """Return one Item a sequence."""
    chosen = Selection(outputs=expand(outputs))
    return [Item(card=card, input=Tokens(embeddings=x), selection=chosen) for x in inputs]


def measure(
    runtime: TorchRuntime, bare: Bare, device: str, dtype: str, *, rounds: int, smallest: bool = False
) -> list[dict[str, object]]:
    """Measure one dtype on one device; print and return a row a shape."""
    card = runtime.card("layer")
    rows: list[dict[str, object]] = []
    for lengths, size, outputs in (
        (lengths, size, outputs) for lengths in LENGTHS for size in BATCHES for outputs in OUTPUTS
    ):
        if size * lengths[0] > MOST_TOKENS or (device == "cpu" and lengths[1] > MOST_ON_A_PROCESSOR):
            continue
        if smallest and (size > SMALLEST or lengths != LENGTHS[0]):
            continue
        inputs = sequences(*lengths, count=size)
        tokens = sum(len(x) for x in inputs)
        elements = sum(HEADS * len(x) ** 2 for x in inputs)
        if "weights" in outputs and elements > MOST_WEIGHTS:
            continue
        work = items(card, inputs, outputs)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        answers = runtime.run(work).answers
        assert all(isinstance(answer, Answer) for answer in answers), answers
        took = seconds_of(lambda work=work: runtime.run(work), device, rounds)
        together = side_by_side(runtime, work, rounds)
        peak = torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None
        floor = flash = None
        if outputs == ("z",):
            floor, flash = floors(bare, inputs, device, dtype, rounds)
        row = {
            "device": device,
            "dtype": dtype,
            "lengths": lengths,
            "batch": size,
            "outputs": outputs,
            "seconds": took,
            "side_by_side_seconds": together,
            "sequences_per_second": size / took,
            "tokens_per_second": tokens / took,
            "floor_seconds": floor,
            "flash_seconds": flash,
            "peak_mib": peak,
        }
        rows.append(row)
        print(
            f"  {device:5} {dtype:9} T {lengths[0]:4}..{lengths[1]:4} × {size:3}  {' + '.join(outputs):12} "
            f"{took * 1e3:9.2f} ms  side by side {together * 1e3:9.2f} ms  {tokens / took:12,.0f} tokens/s"
            + (f"  {floor / took:5.2f} of the floor" if floor else "")
            + (f"  {flash / took:5.2f} of flash" if flash else "")
            + (f"  peak {peak:,.0f} MiB" if peak else ""),
            flush=True,
        )
    return rows


def run(
    *, device: str, quick: bool, dtypes: Sequence[str] = DTYPES, smallest: bool = False
) -> list[dict[str, object]]:
    """Measure the layer in some dtypes."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        write_layer(Path(name) / "layer")
        for dtype in dtypes:
            runtime = TorchRuntime(Path(name), models=("layer",), device=device, dtype=dtype)
            rounds = 5 if quick else 20
            rows += measure(runtime, Bare(device, dtype), device, dtype, rounds=rounds, smallest=smallest)
    return rows
