"""The `input` of `/v1/embeddings`: a text or token ids, or a list of either."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocol import Side
from service.errors import Invalid
from service.http.fields.addresses import LARGEST
from service.http.schemas import AttendInput
from service.wire.effort import spend

MOST_INPUTS = 2048
INPUT_US, ID_US = 3.0, 0.15  # what one takes to be read, in microseconds
KINDS = "input must be a text, a list of texts, a list of token ids, or a list of such lists"

_TEXT: dict[str, Any] = {"type": "string"}
_IDS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": LARGEST},
    "minItems": 1,
}
INPUT: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_INPUTS},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_INPUTS},
    ]
}


def cut_ids(
    inputs: list[AttendInput], longest: int, *, side: Side = "right"
) -> tuple[list[AttendInput], int]:
    """Return inputs whose token ids are at most so many, and how many were cut off; texts are cut later."""
    kept_at = slice(longest) if side == "right" else slice(-longest, None)
    cut = 0
    kept = []
    for one in inputs:
        if one.token_ids is not None and len(one.token_ids) > longest:
            cut += len(one.token_ids) - longest
            one = AttendInput(token_ids=one.token_ids[kept_at])
        kept.append(one)
    return kept, cut


def embedded_inputs(given: Any) -> list[AttendInput]:
    """Return the inputs, one for a text or a list of token ids; raises Invalid."""
    if isinstance(given, str):
        return [AttendInput(text=given)]
    if not isinstance(given, list) or not given:
        raise Invalid(KINDS)
    spend(sum(INPUT_US + ID_US * len(one) for one in given[: MOST_INPUTS + 1] if isinstance(one, list)))
    spend(ID_US * len(given))
    if is_ids(given):
        return [AttendInput(token_ids=ids_of(given, "input"))]
    if len(given) > MOST_INPUTS:
        raise Invalid(f"input has {len(given)} items; give at most {MOST_INPUTS}")
    texts = isinstance(given[0], str)
    for index, one in enumerate(given):
        if not (isinstance(one, str) if texts else isinstance(one, list) and one and is_ids(one)):
            kind = "a text" if texts else "a list of token ids, none empty"
            raise Invalid(f"input[{index}] is not {kind}; {KINDS}")
    spend(INPUT_US * len(given))
    if texts:
        return [AttendInput(text=one) for one in given]
    return [AttendInput(token_ids=ids_of(one, f"input[{index}]")) for index, one in enumerate(given)]


def is_ids(given: list[Any]) -> bool:
    """Whether all of a list are whole numbers."""
    return all(type(one) is int for one in given)


def ids_of(given: list[int], path: str) -> NDArray[np.int64]:
    """Return token ids; raises Invalid for one that is beyond all numbers of ids."""
    try:
        return np.array(given, dtype=np.int64)
    except OverflowError:
        raise Invalid(f"{path} has a token id beyond {LARGEST}") from None
