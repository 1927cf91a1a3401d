"""The envelopes of `attend` and `/v1/attention`: what may be asked, and how it is documented.

Pydantic checks the envelope only; tensors are numpy arrays by now, put there by `service.wire`, and pass
as they are. Every format's options are validated here, so that all formats are one API.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, InstanceOf, WithJsonSchema

from models.outputs import ALIASES, OUTPUTS, DtypeName
from service.http.fields.addresses import (
    LARGEST,
    LARGEST_FLOAT,
    Columns,
    Heads,
    Indices,
    MassShare,
    Name,
    NamedSpans,
    Position,
    Positions,
    Reduce,
    Signed,
    Spans,
    Strict,
)
from service.http.fields.edit_schemas import AttendEdits, AttentionEdits
from service.http.fields.predictions import Targets
from service.wire.counts import MOST_INPUTS

LEAST_FLOAT = float(np.finfo(np.float32).tiny)
MOST_TOP_K = 4096
LONGEST_DEADLINE_MS = 24 * 3600 * 1000

# The caller's own Q, K, V have no layers below, no W_O, no block around and no pooling.
ATTENTION_OUTPUTS = tuple(name for name, output in OUTPUTS.items() if not output.needs)


def _array_of(item: dict[str, Any], *, rank: int) -> dict[str, Any]:
    schema = item
    for _ in range(rank):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


_NUMBER: dict[str, Any] = {"type": "number"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_BIT: dict[str, Any] = {"type": "integer", "enum": [0, 1]}
_BIAS: dict[str, Any] = {"type": ["number", "null"]}
_Array = InstanceOf[np.ndarray]

Matrix = Annotated[_Array, WithJsonSchema(_array_of(_NUMBER, rank=2))]
PerHead = Annotated[
    _Array,
    WithJsonSchema({"anyOf": [_array_of(_NUMBER, rank=2), _array_of(_NUMBER, rank=3)]}),
]
TokenIds = Annotated[
    _Array, WithJsonSchema(_array_of({"type": "integer", "minimum": 0, "maximum": LARGEST}, rank=1))
]
TypeIds = TokenIds
KeyMask = Annotated[
    _Array,
    WithJsonSchema({"anyOf": [_array_of(item, rank=rank) for item in (_FLAG, _BIT) for rank in (1, 2)]}),
]
AnyMask = Annotated[
    _Array,
    WithJsonSchema({"anyOf": [_array_of(item, rank=rank) for item in (_FLAG, _BIAS) for rank in (1, 2, 3)]}),
]

Window = Position


def _names_of(outputs: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON schema of a list of outputs, from the vocabulary."""
    names = [*outputs, *ALIASES]
    return {"type": "array", "items": {"type": "string", "enum": names}, "minItems": 1, "maxItems": 64}


def _meanings(outputs: tuple[str, ...]) -> str:
    """Return the documentation of a list of outputs, from the vocabulary."""
    lines = [f"- `{name}` `{OUTPUTS[name].shape}`: {OUTPUTS[name].meaning}" for name in outputs]
    lines += [
        f"- `{name}`: {', '.join(f'`{full}`' for full in spelled)}" for name, spelled in ALIASES.items()
    ]
    return "\n".join(lines)


_Names = Annotated[list[Name], Field(min_length=1, max_length=64, fail_fast=True)]


class AttendInput(Strict):
    """One sequence: exactly one of `embeddings`, `token_ids` and `text`."""

    embeddings: Matrix | None = Field(default=None, description="`[T, d_model]`")
    token_ids: TokenIds | None = Field(default=None, description="`[T]`, where the model has a vocabulary")
    type_ids: TypeIds | None = Field(
        default=None, description="`[T]`, beside `token_ids` or `embeddings`: the segment of each; default 0"
    )
    text: str | None = Field(default=None, description="where the model has a tokenizer")
    pair: str | None = Field(default=None, description="a second text, after the model's separator")
    memory: Matrix | None = Field(default=None, description="`[S, d_model]`: makes it cross-attention")
    mask: KeyMask | None = Field(
        default=None, description="`[S]` (keys) or `[T, S]`; true or 1 may be attended, false or 0 not"
    )
    spans: Spans | NamedSpans | Literal["words"] | None = Field(
        default=None, description="instead of the request's `spans`, for this input"
    )
    targets: Targets | None = Field(
        default=None, description="instead of the request's `targets`, for this input"
    )
    edits: AttendEdits | None = Field(
        default=None, description="changes inside attention; the outputs are what is after them"
    )


class AttentionInput(Strict):
    """One problem: queries, keys and values as they are, with or without a head axis."""

    query: PerHead = Field(description="`[H, T, d_k]` or `[T, d_k]`")
    key: PerHead = Field(description="`[G, S, d_k]` or `[S, d_k]`; G divides H")
    value: PerHead = Field(description="`[G, S, d_v]` or `[S, d_v]`")
    mask: AnyMask | None = Field(
        default=None,
        description="`[S]`, `[T, S]` or `[H, T, S]`: booleans (true may be attended) or numbers that are "
        "added to the scores (null is −∞)",
    )
    edits: AttentionEdits | None = Field(
        default=None, description="changes inside attention; the outputs are what is after them"
    )


