"""What a model directory declares: the mechanism of one attention, and the stack around it.

No torch here: a specification is data, checked before any weight is read. Field names are those of
a Heed `config.json`; `models/families.py` translates Hugging Face configurations into the same classes.
"""

import math
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from models.errors import SpecError

__all__ = [
    "AttentionSpec",
    "EmbeddingSpec",
    "FeedForwardSpec",
    "ModelSpec",
    "NormSpec",
    "PoolingSpec",
    "PositionSpec",
    "ProjectionSpec",
]

LARGEST = 2**31 - 1  # every integer of a specification has an upper bound


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """How scores are made from queries and keys; everything a softmax row depends on but the vectors.

    Order of application, that of the ONNX `Attention` operator (opset 23): scale, softcap, mask and
    bias, softmax. Query i stands on the diagonal at key j = i + `causal_offset`; `causal` allows
    j up to the diagonal, windows count keys to either side of it.
    """

    similarity: Literal["dot", "cosine"] = "dot"
    scale: float | None = None  # None: 1/√d_k for dot, 1 for cosine
    causal: bool = False
    causal_offset: int = 0
    left_window: int | None = None
    right_window: int | None = None
    softcap: float | None = None  # scores become softcap·tanh(scores/softcap)
    exclude_self: bool = False  # the key on the diagonal may not be attended
    add_self: bool = False  # the value on the diagonal is added to z as it is

    def __post_init__(self) -> None:
        for name in ("left_window", "right_window"):
            window = getattr(self, name)
            if window is not None and window < 0:
                raise SpecError(
                    f"{name} is {window}; give the number of keys, 0 or more, or null for no window"
                )
        if self.softcap is not None and not (self.softcap > 0 and math.isfinite(self.softcap)):
            raise SpecError(f"softcap is {self.softcap}; give a positive finite number, or null for none")
        if self.scale is not None and not math.isfinite(self.scale):
            raise SpecError(f"scale is {self.scale}; give a finite number, or null for the default")
        if abs(self.causal_offset) > LARGEST:
            raise SpecError(f"causal_offset is {self.causal_offset}; the limit is ±{LARGEST}")

    def scale_for(self, d_k: int) -> float:
        """Return the number that scores are multiplied by, for keys of `d_k` numbers."""
        if self.scale is not None:
            return self.scale
        return 1.0 / math.sqrt(d_k) if self.similarity == "dot" else 1.0

    @property
    def positional(self) -> bool:
        """Whether which keys may be attended depends on where query and key stand."""
        return (
            self.causal or self.exclude_self or self.left_window is not None or self.right_window is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionSpec:
    """How queries, keys, values and the output are made; `mlp` is linear, activation, linear."""

    query: Literal["linear", "identity", "mlp"] = "linear"
    key: Literal["linear", "identity", "mlp"] = "linear"
    value: Literal["linear", "identity", "mlp", "key"] = "linear"  # "key": the value is the key
    output: Literal["linear", "identity"] = "linear"
    bias: bool = True
    output_bias: bool = True
    qk_norm: Literal["none", "rms", "layer"] = "none"  # per head, before positions
    activation: str = "gelu"  # of the `mlp` kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionSpec:
    """Where a token stands: added to its embedding, turned into q and k, or biasing the scores."""

    kind: Literal["none", "learned", "sinusoidal", "rotary", "alibi", "relative"] = "none"
    max_positions: int | None = None
    offset: int = 0  # first row used of a learned table (RoBERTa keeps 2 for padding)
    theta: float = 10000.0
    rotary_fraction: float = 1.0
    interleaved: bool = False  # rotary pairs (0,1),(2,3)… instead of halves
    buckets: int = 32  # relative: T5 and MPNet buckets
    max_distance: int = 128
    bidirectional: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """Where a block normalises: `post` the residual, `pre` the sublayer, `sandwich` around it."""

    kind: Literal["none", "layer", "rms"] = "none"
    placement: Literal["post", "pre", "sandwich"] = "post"
    eps: float = 1e-5
    bias: bool = True
    unit_offset: bool = False  # Gemma stores weight − 1
    final: bool = False  # one more norm after the last block


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardSpec:
    """The network after attention: W_2·act(W_1·x), or gated W_2·(act(W_g·x) ⊙ W_1·x)."""

    d_ff: int
    kind: Literal["mlp", "gated"] = "mlp"
    activation: str = "gelu"
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec:
    """The table that token ids read, and what is done before the first block."""

    vocabulary: int
    types: int = 0  # rows of a token-type table; 0 is none
    norm: bool = False
    scale: float = 1.0
    width: int | None = None  # when narrower than d_model, a linear layer widens it (ELECTRA)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingSpec:
    """One vector from a sequence, as the model's own pooling configuration says."""

    mode: Literal["mean", "cls", "max", "last", "mean_sqrt_len"] = "mean"
    normalize: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A stack of `layers` blocks of attention on vectors of `d_model` numbers.

    `windows`, when given, replaces `attention.left_window` layer by layer. `d_k`, `d_v` and `kv_heads`
    default to d_model/heads, d_k and heads.
    """

    d_model: int
    heads: int = 1
    layers: int = 1
    kv_heads: int | None = None
    d_k: int | None = None
    d_v: int | None = None
    attention: AttentionSpec = field(default_factory=AttentionSpec)
    projection: ProjectionSpec = field(default_factory=ProjectionSpec)
    positions: PositionSpec = field(default_factory=PositionSpec)
    norm: NormSpec = field(default_factory=NormSpec)
    residual: bool = False
    parallel: bool = False  # attention and feed-forward read the same input (GPT-NeoX)
    feed_forward: FeedForwardSpec | None = None
    embedding: EmbeddingSpec | None = None
    pooling: PoolingSpec | None = None
    windows: tuple[int | None, ...] | None = None
    tied_output: bool = False  # the output table is the embedding table

    def __post_init__(self) -> None:
        for name in ("d_model", "heads", "layers", "kv_heads", "d_k", "d_v"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LARGEST:
                raise SpecError(f"{name} is {value}; give a number from 1 to {LARGEST}")
        if self.d_k is None and self.d_model % self.heads:
            raise SpecError(
                f"d_model {self.d_model} is not a multiple of heads {self.heads}; change one or give d_k"
            )
        if self.heads % self.key_heads:
            raise SpecError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.windows is not None and len(self.windows) != self.layers:
            raise SpecError(
                f"windows has {len(self.windows)} entries for {self.layers} layers; give one a layer"
            )
        self._check_projections()
        self._check_positions()

    @property
    def key_heads(self) -> int:
        """How many heads the keys and values have."""
        return self.kv_heads or self.heads

    @property
    def key_width(self) -> int:
        """Numbers in one head's query and key: d_k."""
        return self.d_k or self.d_model // self.heads

    @property
    def value_width(self) -> int:
        """Numbers in one head's value: d_v."""
        return self.d_v or self.key_width

    @property
    def blocks(self) -> bool:
        """Whether a layer is more than bare attention, so that `hidden` differs from `z`."""
        return self.residual or self.feed_forward is not None or self.norm.kind != "none"

    def attention_of(self, layer: int) -> AttentionSpec:
        """Return the mechanism of one layer, its own window put in."""
        if self.windows is None or self.windows[layer] == self.attention.left_window:
            return self.attention
        return AttentionSpec(**{**asdict(self.attention), "left_window": self.windows[layer]})

    def _check_projections(self) -> None:
        widths = {
            "query": self.heads * self.key_width,
            "key": self.key_heads * self.key_width,
            "value": self.key_heads * self.value_width,
            "output": self.heads * self.value_width,
        }
        for name, width in widths.items():
            if getattr(self.projection, name) == "identity" and width != self.d_model:
                raise SpecError(
                    f"projection.{name} is identity, but d_model is {self.d_model} and the {name} "
                    f"is {width} wide; make them equal or use linear"
                )
        if self.projection.value == "key" and self.value_width != self.key_width:
            raise SpecError(f"projection.value is key, but d_v {self.d_v} differs from d_k {self.key_width}")
        if self.attention.add_self and self.attention.causal_offset:
            raise SpecError("add_self needs causal_offset 0: the own token is the one on the diagonal")

    def _check_positions(self) -> None:
        at = self.positions
        if at.kind == "learned" and at.max_positions is None:
            raise SpecError(
                "positions.kind is learned, but positions.max_positions is missing; give the table's rows"
            )
        if at.kind == "rotary":
            turned = int(self.key_width * at.rotary_fraction)
            if turned < 2 or turned % 2:
                raise SpecError(
                    f"rotary positions turn {turned} of d_k {self.key_width} numbers; the number must be even"
                )
        if at.kind == "sinusoidal" and self.d_model % 2:
            raise SpecError(f"sinusoidal positions need an even d_model, not {self.d_model}")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read a parsed Heed `config.json`; unknown or contradictory fields raise SpecError."""
        body = {key: value for key, value in config.items() if key != "heed"}
        spec: Self = _build(cls, body, where="")
        return spec

    def to_config(self) -> dict[str, Any]:
        """Return the `config.json` that `from_config` reads back to an equal specification."""
        return {"heed": 1, **asdict(self)}


def _build(cls: Any, body: object, *, where: str) -> Any:
    """Make one specification class from parsed JSON, naming the field at fault by its path."""
    if not isinstance(body, dict):
        raise SpecError(f"{where or 'the configuration'} must be an object")
    known = {f.name: f for f in fields(cls)}
    for name in body:
        if name not in known:
            raise SpecError(f"unknown field {where}{name}; known here: {', '.join(known)}")
    hints = get_type_hints(cls)
    for name, one in known.items():
        if name not in body and one.default is MISSING and one.default_factory is MISSING:
            raise SpecError(f"{where}{name} is missing")
    return cls(**{name: _value(hints[name], value, where=f"{where}{name}") for name, value in body.items()})


def _value(hint: Any, value: object, *, where: str) -> Any:
    """Check one parsed JSON value against a type hint and return it as that type."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
        return _value(inner, value, where=where)
    if origin is Literal:
        if value not in get_args(hint):
            raise SpecError(f"{where} is {value!r:.40}; choose one of {', '.join(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"{where} must be a list")
        inner = get_args(hint)[0]
        return tuple(_value(inner, v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if is_dataclass(hint):
        return _build(hint, value, where=f"{where}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint:
        raise SpecError(f"{where} is {value!r:.40}; it must be of type {hint.__name__}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        raise SpecError(f"{where} is {value}; the limit is {LARGEST}")
    return value
