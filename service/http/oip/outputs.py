"""Answers as the protocol's outputs: a batch padded to one shape, tokens and predicted words as strings."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.outputs import DTYPES, OUTPUTS
from models.protocol import Answer, Item, Text
from models.shapes import shape_of
from service.errors import Invalid, TooLarge
from service.http.oip.tensors import Plan
from service.wire.effort import spend
from service.wire.oip_tensor import Tensor

PADDED_US, STRING_US = 2.0, 0.3  # what one takes, in microseconds


def check_reply(plan: Plan, items: Sequence[Item], *, max_result_bytes: int) -> int:
    """Return how many bytes of padded copies there will be, before any compute.

    Raises Invalid for what JSON cannot carry, TooLarge for padding over the limit.
    """
    selection, card = items[0].selection, items[0].card
    if plan.asks("next_tokens") and card is not None and "text" not in card.inputs:
        raise Invalid(f"next_tokens spells tokens, and model {card.name} takes no text; ask for next_ids")
    if selection.dtype != "float32" and not all(output.binary for output in plan.outputs):
        raise Invalid(f"{selection.dtype} travels in binary only; set binary_data_output, or ask for float32")
    if not plan.batched:
        return 0
    size = sum(
        math.prod((len(items), *_padded_shape(name, items)))
        * (4 if OUTPUTS[name].dtype == "int32" else DTYPES[selection.dtype])
        for name in selection.outputs
    )
    if size > max_result_bytes:
        raise TooLarge(
            f"the padded result would be {size} bytes, the limit is {max_result_bytes}; ask for fewer "
            "outputs, layers, heads or rows, send sequences of like lengths together, or use /v1, which does "
            "not pad",
            code="result_too_large",
        )
    return size


def reply_tensors(
    plan: Plan,
    items: Sequence[Item],
    answers: Sequence[Answer],
    texts: Sequence[Text | None],
    words: Sequence[Any],
) -> list[tuple[Tensor, bool]]:
    """Return the outputs in the order asked, each with whether it is to be binary; zeros pad a batch.

    `words` are `next_ids` spelt, where they are asked for.
    """
    spend(PADDED_US * len(plan.outputs) * len(answers))
    made: list[tuple[Tensor, bool]] = []
    for output, names in zip(plan.outputs, plan.names, strict=True):
        if output.name == "lengths":
            lengths = np.array([item.input.queries for item in items], dtype=np.int32)
            made.append((Tensor("lengths", lengths), output.binary))
        elif output.name == "tokens":
            made.append((_tokens(texts, batched=plan.batched), output.binary))
        elif output.name == "next_tokens":
            made.append((_words(words, batched=plan.batched), output.binary))
        else:
            for name in names:
                arrays = [answer.tensors[name] for answer in answers]
                made.append((Tensor(name, _padded(arrays) if plan.batched else arrays[0]), output.binary))
    return made


def _padded_shape(name: str, items: Sequence[Item]) -> tuple[int, ...]:
    """Return the smallest shape that holds every item's output."""
    shapes = {shape_of(name, item.selection, item.dims) for item in items}
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _padded(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays of one rank stacked, zeros where they end; a view where there is one."""
    if len(arrays) == 1:
        return arrays[0][None]
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    batch = np.zeros((len(arrays), *shape), dtype=arrays[0].dtype)
    for place, array in enumerate(arrays):
        batch[place][tuple(slice(size) for size in array.shape)] = array
    return batch


def _tokens(texts: Sequence[Text | None], *, batched: bool) -> Tensor:
    """Return the tokens of every text, [T] or [B, T]."""
    return _strings("tokens", [text.tokens for text in texts if text is not None], batched=batched)


def _words(words: Sequence[Any], *, batched: bool) -> Tensor:
    """Return the words of `next_ids`, of its shape, an empty one for an id that is none."""
    return _strings("next_tokens", words, batched=batched)


def _strings(name: str, strings: Sequence[Any], *, batched: bool) -> Tensor:
    """Return nested lists of strings, one a sequence, as one tensor; empty ones pad a batch."""
    arrays: list[NDArray[Any]] = [np.array(of_one, dtype=object) for of_one in strings]
    spend(STRING_US * sum(array.size for array in arrays))
    shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    whole = np.full((len(arrays), *shape), "", dtype=object)
    for place, array in enumerate(arrays):
        whole[place][tuple(slice(size) for size in array.shape)] = array
    flat = tuple((string or "").encode() for string in whole.reshape(-1).tolist())
    return Tensor(name, None, flat, whole.shape if batched else shape)
