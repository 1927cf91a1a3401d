"""The structures that cross into C, and the proof that both sides mean the same by them.

Declared once more as `native_calls.h` has them. The library tells the name, offset and size of every field,
and the numbers that have names: where any differs from what is here, it was built for other structures.
"""

import ctypes
from ctypes import Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from itertools import count, takewhile
from typing import Any

__all__ = ["ACTIVATIONS", "NORMS", "AttentionCall", "FeedCall", "Linear", "Norm", "Sequence", "difference"]

ACTIVATIONS = {
    name: number
    for number, name in enumerate(
        ("identity", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "relu", "relu2")
    )
}
NORMS = {"layer_norm": 1, "root_mean_square_norm": 2}


def _all(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Linear(Structure):
    """A linear layer, its weight in panels."""

    __slots__ = ()  # so that a name which is no field raises, here and below
    _fields_ = [*_all(c_void_p, "weight bias"), *_all(c_int64, "inner out")]


class Norm(Structure):
    """A norm; all zero: none."""

    __slots__ = ()
    _fields_ = [*_all(c_void_p, "weight bias"), ("eps", c_float), ("kind", c_int32)]


class Sequence(Structure):
    """Where a sequence's rows stand, and where its logsumexp and weights go."""

    __slots__ = ()
    _fields_ = [*_all(c_int64, "start z_start length"), *_all(c_void_p, "lse weights")]


class AttentionCall(Structure):
    """W_QKV, attention of each sequence, W_O."""

    __slots__ = ()
    _fields_ = [
        *_all(c_void_p, "x projected q k v z_heads z scratch sequences"),
        *_all(Linear, "projection output"),
        *_all(c_int64, "sequence_count x_rows z_rows heads key_heads width"),
        *_all(c_int64, "x_stride projected_stride z_heads_stride q_stride k_stride v_stride"),
        *_all(c_int64, "q_head_stride k_head_stride v_head_stride scratch_floats"),
        ("scale", c_float),
        *_all(c_int32, "causal instructions threads"),
    ]


class FeedCall(Structure):
    """What a block does after its attention."""

    __slots__ = ()
    _fields_ = [
        *_all(c_void_p, "x z sum read hidden y"),
        *_all(Linear, "up gate down"),
        *_all(Norm, "before after"),
        *_all(c_int64, "rows width sum_stride hidden_stride"),
        *_all(c_int32, "activation instructions threads"),
    ]


class _Field(Structure):
    _fields_ = [*_all(c_char_p, "of name"), *_all(c_int64, "offset size")]


STRUCTURES = {
    "linear": Linear,
    "norm": Norm,
    "sequence": Sequence,
    "attention_call": AttentionCall,
    "feed_call": FeedCall,
}


def difference(library: ctypes.CDLL) -> str | None:
    """Return what a library has otherwise than this module, None where they agree."""
    first = ctypes.pointer(_Field.in_dll(library, "heed_fields"))
    told = takewhile(lambda field: field.name, map(first.__getitem__, count()))
    theirs = {f"{one.of.decode()}.{one.name.decode()}": (one.offset, one.size) for one in told}
    ours = {
        f"{of}.{name}": (getattr(structure, name).offset, getattr(structure, name).size)
        for of, structure in STRUCTURES.items()
        for name, *_ in structure._fields_
    }
    ours |= {f"number.{name.upper()}": (number, 0) for name, number in (ACTIVATIONS | NORMS).items()}
    other = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return ", ".join(other) or None
