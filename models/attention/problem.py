"""One sequence's attention: its rule, and checked and ready to be computed, softmax(scale·QKᵀ + masks)·V.

The written specification is the ONNX `Attention` operator (opset 23 to 25): scale, softcap, mask and bias,
softmax in float32 whatever the storage dtype, times V. The formula is equation 1 of Vaswani et al., 2017
(arXiv:1706.03762). A row that may attend nothing gives z 0 and logsumexp −inf, never NaN, and whether it
is such a row is read from the masks, never from a kernel.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attention.masks import Band, Bias, Visibility, band_of, mask_of
from models.compiled.native import Native, native
from models.edits.layer import LayerEdits
from models.edits.patterns import Patterns
from models.errors import SpecError
from models.mechanism import AttentionSpec


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention heads of a model, and where they are: `count` query heads, `key_heads` key heads."""

    device: torch.device
    dtype: torch.dtype
    count: int
    key_heads: int
    d_k: int
    d_v: int
    compiled: Native | None = field(default_factory=native, compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be attended and how scores are made, for one sequence in one layer.

    `own`: a mask, a bias, sinks or keys of another sequence come to the specification. `apart`: not what the
    sequence itself has of them, but what only its Problem tells.
    """

    spec: AttentionSpec
    own: bool = False
    apart: bool = False

    def simple(self, tokens: int) -> bool:
        """Whether weights of so many tokens are softmax(scale·QKᵀ), causal or not, and nothing else."""
        spec = self.spec
        if self.own or spec.similarity != "dot" or spec.softcap is not None or spec.add_self:
            return False
        return band_of(spec, queries=tokens, keys=tokens) in (None, Band(high=0))


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One sequence's attention, ready to be computed: made by `prepare`.

    `q`, `k`, `v` are what the mathematics reads (normalised for cosine); `queries`, `keys`, `values` what
    was given. `patterns` take the place of weights, after the softmax.
    Legend: H query heads, G key heads, T queries, S keys, D d_k, V d_v.
    """

    q: Tensor  # [H, T, D]
    k: Tensor  # [G, S, D]
    v: Tensor  # [G, S, V]
    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    spec: AttentionSpec
    visibility: Visibility
    sinks: Tensor | None  # float32 [H]
    patterns: Patterns | None = None

    @property
    def group(self) -> int:
        """How many query heads read one key head."""
        return self.q.shape[0] // self.k.shape[0]


def prepare(
    q_HTD: Tensor,
    k_GSD: Tensor,
    v_GSV: Tensor,
    *,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Bias | None = None,
    sinks: Tensor | None = None,
    edits: LayerEdits | None = None,
) -> Problem:
    """Return one sequence's attention as a Problem: query heads H a multiple of key heads G.

    All of one dtype: float32, float16 or bfloat16. `mask`: bool, true may attend, or float, added; [S],
    [T, S], [H or 1, T, S] or [1, H, T, S]. `bias` [H, T, S] float32, or a function that makes any rows of it.
    `sinks` [H]: a score per head that takes its share of the softmax and gives nothing. `edits`: of them
    those of scores and weights; what is done to z is not the problem's.
    Raises SpecError where shapes do not fit.
    """
    heads, queries, width = q_HTD.shape
    key_heads, keys, key_width = k_GSD.shape
    fits = key_heads and heads % key_heads == 0 and width == key_width and v_GSV.shape[:2] == k_GSD.shape[:2]
    if not fits or not width:
        raise SpecError(
            f"query {list(q_HTD.shape)}, key {list(k_GSD.shape)} and value {list(v_GSV.shape)} do not fit: "
            "query heads must be a multiple of key heads, query and key equally wide, keys as many as values"
        )
    q, k, v = q_HTD, k_GSD, v_GSV
    if spec.similarity == "cosine":
        q, k, v = _unit(q), _unit(k), v.float()
    if mask is not None:
        mask = mask_of(mask, heads=heads, queries=queries, keys=keys)
    if isinstance(bias, Tensor):
        bias = mask_of(bias, heads=heads, queries=queries, keys=keys)
    return Problem(
        q=_rows(q),
        k=_rows(k),
        v=_rows(v),
        queries=q_HTD,
        keys=k_GSD,
        values=v_GSV,
        scale=spec.scale_for(width),
        spec=spec,
        visibility=Visibility(
            heads, band_of(spec, queries=queries, keys=keys), mask, bias, edits.scores if edits else None
        ),
        sinks=None if sinks is None else sinks.float(),
        patterns=edits.patterns if edits else None,
    )


def _unit(x: Tensor) -> Tensor:
    """Return float32 vectors of length 1; a zero vector stays zero. Exact for any finite length."""
    x = x.float()
    peak = x.abs().amax(-1, keepdim=True)
    x = x / peak.masked_fill(peak == 0, 1.0)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(peak == 0, 1.0)


def _rows(x: Tensor) -> Tensor:
    """Return a tensor whose vectors are contiguous: the kernels read nothing else right."""
    return x if x.stride(-1) == 1 else x.contiguous()
