"""Edits of attention as callers write them: their form, and how it is documented. `edits` resolves them.

What a verb takes and needs is checked there, so that a refusal names the verb.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field, InstanceOf, WithJsonSchema

from models.edit import VERBS, Pattern
from service.http.fields.addresses import (
    LARGEST,
    LARGEST_FLOAT,
    Heads,
    Indices,
    Name,
    Positions,
    Signed,
    Strict,
    Weight,
)
from service.wire.counts import MOST_EDITS

PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
OF_ATTENTION = ("add", "block", "pattern", "scale")  # verbs of /v1/attention, which has no other inputs' z


def _lists_of_numbers(rank: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number"}
    for _ in range(rank):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


def _one_of(names: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(names)})


_Matrix = Annotated[
    InstanceOf[np.ndarray], WithJsonSchema({"anyOf": [_lists_of_numbers(2), _lists_of_numbers(3)]})
]
_POSITIONS = (
    "must be a list of positions, ranges [start, end] and names of spans, or one name, or "
    '{"start": number, "stop": number or null}, or {"outside": such a list}'
)
_Value = Weight | Annotated[Name, _one_of(PATTERNS)] | _Matrix


def _value_of(*, more: str = "") -> str:
    names = ", ".join(f'"{name}"' for name in PATTERNS)
    return (
        f"of `add` and `scale` a number; of `pattern` {names}, or weights `[T', S]` (of every head alike) or "
        f"`[P, T', S]`, T' the chosen rows, P the heads{more}"
    )


class Edited(Strict):
    """What edits have alike: where they are in the rows of some heads."""

    remedies: ClassVar[dict[str, str]] = {
        "layers": 'must be a number, a list of numbers, or "all"',
        "heads": "must be a list of numbers, or of pairs [layer, head], or the name of a head set",
        "queries": _POSITIONS,
        "keys": _POSITIONS,
        "value": f"must be a number within ±{LARGEST_FLOAT:.8e}, the name of a pattern, or a matrix",
    }

    queries: Positions | None = Field(
        default=None,
        description="of which rows: positions (negative counts from the end), ranges `[start, end]` and "
        'names of spans; `{"start", "stop"}`; or `{"outside": …}`, all but these; default all',
    )
    keys: Positions | None = Field(
        default=None,
        description="of `add` and `block`: of which keys, in the words of `queries`; default all",
    )


class AttentionEdit(Edited):
    """A change inside attention over queries, keys and values of the caller's own."""

    edit: Annotated[Name, _one_of(OF_ATTENTION)] = Field(
        description="`add` to scores, `block` them, put a `pattern` in place of weights, `scale` z of heads; "
        "in this order"
    )
    heads: Indices | None = Field(default=None, description="of which heads; default all")
    value: _Value | None = Field(default=None, description=_value_of())


class AttendEdit(Edited):
    """A change inside attention of a model."""

    edit: Annotated[Name, _one_of(VERBS)] = Field(
        description="`add` to scores, `block` them, put a `pattern` in place of weights, `set` z of heads, "
        "take it `from` another input, `scale` it; in this order in every layer"
    )
    layers: Signed | Indices | Literal["all"] | None = Field(
        default=None, description='of which layers: a number, a list, or "all"; none beside pairs'
    )
    heads: Heads | None = Field(
        default=None,
        description="of which heads: numbers, of each of `layers`; pairs `[[layer, head], …]`; or the name "
        "of a head set, whose weights do not count here; default all of `layers`",
    )
    value: _Value | None = Field(
        default=None, description=_value_of(more="; of `set` z of the heads, `[P, T', d_v]`")
    )
    input: Annotated[int, Field(ge=0, le=LARGEST)] | None = Field(
        default=None,
        description="of `from`: the number of the input whose z of the same heads and rows is taken",
    )


GivenEdit = AttentionEdit | AttendEdit
AttentionEdits = Annotated[list[AttentionEdit], Field(max_length=MOST_EDITS)]
AttendEdits = Annotated[list[AttendEdit], Field(max_length=MOST_EDITS)]
