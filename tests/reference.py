"""Attention in float64, the slow way: one head, one query, one key at a time, everything held.

Obviously right rather than quick. Every output of the vocabulary that attention alone can make is derived
here from the full matrix; `models.attention.reference` and `models.attention.reductions` must agree with it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.mechanism import AttentionSpec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Full:
    """One sequence's attention: z [H, T, V], and scores and weights [H, T, S] whole."""

    z: Array
    scores: Array
    weights: Array
    lse: Array


def may_attend(spec: AttentionSpec, i: int, j: int) -> bool:
    """Whether the rule lets query i attend key j, masks aside."""
    diagonal = i + spec.causal_offset
    if spec.causal and j > diagonal:
        return False
    if spec.left_window is not None and j < diagonal - spec.left_window:
        return False
    if spec.right_window is not None and j > diagonal + spec.right_window:
        return False
    return not (spec.exclude_self and j == diagonal)


def similarity(spec: AttentionSpec, q: Array, k: Array) -> float:
    """q·k or the cosine of the angle between them (0 for a zero vector)."""
    if spec.similarity == "dot":
        return float(sum(a * b for a, b in zip(q, k, strict=True)))
    lengths = math.sqrt(sum(a * a for a in q)) * math.sqrt(sum(b * b for b in k))
    return 0.0 if lengths == 0 else float(sum(a * b for a, b in zip(q, k, strict=True))) / lengths


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    spec: AttentionSpec,
    mask: NDArray[np.generic] | None = None,
    bias: Array | None = None,
    sinks: Array | None = None,
) -> Full:
    """Attend q [H, T, D] to k [G, S, D] and v [G, S, V] in float64, every score by itself.

    Raises ValueError where `mask` does not broadcast to [1, H, T, S].
    """
    heads, queries, width = q.shape
    group = heads // k.shape[0]
    keys = k.shape[1]
    scale = (
        spec.scale if spec.scale is not None else (1 / math.sqrt(width) if spec.similarity == "dot" else 1)
    )
    masks = None if mask is None else np.broadcast_to(mask, (1, heads, queries, keys))[0]
    scores = np.full((heads, queries, keys), -math.inf)
    for h in range(heads):
        for i in range(queries):
            for j in range(keys):
                if not may_attend(spec, i, j):
                    continue
                if masks is not None and masks.dtype == np.bool_ and not masks[h, i, j]:
                    continue
                score = scale * similarity(spec, q[h, i], k[h // group, j])
                if spec.softcap is not None:
                    score = spec.softcap * math.tanh(score / spec.softcap)
                if masks is not None and masks.dtype != np.bool_:
                    score += float(masks[h, i, j])
                if bias is not None:
                    score += float(bias[h, i, j])
                scores[h, i, j] = score
    return _finish(scores, np.repeat(v, group, axis=0), spec=spec, sinks=sinks)


def _finish(scores: Array, v: Array, *, spec: AttentionSpec, sinks: Array | None) -> Full:
    """Softmax each row and mix the values; v [H, S, V] has a head for each query head."""
    heads, queries, keys = scores.shape
    weights = np.zeros_like(scores)
    lse = np.full((heads, queries), -math.inf)
    z = np.zeros((heads, queries, v.shape[-1]))
    for h in range(heads):
        for i in range(queries):
            row = scores[h, i]
            if not np.all(row == -math.inf):
                extra = [] if sinks is None else [float(sinks[h])]
                top = max([*row, *extra])
                total = sum(math.exp(s - top) for s in [*row, *extra])
                lse[h, i] = top + math.log(total)
                weights[h, i] = [math.exp(s - lse[h, i]) for s in row]
            for j in range(keys):
                if weights[h, i, j] > 0:
                    z[h, i] += weights[h, i, j] * v[h, j]
            own = i + spec.causal_offset
            if spec.add_self and 0 <= own < keys:
                z[h, i] += v[h, own]
    return Full(z, scores, weights, lse)


def outputs(full: Full, v: Array, *, k: int = 8) -> dict[str, Array]:
    """Every output that is a function of the full matrices, all heads and rows; v [G, S, V]."""
    heads, _, keys = full.weights.shape
    norms = np.linalg.norm(np.repeat(v, heads // v.shape[0], axis=0), axis=-1)
    logs = np.log(np.where(full.weights > 0, full.weights, 1.0))
    ordered = -np.sort(-full.weights, axis=-1)[..., : min(k, keys)]
    return {
        "weights": full.weights,
        "weights_mean": full.weights.mean(0),
        "weights_max": full.weights.max(0),
        "top_k_weights": ordered,
        "top_k_rest": full.weights.sum(-1) - ordered.sum(-1),
        "received": full.weights.sum(1),
        "entropy": -(full.weights * logs).sum(-1),
        "lse": full.lse,
        "scores": full.scores,
        "value_norms": full.weights * norms[:, None, :],
    }
