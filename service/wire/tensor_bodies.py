"""What `.npy` and safetensors bodies mean to Heed: one array or named tensors ↔ inputs and outputs.

`0.embeddings` is the field `embeddings` of the first input, `0.edits.3` the matrix of its fourth edit, `0.z`
the output `z` of its answer. Options do not travel here, but for edits, which may; they are in the query.
"""

import re
from typing import Any

import orjson
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire import json_format, npy, safetensors_format
from service.wire.buffers import gather
from service.wire.counts import MOST_SPANS
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.effort import spend
from service.wire.reply import Reply

ANSWER_US, TOKEN_US, SPAN_US = 1.0, 0.4, 0.1  # what one takes, in microseconds
_NAME = re.compile(r"(0|[1-9][0-9]{0,5})\.(?:([a-z_]{1,64})|edits\.(0|[1-9][0-9]{0,5}))", re.ASCII)
_EDITS = "edits"  # in `__metadata__`, as JSON


def npy_inputs(body: Buffer, reserve: Reserve = reserve_nothing) -> dict[str, Any]:
    """Return one input: integers are `token_ids`, other arrays `embeddings`; raises Malformed."""
    array = npy.decode(body, reserve)
    return {"inputs": [{"token_ids" if array.dtype.kind == "i" else "embeddings": array}]}


def npy_reply(reply: Reply) -> list[Buffer]:
    """Return the one output of the one input, as header and view."""
    (answer,) = reply.answers
    (array,) = answer.tensors.values()
    return gather(npy.encode(array))


def safetensors_inputs(body: Buffer, reserve: Reserve = reserve_nothing) -> dict[str, Any]:
    """Return the inputs that the tensors' names make, fields not checked; raises Malformed.

    Inputs are numbered from 0 without gaps. `spans`, whole numbers [N, 2], becomes a list. Beside them
    `matrices`, by the numbers of input and edit, and `edits` as `__metadata__` has them, where there are any.
    """
    body_tensors = safetensors_format.decode(body, reserve)
    inputs: dict[int, dict[str, Any]] = {}
    matrices: dict[tuple[int, int], NDArray[Any]] = {}
    for name, array in body_tensors.arrays.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise Malformed(
                "tensors must be called <input>.<field>, such as 0.embeddings, 1.embeddings or 0.mask, or "
                "<input>.edits.<number>"
            )
        place, field, number = int(match[1]), match[2], match[3]
        if number is not None:
            matrices[place, int(number)] = array
        else:
            inputs.setdefault(place, {})[field] = _spans(name, array) if field == "spans" else array
    if not inputs or max(inputs) >= len(inputs):
        raise Malformed("the tensors must belong to inputs numbered 0, 1, 2, … without gaps")
    envelope: dict[str, Any] = {"inputs": [inputs[place] for place in range(len(inputs))]}
    if matrices:
        envelope["matrices"] = matrices
    if _EDITS in body_tensors.metadata:
        text = body_tensors.metadata[_EDITS].encode()
        envelope["edits"] = json_format.decode_value(text, reserve, what="edits in __metadata__")
    return envelope


def _spans(name: str, array: NDArray[Any]) -> list[list[int]]:
    """Return spans as lists; raises Malformed before any is made where they are too many, or no spans."""
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != 2:
        raise Malformed(f"{name} has shape {list(array.shape)}; spans are whole numbers [N, 2]")
    if array.shape[0] > MOST_SPANS:
        raise Malformed(f"{name} has {array.shape[0]} spans; the limit is {MOST_SPANS}")
    spend(SPAN_US * len(array))
    found: list[list[int]] = array.tolist()
    return found


def safetensors_reply(reply: Reply) -> list[Buffer]:
    """Return every output of every input, as one header and a view each.

    What JSON has beside the tensors is in `__metadata__`: model, version, usage.sequences, usage.tokens, and
    for a text 0.tokens, 0.offsets, 0.special and 0.spans, each a JSON list, and 0.truncated; 0.next_tokens
    beside 0.next_ids, lists of its shape; where there were edits, 0.edited, which is true.
    """
    spend(TOKEN_US * sum(len(text.tokens) for text in reply.texts if text is not None))
    spend(ANSWER_US * len(reply.answers))
    metadata = {"usage.sequences": str(len(reply.answers)), "usage.tokens": str(reply.tokens)}
    if reply.model is not None:
        metadata |= {"model": reply.model, "version": reply.version or ""}
    for place, text in enumerate(reply.texts):
        if text is None:
            continue
        for name in ("tokens", "offsets", "special") if text.tokens else ():
            metadata[f"{place}.{name}"] = orjson.dumps(getattr(text, name)).decode()
        if text.truncated:
            metadata[f"{place}.truncated"] = str(text.truncated)
    for place, spans in enumerate(reply.spans):
        if spans is not None:
            metadata[f"{place}.spans"] = orjson.dumps(spans).decode()
    for place, words in enumerate(reply.next_tokens):
        if words is not None:
            metadata[f"{place}.next_tokens"] = orjson.dumps(words).decode()
    metadata |= {f"{place}.edited": "true" for place, edited in enumerate(reply.edited) if edited}
    arrays = {
        f"{place}.{name}": array
        for place, answer in enumerate(reply.answers)
        for name, array in answer.tensors.items()
    }
    return gather(safetensors_format.encode(arrays, metadata=metadata))
