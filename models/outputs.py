"""The vocabulary: every output that can be asked for, and what is asked of one sequence.

The model page, admission, the OpenAPI schema and the docs are all made from `OUTPUTS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

DtypeName = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

Source = Literal[
    "input", "projected", "scores", "top_k", "weights", "sums", "norms", "z", "rollout", "block", "words"
]
Need = Literal[
    "", "model", "heads", "entry", "projection", "block", "inside", "network", "pooling", "square", "words"
]

# What an output cannot be made without, as a refusal says it.
NEEDS: dict[Need, str] = {
    "model": "a model: what is of each head of your own queries is z",
    "heads": "a model, of whose layers heads are chosen",
    "entry": "a model, whose first block something enters",
    "projection": "an output projection W_O",
    "block": "a block: residual, norm or feed-forward around attention",
    "inside": "a block that our own code runs: residual, norm or feed-forward around attention",
    "network": "a feed-forward network that our own code runs",
    "pooling": "pooling that the model's folder declares",
    "square": "queries and keys of one sequence, and the layers of a model",
    "words": "words to predict, by an output table or a masked-language head",
}


@dataclass(frozen=True, slots=True)
class Output:
    """One servable output.

    `axes` are letters of the legend: H chosen heads, T chosen rows (query positions), S keys, k of top-k,
    K k of words, G key heads as stored, D width of z, E of pooled, Q d_k, V d_v, 6 of a profile. `layered`
    outputs get L in front when layers is a list. `of` is what it is made of: the lists of outputs that one
    module or another makes are read from it (`made_of`). `needs` is a key of NEEDS; "": any attention has it.
    `on_the_way`: compiled code makes it on the way to z, while rows of weights are in the core's cache.
    `joined`: made of all chosen heads together.
    """

    name: str
    axes: str
    meaning: str
    of: Source
    dtype: Literal["float", "int32"] = "float"
    layered: bool = True
    needs: Need = ""
    on_the_way: bool = False
    joined: bool = False

    @property
    def of_heads(self) -> bool:
        """Whether it speaks of the chosen heads."""
        return self.joined or not {"H", "G"}.isdisjoint(self.axes)

    @property
    def shape(self) -> str:
        """The shape as the docs write it, `[H, T, S]`."""
        names = {"D": "d_model", "E": "d_pooled", "Q": "d_k", "V": "d_v", "G": "H_kv", "K": "k"}
        return "[" + ", ".join(names.get(axis, axis) for axis in self.axes) + "]"


OUTPUTS: dict[str, Output] = {
    output.name: output
    for output in (
        Output("z", "TD", "the contextual vectors: concat over heads of weights·V, times W_O", "z"),
        Output("z_heads", "HTV", "each head's weights·V, before W_O", "z", needs="model"),
        Output("weights", "HTS", "softmax rows", "weights", on_the_way=True),
        Output(
            "weights_mean",
            "TS",
            "mean of weights over the chosen heads",
            "weights",
            on_the_way=True,
            joined=True,
        ),
        Output(
            "weights_max",
            "TS",
            "maximum of weights over the chosen heads",
            "weights",
            on_the_way=True,
            joined=True,
        ),
        Output(
            "top_k_keys",
            "HTk",
            "positions of the k largest weights of each row, descending",
            "top_k",
            dtype="int32",
            on_the_way=True,
        ),
        Output(
            "top_k_weights",
            "HTk",
            "the k largest weights of each row, descending",
            "top_k",
            on_the_way=True,
        ),
        Output("top_k_rest", "HT", "the mass of each row left out of its top k", "top_k", on_the_way=True),
        Output(
            "received",
            "HS",
            "column sums over the chosen rows: attention each key receives",
            "weights",
            on_the_way=True,
        ),
        Output("entropy", "HT", "entropy of each row, in nats", "weights", on_the_way=True),
        Output("lse", "HT", "logsumexp of each row's scores", "scores", on_the_way=True),
        Output(
            "scores",
            "HTS",
            "scaled, capped and masked, before the softmax; masked is −inf (null in JSON)",
            "scores",
        ),
        Output("queries", "HTQ", "after projection, positions applied", "projected"),
        Output(
            "keys",
            "GSQ",
            "after projection, positions applied; of the key heads that the chosen heads read",
            "projected",
        ),
        Output("values", "GSV", "after projection; of the key heads that the chosen heads read", "projected"),
        Output(
            "mixed",
            "TS",
            "Σ weight · A over the pairs of a head set; `columns`: `[T, N]`, with `reduce` `[S]` or `[N]`",
            "sums",
            layered=False,
            needs="heads",
            on_the_way=True,
        ),
        Output(
            "share",
            "HT",
            "each row's mass on some spans over that on others",
            "sums",
            needs="heads",
            on_the_way=True,
        ),
        Output(
            "head_profile",
            "H6",
            "self, previous, entropy, distance, its variance, induction: means over the chosen rows",
            "sums",
            needs="square",
        ),
        Output("value_norms", "HTS", "‖weight_ij · v_j‖, W_O not in it", "norms"),
        Output(
            "output_norms",
            "HTS",
            "‖weight_ij · v_j · W_O^h‖, the head's own rows of W_O in it",
            "norms",
            needs="projection",
        ),
        Output(
            "rollout",
            "TS",
            "attention rollout over the chosen layers",
            "rollout",
            layered=False,
            needs="square",
        ),
        Output(
            "embedded",
            "TD",
            "what enters the first block: embedded, positions and types added, normalised",
            "input",
            layered=False,
            needs="entry",
        ),
        Output(
            "mid",
            "TD",
            "what entered the block and what attention added, before the network's norm",
            "block",
            needs="inside",
        ),
        Output("feed_forward", "TD", "what the feed-forward network adds", "block", needs="network"),
        Output("residual", "TD", "the block's output, before any final norm", "block", needs="inside"),
        Output(
            "hidden", "TD", "the block's output after residual, norm and feed-forward", "block", needs="block"
        ),
        Output(
            "pooled",
            "E",
            "the sentence embedding by the model's own pooling config; of each of `spans`, `[N, d_pooled]`",
            "block",
            needs="pooling",
        ),
        Output("next_ids", "TK", "the k likeliest words, descending", "words", dtype="int32", needs="words"),
        Output("next_logprobs", "TK", "their log-probabilities, in nats", "words", needs="words"),
        Output(
            "logprobs",
            "T",
            "log-probability of the token that follows each row, or of `targets`, `[T, N]`",
            "words",
            needs="words",
        ),
    )
}

ALIASES: dict[str, tuple[str, ...]] = {
    "top_k": ("top_k_keys", "top_k_weights", "top_k_rest"),
    "next": ("next_ids", "next_logprobs"),
}


def made_of(*sources: Source) -> frozenset[str]:
    """Return the names of the outputs that are made of any of these."""
    return frozenset(name for name, output in OUTPUTS.items() if output.of in sources)


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Return output names with aliases spelled out, in order, each once."""
    spelled = (full for name in names for full in ALIASES.get(name, (name,)))
    return tuple(dict.fromkeys(spelled))


