"""`inputs` of text-embeddings-inference's requests: a text or token ids, or a list of either, mixed."""

from typing import Any

from service.errors import Empty, Invalid
from service.http.schemas import AttendInput
from service.http.texts.inputs import ID_US, INPUT_US, MOST_INPUTS, ids_of, is_ids
from service.wire.effort import spend

EMPTY = "`inputs` cannot be empty"
KINDS = (
    "must be a text or a list of token ids, whole numbers from 0; inputs is one of these, or a list of them"
)


def inputs_of(given: Any) -> list[AttendInput]:
    """Return the inputs, one for a text or a list of token ids; raises Empty, Invalid."""
    if not isinstance(given, list):
        return [_input(given, "inputs")]
    spend(sum(INPUT_US + ID_US * len(one) for one in given[: MOST_INPUTS + 1] if isinstance(one, list)))
    spend(ID_US * len(given))
    if is_ids(given):
        return [_input(given, "inputs")]
    require_few(len(given))
    spend(INPUT_US * len(given))
    return [_input(one, f"inputs[{index}]") for index, one in enumerate(given)]


def require_few(count: int) -> None:
    """Raise Invalid for more inputs than a request may have."""
    if count > MOST_INPUTS:
        raise Invalid(
            f"batch size {count} > maximum allowed batch size {MOST_INPUTS}; send fewer inputs at a time"
        )


def count_characters(inputs: list[AttendInput]) -> int:
    """Return how many characters the texts have; a token id counts as one, as it does there."""
    return sum(len(one.text if one.text is not None else _ids(one)) for one in inputs)


def _ids(one: AttendInput) -> Any:
    return one.token_ids if one.token_ids is not None else ()


def text_input(text: str, path: str) -> AttendInput:
    """Return a text as an input; raises Empty."""
    if not text:
        raise Empty(f"{EMPTY}; {path} is")
    return AttendInput(text=text)


def _input(one: Any, path: str) -> AttendInput:
    if isinstance(one, str):
        return text_input(one, path)
    if isinstance(one, list) and not one:
        raise Empty(f"{EMPTY}; {path} is")
    if not isinstance(one, list) or not is_ids(one):
        raise Invalid(f"{path} {KINDS}")
    return AttendInput(token_ids=ids_of(one, path))
