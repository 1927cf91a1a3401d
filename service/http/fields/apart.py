"""Options that stand apart from the tensors of a request, edits among them: put to the inputs they are of.

In formats whose bodies are tensors, options are in the query, in `__metadata__` or among `parameters`. There
`edits` is the list of the one input, or an object with a list an input, `{"1": […]}`; the matrix that edit 3
of input 1 has for a value is the tensor `1.edits.3`.
"""

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from service.errors import Invalid, Malformed
from service.wire.counts import MOST_EDITS, MOST_EDITS_TOGETHER
from service.wire.effort import spend
from service.wire.names import quoted

EDIT_US = 1.0  # what one takes to be put to its input, in microseconds
NUMBER = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)
MATRIX = re.compile(rf"({NUMBER.pattern})\.edits\.({NUMBER.pattern})", re.ASCII)

Matrices = Mapping[tuple[int, int], NDArray[Any]]  # by the number of the input, and of the edit


def with_options(envelope: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an envelope with options that were given apart from it, every edit in its input.

    `matrices` of the envelope are those of its edits. Raises Invalid for edits given twice, of an input that
    is not there, or with a matrix among the options; Malformed for a matrix of no edit.
    """
    beside, apart = dict(envelope), dict(options)
    matrices: Matrices = beside.pop("matrices", {})
    given, also = beside.pop("edits", None), apart.pop("edits", None)
    if given is not None and also is not None:
        raise Invalid("edits are given twice, with the tensors and apart from them; give them once")
    whole = {**apart, **beside}
    lists = _lists(also if given is None else given, len(whole["inputs"]))
    for place, number in matrices:
        if number >= len(lists.get(place, ())):
            raise Malformed(
                f"the tensor {place}.edits.{number} is of an edit that is not there; say in edits, beside "
                "the tensors, what it is the value of"
            )
    if lists:
        whole["inputs"] = inputs = [dict(one) for one in whole["inputs"]]
        for place, edits in lists.items():
            inputs[place]["edits"] = _with_matrices(edits, place, matrices)
    return whole


def _lists(given: Any, count: int) -> dict[int, list[Any]]:
    """Return the edits of each input that has any, by its number; raises Invalid."""
    if given is None:
        return {}
    if isinstance(given, list):
        if count != 1:
            raise Invalid(
                f'edits is one list, and there are {count} inputs; give {{"0": […]}}, a list an input'
            )
        given = {"0": given}
    if not isinstance(given, dict):
        raise Invalid('edits must be a list of edits, or an object with such a list an input, {"0": […]}')
    found = {}
    for name, edits in given.items():
        if not NUMBER.fullmatch(name) or int(name) >= count:
            raise Invalid(f"edits has {quoted(name)}; the inputs are numbered from 0 to {count - 1}")
        if not isinstance(edits, list):
            raise Invalid(f"edits of input {name} must be a list")
        if len(edits) > MOST_EDITS:
            raise Invalid(f"inputs[{name}].edits has {len(edits)} items; give at most {MOST_EDITS}")
        found[int(name)] = edits
    if sum(map(len, found.values())) > MOST_EDITS_TOGETHER:
        raise Invalid(f"the inputs have over {MOST_EDITS_TOGETHER} edits together; send fewer at a time")
    return found


def _with_matrices(edits: list[Any], place: int, matrices: Matrices) -> list[Any]:
    """Return the edits of one input, each with its matrix where a tensor is that."""
    spend(EDIT_US * len(edits))
    found = []
    for number, edit in enumerate(edits):
        matrix = matrices.get((place, number))
        if isinstance(edit, dict):
            name, value = f"{place}.edits.{number}", edit.get("value")
            if isinstance(value, list):
                raise Invalid(
                    f"inputs[{place}].edits[{number}].value is a matrix among the options; send it as a "
                    f"tensor called {name}, or send the whole request as JSON"
                )
            if matrix is not None and value is not None:
                raise Invalid(f"the tensor {name} is the value of an edit that has one already; give one")
            edit = edit if matrix is None else {**edit, "value": matrix}
        found.append(edit)
    return found
