"""Whole models of published shapes with random weights, and bare torch doing the same products beside them.

minilm (6 layers of 384), bert-base (12 of 768), and two layers of Llama 3 8B (4096, 32 heads that read 8 key
heads, 14336 in the network), of which a model has 32. Numbers are random, so nothing is said of words;
what is timed is the same.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.gpu import varlen
from benchmarks.gpu.varlen import Packed
from models.folders.parameters import parameter_shapes
from models.mechanism import AttentionSpec, PositionSpec
from models.spec import FeedForwardSpec, ModelSpec, NormSpec


@dataclass(frozen=True, slots=True)
class Shape:
    """One model's shape; `layers` of it are timed, of `whole` that it has."""

    name: str
    d_model: int
    heads: int
    kv_heads: int
    d_ff: int
    layers: int
    whole: int
    decoder: bool = False

    @property
    def spec(self) -> ModelSpec:
        """The same as a specification: what a folder of it says."""
        norm = NormSpec(kind="rms", placement="pre", final=True) if self.decoder else NormSpec(kind="layer")
        kind = ("gated", "silu") if self.decoder else ("mlp", "gelu")
        return ModelSpec(
            d_model=self.d_model,
            heads=self.heads,
            kv_heads=self.kv_heads,
            layers=self.layers,
            residual=True,
            attention=AttentionSpec(causal=self.decoder),
            norm=norm,
            feed_forward=FeedForwardSpec(d_ff=self.d_ff, kind=kind[0], activation=kind[1]),
            positions=PositionSpec(kind="rotary") if self.decoder else PositionSpec(),
        )

    def smaller(self, by: int) -> "Shape":
        """Return a shape that a machine without a GPU runs: the same, but narrower."""
        return replace(self, d_model=self.heads * 8, d_ff=self.d_ff // by)


SHAPES = (
    Shape("minilm", 384, 12, 12, 1536, 6, 6),
    Shape("bert-base", 768, 12, 12, 3072, 12, 12),
    Shape("llama-3-8b", 4096, 32, 8, 14336, 2, 32, decoder=True),
)


def write_shape(folder: Path, shape: Shape, device: str) -> None:
    """Write a folder of random weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, size in parameter_shapes(shape.spec).items():
        made = torch.randn(size, generator=chance, device=device)
        made = made / math.sqrt(size[-1]) if len(size) > 1 else made * 0.02 + name.endswith("norm.weight")
        tensors[name] = made.to(torch.bfloat16).cpu().contiguous()
    (folder / "config.json").write_text(json.dumps(shape.spec.to_config()))
    save_file(tensors, folder / "model.safetensors")


class Bare:
    """A model of the shape in bare torch: its products and its attention, on one batch, no outputs.

    Attention by torch's fused kernels, of sequences of one length, or one after another by `varlen`; no other
    norms, no copies.
    """

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype) -> None:
        self.shape = shape
        width = shape.d_model // shape.heads
        chance = torch.Generator(device).manual_seed(1)

        def matrix(out: int, into: int) -> Tensor:
            made = torch.randn(out, into, generator=chance, device=device) / math.sqrt(into)
            return made.to(dtype)

        d, wide = shape.d_model, shape.d_ff * (2 if shape.decoder else 1)
        self.qkv = [matrix(d + 2 * shape.kv_heads * width, d) for _ in range(shape.layers)]
        self.out = [matrix(d, d) for _ in range(shape.layers)]
        self.up = [matrix(wide, d) for _ in range(shape.layers)]
        self.down = [matrix(d, shape.d_ff) for _ in range(shape.layers)]
        self.norm = torch.ones(d, device=device, dtype=dtype)

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """Return what leaves the last layer [B, T, D]."""

        def attend(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTGD, v_BTGD))
            grouped = self.shape.heads != self.shape.kv_heads
            z = F.scaled_dot_product_attention(q, k, v, is_causal=self.shape.decoder, enable_gqa=grouped)
            return z.transpose(1, 2)

        return self._through(x_BTD, attend)

    def packed(self, x_BTD: Tensor, packed: Packed, attend: varlen.Attend = varlen.attend) -> Tensor:
        """Return the same of sequences one after another, [1, N, D]."""
        return self._through(
            x_BTD, lambda *qkv: attend(*(x[0] for x in qkv), packed, causal=self.shape.decoder)
        )

    def _through(self, x_BTD: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        shape = self.shape
        batch, length, d = x_BTD.shape
        split = [shape.heads, shape.kv_heads, shape.kv_heads]
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            rows = F.linear(x_BTD, qkv).view(batch, length, sum(split), -1)
            z = attend(*torch.split(rows, split, dim=2))
            x_BTD = F.layer_norm(x_BTD + F.linear(z.reshape(batch, length, d), out), (d,))
            inner = F.linear(x_BTD, up)
            if shape.decoder:
                gate, value = inner.chunk(2, dim=-1)
                inner = F.silu(gate) * value
            else:
                inner = F.gelu(inner)
            x_BTD = F.layer_norm(x_BTD + F.linear(inner, down), (d,))
        return x_BTD
