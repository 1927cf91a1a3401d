"""What a model directory declares: the mechanism of one attention, and the stack around it.

No torch here: a specification is data, checked before any weight is read. Field names are those of
a Heed `config.json`; `models/folders/` translates Hugging Face configurations into the same classes.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from models.config import LARGEST_FLOAT, build, shown
from models.errors import SpecError
from models.mechanism import (
    ActivationName,
    AttentionSpec,
    PositionSpec,
    ProjectionSpec,
    RotarySpec,
    within,
)
from models.pooling_spec import PoolingSpec, PredictionSpec, todays_spelling

FORMAT = 1  # of a Heed `config.json`; its first key, `heed`, says which
MOST_LAYERS = 4096  # a table of parameter names is made from the number of layers before any file is read


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """Where a block normalises: `post` the residual, `pre` the sublayer, `sandwich` around it."""

    kind: Literal["none", "layer", "rms"] = "none"
    placement: Literal["post", "pre", "sandwich"] = "post"
    eps: float = 1e-5
    bias: bool = True
    unit_offset: bool = False  # Gemma stores weight − 1
    final: bool = False  # one more norm after the last block
    skip_first: bool = False  # none before the first layer's attention (ModernBERT, whose embedding has one)

    def __post_init__(self) -> None:
        if not (0 <= self.eps < 1):
            raise SpecError(f"norm.eps is {self.eps}; give a small number, 0 or more")
        if self.skip_first and (self.kind == "none" or self.placement != "pre"):
            raise SpecError("norm.skip_first is set; it needs norm.kind layer or rms and norm.placement pre")
        if self.kind == "none" and (self.final or self.unit_offset):
            raise SpecError(
                "norm.kind is none, but norm.final or norm.unit_offset is set; choose layer or rms"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardSpec:
    """The network after attention: W_2·act(W_1·x), or gated W_2·(act(W_g·x) ⊙ W_1·x)."""

    d_ff: int
    kind: Literal["mlp", "gated"] = "mlp"
    activation: ActivationName = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        within("feed_forward.d_ff", self.d_ff, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec:
    """The table that token ids read, and what is done before the first block."""

    vocabulary: int
    types: int = 0  # rows of a token-type table; 0 is none
    norm: bool = False
    scale: float = 1.0
    width: int | None = None  # when narrower than d_model, a linear layer widens it (ELECTRA)
    widened: bool = False  # that layer is there where it is as wide, too (ALBERT)

    def __post_init__(self) -> None:
        within("embedding.vocabulary", self.vocabulary, 1)
        within("embedding.types", self.types, 0)
        within("embedding.width", self.width, 1)
        if not abs(self.scale) <= LARGEST_FLOAT:
            raise SpecError(f"embedding.scale is {self.scale}; give a finite number, within float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A stack of `layers` blocks of attention on vectors of `d_model` numbers.

    `windows` and `right_windows`, when given, replace `attention.left_window` and `right_window` layer by
    layer; `rotary`, where it has an entry for a layer, `positions.theta` and `positions.scaling`. `shared`
    numbers the parameters that each layer has, where layers have them in common. `d_k`, `d_v` and `kv_heads`
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
    right_windows: tuple[int | None, ...] | None = None
    rotary: tuple[RotarySpec | None, ...] | None = None
    shared: tuple[int, ...] | None = None
    tied_output: bool = False  # the output table is the embedding table
    prediction: PredictionSpec = field(default_factory=PredictionSpec)

    def __post_init__(self) -> None:
        for name in ("d_model", "heads", "kv_heads", "d_k", "d_v"):
            within(name, getattr(self, name), 1)
        within("layers", self.layers, 1, MOST_LAYERS)
        if self.d_k is None and self.d_model % self.heads:
            raise SpecError(
                f"d_model {self.d_model} is not a multiple of heads {self.heads}; change one or give d_k"
            )
        if self.heads % self.key_heads:
            raise SpecError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        for name in ("windows", "right_windows", "rotary", "shared"):
            of_layers = getattr(self, name)
            if of_layers is not None and len(of_layers) != self.layers:
                raise SpecError(
                    f"{name} has {len(of_layers)} entries for {self.layers} layers; give one a layer"
                )
        for name in ("windows", "right_windows"):
            for layer, window in enumerate(getattr(self, name) or ()):
                within(f"{name}[{layer}]", window, 0)
        self._check_shared()
        if self.pooling is not None:
            self.pooling.out_width(self.d_model)
        self._check_blocks()
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
    def embedding_width(self) -> int:
        """Numbers in one row of the embedding, type and position tables."""
        return (self.embedding.width if self.embedding else None) or self.d_model

    @property
    def widens(self) -> bool:
        """Whether a linear layer follows the embedding."""
        own = self.embedding is not None and self.embedding.widened
        return own or self.embedding_width != self.d_model

    @property
    def parameter_sets(self) -> int:
        """How many layers' parameters there are: fewer than layers where they are shared."""
        return self.layers if self.shared is None else max(self.shared) + 1

    def parameters_of(self, layer: int) -> int:
        """Return which of the parameters a layer has."""
        return layer if self.shared is None else self.shared[layer]

    @property
    def blocks(self) -> bool:
        """Whether a layer is more than bare attention, so that `hidden` differs from `z`."""
        return self.residual or self.feed_forward is not None or self.norm.kind != "none"

    def attention_of(self, layer: int) -> AttentionSpec:
        """Return the mechanism of one layer, its own window put in."""
        usual = self.attention
        left = usual.left_window if self.windows is None else self.windows[layer]
        right = usual.right_window if self.right_windows is None else self.right_windows[layer]
        if (left, right) == (usual.left_window, usual.right_window):
            return usual
        return replace(usual, left_window=left, right_window=right)

    def rotary_of(self, layer: int) -> RotarySpec:
        """Return by how much a layer turns queries and keys, where positions are rotary."""
        own = None if self.rotary is None else self.rotary[layer]
        return own or RotarySpec(theta=self.positions.theta, scaling=self.positions.scaling)

    @property
    def turned(self) -> int:
        """Numbers of each head that rotary positions turn."""
        return int(self.key_width * self.positions.rotary_fraction)

    def _check_shared(self) -> None:
        """Raise SpecError unless each layer has the parameters of one before it, or the next there are."""
        most = 0
        for layer, number in enumerate(self.shared or ()):
            if not 0 <= number <= most:
                raise SpecError(f"shared[{layer}] is {number}; give a number from 0 to {most}")
            most = max(most, number + 1)
        if self.shared is not None and self.norm.skip_first:
            raise SpecError("shared is given; norm.skip_first needs each layer to have its own parameters")

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
        if self.rotary is not None and at.kind != "rotary":
            raise SpecError(
                f"rotary is given, but positions.kind is {at.kind}; make it rotary or leave it out"
            )
        if at.kind == "rotary":
            if self.turned < 2 or self.turned % 2:
                raise SpecError(
                    f"rotary positions turn {self.turned} of d_k {self.key_width} numbers; "
                    "the number must be even"
                )
            for rotary in {self.rotary_of(layer) for layer in range(self.layers)}:
                rotary.check(self.turned)
        if at.kind == "sinusoidal" and self.embedding_width % 2:
            raise SpecError(f"sinusoidal positions need an even width, not {self.embedding_width}")

    def _check_blocks(self) -> None:
        if self.parallel and (self.feed_forward is None or not self.residual):
            raise SpecError("parallel is set; it needs residual and a feed_forward beside the attention")
        if self.parallel and self.norm.kind != "none" and self.norm.placement != "pre":
            raise SpecError(f"parallel needs norm.placement pre, not {self.norm.placement}")
        if self.tied_output and self.embedding is None:
            raise SpecError("tied_output is set, but there is no embedding to tie the output table to")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read a parsed Heed `config.json`; unknown or contradictory fields raise SpecError."""
        version = config.get("heed", FORMAT)
        if type(version) is not int or version != FORMAT:
            raise SpecError(f"heed is {shown(version)}; this release reads version {FORMAT}")
        body = {key: value for key, value in config.items() if key != "heed"}
        if isinstance(body.get("pooling"), dict):
            body["pooling"] = todays_spelling(body["pooling"])
        spec: Self = build(cls, body)
        return spec

    def to_config(self) -> dict[str, Any]:
        """Return the `config.json` that `from_config` reads back to an equal specification."""
        return {"heed": FORMAT, **asdict(self)}
