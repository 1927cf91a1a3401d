"""What `.npy` and safetensors bodies mean to Heed: one array or named tensors ↔ inputs and outputs.

`0.embeddings` is the field `embeddings` of the first input, `0.z` the output `z` of its answer. Options do
not travel here; callers give them in the query.
"""

import re
from typing import Any

import orjson
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire import npy, safetensors_format
from service.wire.buffers import gather
from service.wire.counts import MOST_SPANS
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.effort import spend
from service.wire.reply import Reply

ANSWER_US, TOKEN_US, SPAN_US = 1.0, 0.4, 0.1  # what one takes, in microseconds
_NAME = re.compile(r"(0|[1-9][0-9]{0,5})\.([a-z_]{1,64})", re.ASCII)


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

    Inputs are numbered from 0 without gaps. `spans`, whole numbers [N, 2], becomes a list.
    """
    inputs: dict[int, dict[str, Any]] = {}
    for name, array in safetensors_format.decode(body, reserve).arrays.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise Malformed(
                "tensors must be called <input>.<field>, such as 0.embeddings, 1.embeddings or 0.mask"
            )
        field = match[2]
        inputs.setdefault(int(match[1]), {})[field] = _spans(name, array) if field == "spans" else array
    if not inputs or max(inputs) >= len(inputs):
        raise Malformed("the tensors must belong to inputs numbered 0, 1, 2, … without gaps")
    return {"inputs": [inputs[place] for place in range(len(inputs))]}


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
    for a text 0.tokens, 0.offsets, 0.special and 0.spans, each a JSON list, and 0.truncated.
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
    arrays = {
        f"{place}.{name}": array
        for place, answer in enumerate(reply.answers)
        for name, array in answer.tensors.items()
    }
    return gather(safetensors_format.encode(arrays, metadata=metadata))
