"""Attention as two widely used notebooks' libraries take it: BertViz and CircuitsVis."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["for_bertviz", "for_circuitsvis"]


def for_bertviz(weights: NDArray[Any], tokens: Sequence[str] | None) -> dict[str, Any]:
    """Return the arguments of `bertviz.head_view` and `model_view`: `attention`, one a layer, and `tokens`.

    `weights` [L, H, T, T] of all layers, or of some, or [H, T, T] of one; they become tensors of torch.
    Raises ImportError without it, though BertViz needs it as well; ValueError for weights of chosen rows.
    """
    layers = weights[None] if weights.ndim == 3 else weights
    _require_square(layers, "BertViz")
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise ImportError("BertViz takes tensors of torch: pip install torch") from None
    # Copied: arrays of a reply are read-only, which torch warns of.
    attention = [torch.from_numpy(np.array(layer[None], dtype=np.float32)) for layer in layers]
    return {"attention": attention, "tokens": _names(tokens, layers.shape[-1])}


def for_circuitsvis(
    weights: NDArray[Any], tokens: Sequence[str] | None, *, layer: int | None = None
) -> dict[str, Any]:
    """Return the arguments of `circuitsvis.attention.attention_heads`.

    `attention` is [H, T, T]: the weights of one layer, or of the pairs that were asked for; where `weights`
    has an axis of layers, `layer` says which of them. What lies above the diagonal is drawn where there is
    anything: CircuitsVis takes every model for a causal one. ValueError for weights of chosen rows.
    """
    if weights.ndim == 4:
        if layer is None:
            raise ValueError(f"there are weights of {len(weights)} layers; say which by layer=, from 0")
        weights = weights[layer]
    elif layer is not None:
        raise ValueError("layer= says which of several layers; there are weights of one")
    _require_square(weights, "CircuitsVis")
    return {
        "attention": np.array(weights, dtype=np.float32),
        "tokens": _names(tokens, weights.shape[-1]),
        "attention_head_names": [f"Head {head}" for head in range(weights.shape[0])],
        "mask_upper_tri": not np.triu(weights, 1).any(),
    }


def _require_square(weights: NDArray[Any], who: str) -> None:
    if weights.shape[-1] != weights.shape[-2]:
        raise ValueError(
            f"{who} draws whole matrices; these weights are {list(weights.shape)}: ask without rows and spans"
        )


def _names(tokens: Sequence[str] | None, count: int) -> list[str]:
    return list(tokens) if tokens is not None else [str(place) for place in range(count)]