Spans = tuple[tuple[int, int], ...]  # half-open ranges of positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What `mixed` is: the sum over heads of weight · A, [T, S], or what is said of it here.

    `pairs` (layer, head), each once, and as many `weights`. `columns`: sums over each span of keys, [T, N].
    `reduce`: over the chosen rows, [S] or [N]. The rest is for maps of contacts (Rao et al., "Transformer
    protein language models are unsupervised structure learners", 2020): each head's map without its first and
    last `skip` positions is made symmetric (A + Aᵀ), corrected by average products (`apc`), weighted and
    summed; then `bias` is added and, where `sigmoid`, it goes through the logistic function.
    """

    pairs: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    columns: Spans | None = None
    reduce: Literal["mean", "sum"] | None = None
    symmetric: bool = False
    apc: bool = False
    skip: tuple[int, int] = (0, 0)
    bias: float = 0.0
    sigmoid: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is of whole maps of queries and keys of one sequence: no rows or columns are chosen."""
        return self.symmetric or self.apc or self.skip != (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What `share` is of: a row's mass on the spans `of` over that on the spans `over`; 0 where that is 0."""

    of: Spans
    over: Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a caller asked for, resolved against the model: no negative numbers, no names of groups.

    `layers` in the asked order; `layer_axis` is False when the caller gave a number. `heads` None: all.
    `rows` None: all query positions. `key_heads`: the stored key heads that the chosen heads read.
    `spans`: half-open token ranges of a self-attended sequence; `weights` becomes [H, N, N], summed over the
    queries and the keys of each pair of spans.
    `pairs`: (layer, head), each once; what has heads then has them in this order as one axis, and no axis of
    layers; `heads` is None then, and `layers` speaks of outputs without heads only.
    `mix` and `share`: what the outputs of these names are. `targets`: token ids, of which `logprobs` speaks.
    """

    outputs: tuple[str, ...]
    layers: tuple[int, ...] = (0,)
    layer_axis: bool = False
    heads: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    top_k: int = 8
    dtype: DtypeName = "float32"
    spans: Spans | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    mix: Mix | None = None
    share: Share | None = None
    targets: tuple[int, ...] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.outputs
