"""How heads, positions and spans may be written in a request: the types of fields that address them.

Pydantic checks their form here; `heads` and `positions` resolve them against a model and a sequence.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field

from service.http.envelope import NullIsAbsent
from service.wire.counts import MOST_NAMES, MOST_SPANS

LARGEST = 2**31 - 1
LARGEST_FLOAT = float(np.finfo(np.float32).max)
MOST_INDICES = 1 << 17  # of a list of heads, of pairs, or of positions

Position = Annotated[int, Field(ge=0, le=LARGEST)]
Signed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Weight = Annotated[float, Field(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT, allow_inf_nan=False)]

Span = Annotated[list[Position], Field(min_length=2, max_length=2)]
Pair = Annotated[list[Signed], Field(min_length=2, max_length=2)]
Indices = Annotated[list[Signed], Field(min_length=1, max_length=MOST_INDICES, fail_fast=True)]
Pairs = Annotated[list[Pair], Field(min_length=1, max_length=MOST_INDICES, fail_fast=True)]
Spans = Annotated[list[Span], Field(min_length=1, max_length=MOST_SPANS, fail_fast=True)]
NamedSpans = Annotated[dict[Name, Span], Field(min_length=1, max_length=MOST_NAMES)]


class Strict(NullIsAbsent):
    """A part of a request: no field that is not known, no value of another type than the field's."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


class WeightedPairs(Strict):
    """Heads of several layers, each with a weight in `mixed`."""

    pairs: Pairs = Field(description="`[[layer, head], …]`, each once; negative layers count from the end")
    weights: Annotated[list[Weight], Field(min_length=1, max_length=MOST_INDICES, fail_fast=True)] | None = (
        Field(default=None, description="as many numbers; null: 1 each")
    )


class Rows(Strict):
    """A range of query positions, half-open; negative numbers count from the end."""

    start: Signed = Field(default=0, description="the first row; negative counts from the end")
    stop: Signed | None = Field(default=None, description="one past the last row; null: to the end")


Places = Annotated[list[Signed | Span | Name], Field(min_length=1, max_length=MOST_INDICES, fail_fast=True)]


class Outside(Strict):
    """All positions but these."""

    outside: Places | Name = Field(description="positions, ranges `[start, end]` and names of spans")


# Wherever positions stand. A list of numbers comes first, for it is what is long.
Positions = Indices | Places | Rows | Outside | Name
# Wherever several spans stand, each by itself.
Columns = Annotated[list[Span | Name], Field(min_length=1, max_length=MOST_SPANS, fail_fast=True)]
# Spans that are taken as one: a name, a range, or a list of both.
Region = Span | Columns | Name


class MassShare(Strict):
    """A row's mass on some keys over its mass on others."""

    of: Region = Field(description="a range `[start, end]`, the name of a span, or a list of these")
    over: Region = Field(description="the same; a row with nothing there has share 0")


Heads = Indices | Pairs | WeightedPairs | Name
Reduce = Literal["mean", "sum"]