class _Options(Strict):
    """What every request may say about its answer."""

    rows: Positions | None = Field(
        default=None,
        description="which query positions to return: numbers (negative counts from the end), ranges "
        '`[start, end]` and names of spans; `{"start", "stop"}`; or `{"outside": …}`, all but these; '
        "default all",
    )
    top_k: int = Field(default=8, ge=1, le=MOST_TOP_K, description="k of `top_k` and of `next`")
    dtype: DtypeName = Field(
        default="float32", description="of the reply's tensors; bfloat16 in binary formats only"
    )
    deterministic: bool = Field(
        default=False, description="true: bit-equal whatever else is in the batch, at some cost"
    )
    deadline_ms: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST_DEADLINE_MS,
        description="give up after this long; never longer than the server's own limit, which is the default",
    )
    priority: int = Field(default=0, ge=-100, le=100, description="larger goes first")


class AttendOptions(_Options):
    """The options of `attend`: in the body of a JSON request, in the query of a binary one."""

    layers: Signed | Indices | Literal["all"] = Field(
        default=-1,
        description='a number (negative counts from the end), a list, or "all"; a list and "all" put L first '
        "in every output",
    )
    outputs: Annotated[_Names, WithJsonSchema(_names_of(tuple(OUTPUTS)))] = Field(
        default=["z", "weights"], description=_meanings(tuple(OUTPUTS))
    )
    heads: Heads | None = Field(
        default=None,
        description="which heads to return: numbers, of every layer; pairs `[[layer, head], …]`, which bring "
        'their layers: what has H has P in its place and no L; `{"pairs", "weights"}`; or the name of a '
        "head set of the model; default all",
    )
    spans: Spans | NamedSpans | Literal["words"] | None = Field(
        default=None,
        description="`[[start, end], …]`, half-open ranges: `weights` becomes `[H, N, N]`, summed over the "
        'queries and keys of each pair of spans; "words": the words of each text, between white space; '
        '`{"name": [start, end], …}`: names that may stand wherever positions do',
    )
    span_unit: Literal["tokens", "characters"] = Field(
        default="tokens",
        description="what the ends of ranges `[start, end]` count; characters for a text without pair",
    )
    columns: Columns | Name | None = Field(
        default=None,
        description="ranges `[start, end]` or names of spans: `mixed` is summed over the keys of each: "
        "`[T, N]`",
    )
    reduce: Reduce | None = Field(
        default=None, description="of `mixed`, over the chosen rows: `[S]`, or `[N]` with `columns`"
    )
    share: MassShare | None = Field(
        default=None, description="of which keys, over which, the output `share` is each row's mass"
    )
    tokens: bool = Field(
        default=True, description="false: the reply leaves out what tokens a text has and where they are"
    )
    targets: Targets | None = Field(
        default=None,
        description="the words whose `logprobs` are returned, token ids or strings of one token: `[T, N]`; "
        "default: of the token that follows each row",
    )
    truncate: bool | None = Field(
        default=None,
        description="true: cut a text longer than the model's positions, and say so; false: refuse it; "
        "default: as the server's TRUNCATE says",
    )


class AttentionOptions(_Options):
    """The options of `/v1/attention`: in the body of a JSON request, in the query of a binary one."""

    heads: Indices | None = Field(default=None, description="which heads to return; default all")
    scale: float | None = Field(
        default=None,
        ge=-LARGEST_FLOAT,
        le=LARGEST_FLOAT,
        allow_inf_nan=False,
        description="null: 1/√d_k for `dot`, 1 for `cosine`",
    )
    similarity: Literal["dot", "cosine"] = Field(default="dot", description="of queries and keys")
    causal: bool = Field(default=False, description="query i attends keys j ≤ i + `causal_offset`")
    causal_offset: Signed = Field(
        default=0, description="S − T aligns the last query with the last key; of windows too"
    )
    left_window: Window | None = Field(default=None, description="keys left of the diagonal; null: all")
    right_window: Window | None = Field(default=None, description="keys right of the diagonal; null: all")
    softcap: float | None = Field(
        default=None,
        ge=LEAST_FLOAT,
        le=LARGEST_FLOAT,
        allow_inf_nan=False,
        description="scores become softcap·tanh(scores/softcap)",
    )
    exclude_self: bool = Field(default=False, description="the key on the diagonal may not be attended")
    outputs: Annotated[_Names, WithJsonSchema(_names_of(ATTENTION_OUTPUTS))] = Field(
        default=["z", "weights"], description=_meanings(ATTENTION_OUTPUTS)
    )


class AttendRequest(AttendOptions):
    """`POST /v1/models/{model}/attend`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"text": "She sat on the bank of the river."}], "layers": "all"},
                {"inputs": [{"text": "attention"}], "outputs": ["z", "top_k"], "heads": [0, 3], "top_k": 4},
            ]
        }
    )

    inputs: list[AttendInput] = Field(
        fail_fast=True, min_length=1, max_length=MOST_INPUTS, description="sequences of any lengths"
    )


class AttentionRequest(AttentionOptions):
    """`POST /v1/attention`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {
                            "query": [[1.0, 0.0], [0.0, 1.0]],
                            "key": [[1.0, 0.0], [0.0, 1.0]],
                            "value": [[1.0], [2.0]],
                        }
                    ],
                    "causal": True,
                }
            ]
        }
    )

    inputs: list[AttentionInput] = Field(
        fail_fast=True, min_length=1, max_length=MOST_INPUTS, description="problems of any sizes"
    )
