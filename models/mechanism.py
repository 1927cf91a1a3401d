"""The mechanism of one attention: how scores are made, where queries, keys and values come from, positions.

No torch here. Every class checks itself when it is made, whoever makes it: a file, a request or a test.
"""

import math
from dataclasses import dataclass
from typing import Literal

from models.config import LARGEST, LARGEST_FLOAT, LEAST_FLOAT
from models.errors import SpecError

BY_KEY = ("relative_key", "relative_key_query")  # what a distance adds to a score depends on q, or on q and k

ActivationName = Literal[
    "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid", "identity"
]


def within(where: str, value: int | None, least: int, most: int = LARGEST) -> None:
    """Raise SpecError unless a whole number is between `least` and `most`; None is left alone."""
    if value is not None and not least <= value <= most:
        raise SpecError(f"{where} is {value}; give a number from {least} to {most}")


def positive(where: str, value: float) -> None:
    """Raise SpecError unless a number is positive and finite."""
    if not (0 < value <= LARGEST_FLOAT):
        raise SpecError(f"{where} is {value}; give a positive finite number, within float32")


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
            if window is not None and not 0 <= window <= LARGEST:
                raise SpecError(
                    f"{name} is {window}; give the number of keys, 0 to {LARGEST}, or null for no window"
                )
        if self.softcap is not None and not LEAST_FLOAT <= self.softcap <= LARGEST_FLOAT:
            raise SpecError(
                f"softcap is {self.softcap}; give a positive finite number, within float32, or null for none"
            )
        if self.scale is not None and not abs(self.scale) <= LARGEST_FLOAT:
            raise SpecError(
                f"scale is {self.scale}; give a finite number, within float32, or null for the default"
            )
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
    activation: ActivationName = "gelu"  # of the `mlp` kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSpec:
    """How rotary positions are stretched beyond the lengths that a model first learned from.

    `linear` divides every rate by `factor` (Chen et al. 2023); `dynamic` raises theta for sequences longer
    than `original_positions`, by their own length; `llama3` divides slow rates alone; `yarn` (Peng et al.
    2023) those that turn fewer than `beta_slow` times in `original_positions`, and none that turn more than
    `beta_fast` times; `longrope` (Ding et al. 2024) has a divisor for each rate, and others for longer
    sequences.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    original_positions: int | None = None  # of all but linear: the lengths first learned from
    attention_factor: float | None = None  # of cos and sin; None: that of the paper, 1 where it has none
    low_frequency_factor: float = 1.0  # llama3
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: to whole rates
    short_factors: tuple[float, ...] = ()  # longrope: one a rate
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        where = "positions.scaling"
        for name in ("factor", "low_frequency_factor", "high_frequency_factor", "beta_fast", "beta_slow"):
            positive(f"{where}.{name}", getattr(self, name))
        if self.attention_factor is not None:
            positive(f"{where}.attention_factor", self.attention_factor)
        if self.kind != "linear" and self.original_positions is None:
            raise SpecError(
                f"{where}.original_positions is missing; {self.kind} needs the length it begins at"
            )
        within(f"{where}.original_positions", self.original_positions, 2)
        if self.kind == "llama3" and self.high_frequency_factor <= self.low_frequency_factor:
            raise SpecError(
                f"{where}.high_frequency_factor is {self.high_frequency_factor}; it must be over "
                f"low_frequency_factor, {self.low_frequency_factor}"
            )
        for name in ("short_factors", "long_factors"):
            for at, divisor in enumerate(getattr(self, name)):
                positive(f"{where}.{name}[{at}]", divisor)

    @property
    def by_length(self) -> bool:
        """Whether a sequence's angles depend on its length too, so that there is no one table of them."""
        return self.kind in ("dynamic", "longrope")

    def as_long(self, positions: int) -> int:
        """Return a length whose angles are those of a sequence of so many positions, of as few as can be."""
        assert self.original_positions is not None
        if positions <= self.original_positions:
            return self.original_positions
        return positions if self.kind == "dynamic" else self.original_positions + 1

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by: YaRN, section 3.4; LongRoPE, equation 3; else 1."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1 or self.kind not in ("yarn", "longrope"):
            return 1.0
        if self.kind == "yarn":
            return 0.1 * math.log(self.factor) + 1.0
        assert self.original_positions is not None
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_positions))


