"""What compiled calls read of a model: weights in panels, and what a block does with several of them.

C is told of them once, when they are made; nothing there would notice what does not fit.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.structures import ACTIVATIONS, NUMBERS, ROUGH_GELU, AttentionCall, FeedCall
from models.compiled.weights import Panels

PAGE, CACHE_LINE = 1024, 16  # numbers: 4 KiB, 64 bytes


class Norm(Protocol):
    """What compiled code reads of a norm; `rms` that it is root-mean-square, else layer norm."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool


@dataclass(frozen=True, slots=True)
class AngleTables:
    """Cosines and sines of the angles of positions, each [positions, half]; `readable`: by C.

    Raises ValueError where one is not as long or as wide as the other.
    """

    cosines: Tensor
    sines: Tensor
    positions: int = field(init=False)
    half: int = field(init=False)
    readable: bool = field(init=False)
    at: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        both = self.cosines, self.sines
        if self.cosines.ndim != 2 or self.cosines.shape != self.sines.shape:
            shapes = " and ".join(str(list(one.shape)) for one in both)
            raise ValueError(f"cosines and sines are [positions, half] both, not {shapes}")
        of_float32 = all(one.dtype == torch.float32 and one.is_cpu and one.is_contiguous() for one in both)
        made = (*self.cosines.shape, of_float32, (self.cosines.data_ptr(), self.sines.data_ptr()))
        for name, value in zip(("positions", "half", "readable", "at"), made, strict=True):
            object.__setattr__(self, name, value)


class Angles(Protocol):
    """By what angles 2·`half` numbers of each head are turned: halves, or neighbours where `interleaved`.

    `by_length`: whether they depend on how long a sequence is.
    """

    half: int
    interleaved: bool
    by_length: bool

    def tables(self, positions: int) -> AngleTables:
        """Return cosines and sines of a sequence of so many positions, float32 [positions or more, half]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projections:
    """W_QKV, what may be around it (a norm of x; norms of each head's q and k, a rotation), and W_O.

    `qkv` makes the heads of q, then of k, then of v; without `output` their z is the result.
    Raises ValueError where they do not fit each other.
    """

    qkv: Panels
    output: Panels | None
    heads: int
    key_heads: int
    before: Norm | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rotation: Angles | None = None
    call: AttentionCall = field(init=False)

    def __post_init__(self) -> None:
        width, inner = self.width, self.heads * self.width
        if self.heads % self.key_heads or self.qkv.out != inner + 2 * self.key_heads * width:
            raise ValueError(
                f"{self.qkv.out} numbers are no q, k and v of {self.heads} heads on {self.key_heads}"
            )
        if self.output is not None and (self.output.inner, self.output.columns) != (inner, self.qkv.columns):
            raise ValueError(f"W_O reads {self.output.inner} numbers, not {self.heads} heads of {width}")
        if self.rotation is not None and not 0 < 2 * self.rotation.half <= width:
            raise ValueError(f"a head of {width} numbers has not {2 * self.rotation.half} to turn")
        call = AttentionCall(projection=self.qkv.linear, heads=self.heads, key_heads=self.key_heads)
        call.width = call.value_width = width
        _put_norm(call.before, self.before, self.qkv.inner)
        _put_norm(call.query_norm, self.query_norm, width)
        _put_norm(call.key_norm, self.key_norm, width)
        call.q_head_stride = call.k_head_stride = call.v_head_stride = width
        call.projected_stride = row_stride(self.qkv.out)
        call.q_stride = call.k_stride = call.v_stride = call.projected_stride
        call.read_stride, call.z_heads_stride = row_stride(self.qkv.inner), row_stride(inner)
        object.__setattr__(self, "call", call)

    @property
    def width(self) -> int:
        """How many numbers a head has."""
        return self.qkv.out // (self.heads + 2 * self.key_heads)

    @property
    def row_bytes(self) -> int:
        """Of the longest row that one of its products reads as no float32."""
        return max(self.qkv.row_bytes, 0 if self.output is None else self.output.row_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What follows attention: y = after(s + fed(network(n))) of n = before(s), s = x + attended(z).

    The network is W_2·act(W_1·n), or gated: W_2·(act(W_g·n) ⊙ W_1·n). Norms that are None are left out. Where
    `post`, n is added in the place of s; where `parallel`, n = before(x). Raises ValueError where they do not
    fit each other.
    """

    up: Panels
    gate: Panels | None
    down: Panels
    activation: str
    attended: Norm | None = None
    before: Norm | None = None
    fed: Norm | None = None
    after: Norm | None = None
    post: bool = False
    parallel: bool = False
    call: FeedCall = field(init=False)

    @property
    def row_bytes(self) -> int:
        """Of the longest row that one of its products reads as no float32."""
        return max(one.row_bytes for one in (self.up, self.gate, self.down) if one is not None)

    @property
    def hidden_floats(self) -> int:
        """How many of them a row of what W_2 reads takes: it is bfloat16 where W_2 reads it so."""
        return self.down.row_bytes // 4 if self.call.rounded else int(self.call.hidden_stride)

    @property
    def reads_apart(self) -> bool:
        """Whether n has memory of its own, beside that of what is added."""
        return self.parallel or (self.before is not None and not self.post)

    def __post_init__(self) -> None:
        fits = self.down.inner == self.up.out and self.down.out == self.up.inner
        if not fits or (self.gate and (self.gate.inner, self.gate.out) != (self.up.inner, self.up.out)):
            layers = {"up": self.up, "gate": self.gate, "down": self.down}
            shapes = ", ".join(f"{name} {one.inner} → {one.out}" for name, one in layers.items() if one)
            raise ValueError(f"the layers of a feed-forward network do not fit each other: {shapes}")
        call = FeedCall(up=self.up.linear, down=self.down.linear, width=self.up.inner, parallel=self.parallel)
        call.sum_stride, call.hidden_stride = row_stride(self.up.inner), row_stride(self.up.out)
        if self.gate is not None:
            call.gate = self.gate.linear
        for name in ("attended", "before", "fed", "after"):
            _put_norm(getattr(call, name), getattr(self, name), self.up.inner)
        call.activation = ACTIVATIONS[self.activation]
        reads_bfloat16 = self.down.kept_as == "bfloat16" and self.down.row_bytes > 0
        if reads_bfloat16 and self.up.kept_as != "float32":
            call.rounded = 1
            call.activation = ROUGH_GELU if self.activation == "gelu" else call.activation
        object.__setattr__(self, "call", call)


def row_stride(width: int) -> int:
    """Return how far apart rows of so many numbers stand that a product reads.

    It reads fourteen rows side by side. A multiple of 4 KiB apart, all of them would have to stand in the
    same few lines of the core's nearest cache.
    """
    return width if width % PAGE else width + CACHE_LINE


def whole_lines(floats: int) -> int:
    """Return how many numbers fill as many lines of the cache as these begin."""
    return -(-floats // CACHE_LINE) * CACHE_LINE


def _put_norm(to: structures.Norm, norm: Norm | None, width: int) -> None:
    if norm is None:
        return
    if norm.weight.numel() != width or not (norm.bias is None or norm.bias.numel() == width):
        raise ValueError(f"a norm of rows of {width} numbers has as many weights, not {norm.weight.numel()}")
    to.weight, to.eps = norm.weight.data_ptr(), norm.eps
    to.kind = NUMBERS["ROOT_MEAN_SQUARE_NORM" if norm.rms else "LAYER_NORM"]
    if norm.bias is not None:
        to.bias = norm.bias.data_ptr()
