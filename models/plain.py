"""The whole attention of one block as one call: W_Q, W_K, W_V, attention of short sequences, W_O.

The common case of the common case: nothing between the projections and attention, float32, on a processor, no
long sequence. The same bits as one after another (`packed`); but a forward pass of a millisecond has no time
for the interpreter in between. Compiled code does it where it runs the linears too (`native`); where there is
none, the operators do as one TorchScript function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.fused import CALL_PAIRS
from models.kernels import tells_lse
from models.linear import Linear, product
from models.masks import band_of
from models.native import native
from models.packed import CAUSAL, ahead, all_plainly, is_plain, short_tokens
from models.parts import Part, Seen
from models.scripted import scripted
from models.spec import AttentionSpec

__all__ = ["Found", "Plain"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a call gives: z [N, d_model], the rows of q, k and v side by side, what was seen of each part."""

    z_ND: Tensor
    qkv: Tensor
    seen: list[Seen]


@dataclass(frozen=True, slots=True)
class Plain:
    """The attention of a block with fused projections; `output` None where there is no W_O."""

    spec: AttentionSpec
    heads: int
    key_heads: int
    width: int  # of a head's q, k and v alike
    projection: Linear
    output: Linear | None

    def __call__(self, x_ND: Tensor, parts: Sequence[Part]) -> Found | None:
        """Return what all parts of x [N, d_model], one after another, find; None if that takes more."""
        lengths = [part.length for part in parts]
        longest = max(lengths)
        if longest > short_tokens() or self.heads * longest**2 > CALL_PAIRS or x_ND.dtype != torch.float32:
            return None
        if not (is_plain(self.spec) and tells_lse(x_ND.device)):
            return None
        bands = {band_of(self.spec, queries=length, keys=length) for length in {*lengths}}
        if not bands <= {None, CAUSAL}:
            return None
        made = self._natively if native() is not None else self._scripted
        return made(x_ND, parts, causal=CAUSAL in bands)

    def _natively(self, x_ND: Tensor, parts: Sequence[Part], *, causal: bool) -> Found | None:
        ours, projection = native(), self.projection.panels
        output = None if self.output is None else self.output.panels
        if ours is None or projection is None or (self.output is not None and output is None):
            return None
        made = ours.block(
            x_ND,
            projection,
            output,
            parts,
            heads=self.heads,
            key_heads=self.key_heads,
            scale=self.spec.scale_for(self.width),
            causal=causal,
        )
        if made.projected is None or not made.finite:
            return None
        return Found(made.z.flatten(1), made.projected, made.seen)

    def _scripted(self, x_ND: Tensor, parts: Sequence[Part], *, causal: bool) -> Found | None:
        weight, bias, packed = (None, None, False) if self.output is None else self.output.stored
        z_ND, qkv, lse, weights, total = _as_one(
            x_ND,
            *self.projection.stored,
            weight,
            bias,
            packed,
            self.heads,
            self.key_heads,
            [part.rows.start for part in parts],
            [part.length for part in parts],
            [part.lse for part in parts],
            [part.weights for part in parts],
            self.spec.scale_for(self.width),
            causal,
            ahead(),
        )
        if not math.isfinite(total):
            return None
        seen = [
            Seen(lse[at] if part.lse else None, weights[at] if part.weights else None)
            for at, part in enumerate(parts)
        ]
        return Found(z_ND, qkv, seen)


def plain_block(
    x_ND: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    qkv_packed: bool,  # noqa: FBT001 - TorchScript takes no keywords
    output_weight: Tensor | None,
    output_bias: Tensor | None,
    output_packed: bool,  # noqa: FBT001
    heads: int,
    key_heads: int,
    starts: list[int],
    lengths: list[int],
    want_lse: list[bool],
    want_weights: list[bool],
    scale: float,
    causal: bool,  # noqa: FBT001
    hidden: Tensor,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], float]:
    """Return z, q beside k beside v, logsumexp and weights of each part, and the sum of z."""
    qkv = product(x_ND, qkv_weight, qkv_bias, qkv_packed)
    width = qkv.size(1) // (heads + 2 * key_heads)
    to_k, to_v = heads * width, (heads + key_heads) * width
    q = qkv[:, :to_k].view(-1, key_heads, heads // key_heads, width).permute(1, 2, 0, 3)
    k = qkv[:, to_k:to_v].view(-1, key_heads, width).transpose(0, 1)
    v = qkv[:, to_v:].view(-1, key_heads, width).transpose(0, 1)
    z, lse, weights = all_plainly(q, k, v, starts, lengths, want_lse, want_weights, scale, causal, hidden)
    z_ND = (z[0] if len(z) == 1 else torch.cat(z)).flatten(1)
    if output_weight is not None:
        z_ND = product(z_ND, output_weight, output_bias, output_packed)
    return z_ND, qkv, lse, weights, float(z_ND.sum(dtype=torch.float32))


_as_one = scripted(plain_block)