@dataclass(frozen=True, slots=True, kw_only=True)
class RotarySpec:
    """By how much each layer turns queries and keys, where layers differ."""

    theta: float = 10000.0
    scaling: ScalingSpec | None = None

    def __post_init__(self) -> None:
        positive("rotary.theta", self.theta)

    def check(self, turned: int) -> None:
        """Raise SpecError unless so many numbers of a head can be turned."""
        scaling = self.scaling
        if turned < 2 or turned % 2:
            raise SpecError(f"rotary positions turn {turned} numbers of a head; the number must be even")
        if scaling is None:
            return
        if scaling.kind == "yarn" and self.theta == 1:
            raise SpecError("yarn needs a theta other than 1, of which all rates are equal")
        if scaling.kind == "dynamic" and turned == 2:
            raise SpecError("dynamic scaling turns 2 numbers of a head; it needs 4 or more")
        for name in ("short_factors", "long_factors"):
            count = len(getattr(scaling, name))
            if scaling.kind == "longrope" and count != turned // 2:
                raise SpecError(
                    f"positions.scaling.{name} has {count} numbers; rotary positions have {turned // 2} rates"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionSpec:
    """Where a token stands: added to its embedding, turned into q and k, or biasing the scores."""

    kind: Literal[
        "none", "learned", "sinusoidal", "rotary", "alibi", "relative", "relative_key", "relative_key_query"
    ] = "none"
    max_positions: int | None = None
    offset: int = 0  # first row used of a learned table (RoBERTa keeps 2 for padding)
    padding: int | None = None  # learned: the id of a token that has no position; it reads row offset − 1
    skip_masked: bool = False  # learned: tokens that a mask [T] hides have none either (OPT)
    theta: float = 10000.0
    rotary_fraction: float = 1.0
    interleaved: bool = False  # rotary pairs (0,1),(2,3)… instead of halves
    scaling: ScalingSpec | None = None  # of rotary
    buckets: int = 32  # relative: T5 and MPNet buckets
    max_distance: int = 128
    bidirectional: bool = True
    table: bool = False  # relative, alibi: a learned table is added as well (MPNet)

    def __post_init__(self) -> None:
        within("positions.max_positions", self.max_positions, 1)
        within("positions.offset", self.offset, 0)
        within("positions.padding", self.padding, 0)
        positive("positions.theta", self.theta)
        if not 0 < self.rotary_fraction <= 1:
            raise SpecError(
                f"positions.rotary_fraction is {self.rotary_fraction}; give a number over 0, up to 1"
            )
        if self.scaling is not None and self.kind != "rotary":
            raise SpecError(f"positions.scaling goes with rotary; with {self.kind} leave it out")
        if self.kind == "relative":
            self._check_buckets()
        if self.table and self.kind not in ("relative", "alibi"):
            raise SpecError(f"positions.table goes with relative or alibi; with {self.kind} leave it out")
        learned = self.kind in ("learned", *BY_KEY) or self.table
        if learned and self.max_positions is None:
            raise SpecError(
                "positions are learned, but positions.max_positions is missing; give the table's positions"
            )
        if (self.padding is not None or self.skip_masked) and not (self.rows and self.offset):
            raise SpecError(
                "positions.padding and skip_masked need a learned table with an offset of 1 or more: "
                "what has no position reads the row before the first"
            )

    @property
    def distances(self) -> int:
        """Rows of the table of distances that each layer has where positions are relative keys; else 0."""
        if self.kind not in BY_KEY:
            return 0
        assert self.max_positions is not None
        return 2 * self.max_positions - 1

    @property
    def rows(self) -> int:
        """Rows of the learned table; 0 when there is none."""
        if self.kind != "learned" and not self.table:
            return 0
        assert self.max_positions is not None
        return self.max_positions + self.offset

    def _check_buckets(self) -> None:
        """Half of the buckets (of each direction) hold one distance each, the rest grow to `max_distance`."""
        within("positions.buckets", self.buckets, 4 if self.bidirectional else 2, 2**16)
        exact = self.buckets // (4 if self.bidirectional else 2)
        if self.bidirectional and self.buckets % 2:
            raise SpecError(f"positions.buckets is {self.buckets}; both directions need an even number")
        within("positions.max_distance", self.max_distance, exact + 1)
